"""Large prompts: what the gateway adds to one, and what the streams beside it feel.

    .venv/bin/python bench/context.py [--rounds 3] [--seconds 4] [--streams 100]

A prompt of a megabyte (source code) is sent to the origin and through Moongate in turn: what is
added to it. Meanwhile, and beside bodies of 20 MB with one picture and with thirty, other streams
run through the same gateway; a token's delay is the clock at arrival less the clock that the origin
wrote into it. The large bodies go to an origin of their own, so that they are not felt there. Exits
with 1 when a bound is missed.
"""

import argparse
import json
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

import servers
from servers import Server

PROMPT = 1_000_000
IMAGE = 20_000_000
PICTURES = 30
ADDED_MS = 5.0
GROWTH_MS = 20.0
STALL_MS = 50.0
WARM_S = 2.5
PACED_TOKENS_PER_S = 10

CONFIG = """
[[upstreams]]
name = "paced"
kind = "openai"
base_url = "{paced}"
data_policy = "self-hosted"
concurrency_max = 2000

[[upstreams]]
name = "large"
kind = "openai"
base_url = "{large}"
data_policy = "self-hosted"

[[models]]
id = "{model}"
window = 4096
abilities = []
targets = [{{ upstream = "paced", model = "{model}" }}]
price = {{ input = "0.48", cached = "0.10", output = "2.00" }}

[[models]]
id = "small"
window = 262144
abilities = ["images"]
targets = [{{ upstream = "large", model = "small" }}]
price = {{ input = "0.48", cached = "0.10", output = "2.00" }}
"""
Figures = dict[str, float]


def begin(kind: str, target: Server, model: str, *words: object) -> subprocess.Popen[str]:
    """One load against one target, in a process of its own."""
    command = [sys.executable, servers.BENCH / "load.py", kind, target.url, target.key, model]
    return subprocess.Popen([*command, *map(str, words)], stdout=subprocess.PIPE, text=True)


def figures(process: subprocess.Popen[str]) -> Figures:
    """What the load found, when it is over."""
    told, _ = process.communicate()
    if process.returncode:
        sys.exit("a load failed")
    found: Figures = json.loads(told)
    if found["faults"]:
        sys.exit(f"{found['faults']:.0f} requests of a load failed: {found}")
    return found


class Bench:
    """The servers, and the rounds against them."""

    def __init__(self, options: argparse.Namespace, large: Server, gate: Server) -> None:
        self.options, self.large, self.gate = options, large, gate
        tokens = int((options.seconds + WARM_S + 1) * PACED_TOKENS_PER_S)
        self.model = f"paced-{tokens}"

    def alone(self, target: Server, *size: object) -> Figures:
        """Large requests one after another, nothing beside them."""
        words = ("--connections", 1, "--seconds", self.options.seconds, *size)
        before_s = servers.cpu_s(target.process.pid)
        found = figures(begin("small", target, "small", *words))
        took_s = servers.cpu_s(target.process.pid) - before_s
        return found | {"cpu_ms": round(1000 * took_s / found["count"], 2)}

    def beside(self, target: Server | None, *size: object) -> Figures:
        """Streams through the gateway, while large requests go to ``target``."""
        streams = ("--connections", self.options.streams)
        paced = begin("paced", self.gate, self.model, *streams)
        time.sleep(WARM_S)
        if target is not None:
            sent = self.alone(target, *size)["count"]
        return figures(paced) | {"large": sent if target is not None else 0, "cpu_ms": 0}

    def round(self) -> dict[str, Figures]:
        """Every figure once."""
        code, image = ("--code", PROMPT), ("--image", IMAGE)
        images = (*image, "--pictures", PICTURES)
        return {
            "1 MB prompt, direct": self.alone(self.large, *code),
            "1 MB prompt": self.alone(self.gate, *code),
            "20 MB picture, direct": self.alone(self.large, *image),
            "20 MB picture": self.alone(self.gate, *image),
            "streams": self.beside(None),
            "streams, 1 MB prompts to the origin": self.beside(self.large, *code),
            "streams beside 1 MB prompts": self.beside(self.gate, *code),
            "streams, 20 MB pictures to the origin": self.beside(self.large, *image),
            "streams beside 20 MB pictures": self.beside(self.gate, *image),
            "streams, 30 pictures of 20 MB to the origin": self.beside(self.large, *images),
            "streams beside 30 pictures of 20 MB": self.beside(self.gate, *images),
        }


def judged(sums: dict[str, Figures]) -> list[tuple[str, float, float]]:
    """What is promised: words, milliseconds found, milliseconds at most."""

    def more(what: str, than: str, figure: str, of: str = "") -> float:
        return (sums[what][figure] - sums[than][of or figure]) / 1000

    prompts, pictures = "1 MB prompts", "20 MB pictures"
    thirty = f"{PICTURES} pictures of 20 MB"
    return [
        (
            "added to a 1 MB prompt, p50",
            more("1 MB prompt", "1 MB prompt, direct", "p50_us"),
            ADDED_MS,
        ),
        (
            f"other streams beside {prompts}, p99 grows by",
            more(f"streams beside {prompts}", f"streams, {prompts} to the origin", "p99_us"),
            GROWTH_MS,
        ),
        (
            f"other streams beside {pictures}, longest delay grows by",
            more(f"streams beside {pictures}", f"streams, {pictures} to the origin", "max_us"),
            STALL_MS,
        ),
        (
            f"other streams beside {thirty}, p99 grows by",
            more(f"streams beside {thirty}", f"streams, {thirty} to the origin", "p99_us"),
            STALL_MS,
        ),
    ]


def show(sums: dict[str, Figures]) -> bool:
    """Print what was found; whether every bound is kept."""
    table = Table(title="Medians over the rounds")
    for column in ("", "count", "p50 ms", "p99 ms", "longest ms", "CPU ms"):
        table.add_column(column, justify="left" if not column else "right")
    for name, found in sums.items():
        times = [f"{found[key] / 1000:.2f}" for key in ("p50_us", "p99_us", "max_us")]
        cpu = f"{found['cpu_ms']:.1f}" if found["cpu_ms"] else ""
        table.add_row(name, f"{found['count']:.0f}", *times, cpu)
    Console().print(table)
    kept = True
    for what, found_ms, bound_ms in judged(sums):
        fits = found_ms <= bound_ms
        kept = kept and fits
        word = "kept" if fits else "MISSED"
        print(f"{what}: {found_ms:.2f} ms, at most {bound_ms:.1f} ms: {word}")
    return kept


def main() -> None:
    """Start everything, measure, print, write."""
    parser = argparse.ArgumentParser(description="Measures large prompts.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of large requests a round")
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--json", type=Path, default=servers.RESULTS / "context.json")
    options = parser.parse_args()
    with ExitStack() as stack:
        scratch = stack.enter_context(servers.folder())
        fsync_us = servers.fsync_us(scratch)
        print(f"fsync here: {fsync_us:.0f} us (median), {servers.file_system(scratch)}")
        paced, large = (stack.enter_context(servers.origin()) for _ in range(2))
        bench = Bench(options, large, large)
        config = CONFIG.format(paced=paced.url, large=large.url, model=bench.model)
        bench.gate = stack.enter_context(servers.moongate(scratch, config))
        servers.add_credit(bench.gate, 100_000)
        rounds = []
        for number in range(options.rounds):
            rounds.append(bench.round())
            print(f"round {number + 1} of {options.rounds} done", flush=True)
        rss_mb = servers.rss_mb(bench.gate.process.pid)
    sums = {
        name: {key: median(one[name][key] for one in rounds) for key in rounds[0][name]}
        for name in rounds[0]
    }
    kept = show(sums)
    print(f"Moongate's memory in the end: {rss_mb} MB")
    result = {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "fsync_us": fsync_us,
        "rss_mb": rss_mb,
        "kept": kept,
        "medians": sums,
        "rounds": rounds,
    }
    options.json.write_text(json.dumps(result, indent=1))
    print(f"written to {options.json}")
    sys.exit(not kept)


if __name__ == "__main__":
    main()
