"""The gateway beside nginx, in the same run, under the same load.

    .venv/bin/python bench/gateway.py [--rounds 3] [--seconds 5] [--streams 1000] [--tokens 100]

Small unstreamed requests a second, and paced streams: what each adds to a token's way. Direct,
nginx and Moongate take turns; what is compared are medians over the rounds.
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

FIGURES = ("per_s", "p50_us", "p99_us", "faults")
Rounds = dict[str, list[dict[str, float]]]


def drive(
    kind: str, target: Server, model: str, connections: int, seconds: float
) -> dict[str, float]:
    """One load against one target, from a process of its own."""
    command = [sys.executable, servers.BENCH / "load.py", kind, target.url, target.key, model]
    command += ["--connections", str(connections), "--seconds", str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def measure(targets: dict[str, Server], options: argparse.Namespace) -> dict[str, Rounds]:
    """Interleave the targets, round by round."""
    loads = {
        "small": ("small", options.connections, options.seconds),
        "paced": (f"paced-{options.tokens}", options.streams, 0.0),
    }
    found: dict[str, Rounds] = {kind: {name: [] for name in targets} for kind in loads}
    for number in range(options.rounds):
        for kind, (model, connections, seconds) in loads.items():
            for name, target in targets.items():
                figures = drive(kind, target, model, connections, seconds)
                figures["rss_mb"] = servers.rss_mb(target.process.pid)
                found[kind][name].append(figures)
                print(f"round {number + 1} {kind:>5} {name:>8}: {figures}", flush=True)
    return found


def show(found: dict[str, Rounds]) -> dict[str, dict[str, dict[str, float]]]:
    """Print a table of medians, and return them."""
    sums = {
        kind: {
            name: {key: median(r[key] for r in rounds) for key in (*FIGURES, "rss_mb")}
            for name, rounds in by_name.items()
        }
        for kind, by_name in found.items()
    }
    for kind, by_name in sums.items():
        direct = by_name["direct"]
        table = Table(title={"small": "Small unstreamed requests", "paced": "Paced streams"}[kind])
        for column in ("", "/s", "p50 ms", "p99 ms", "added p50", "added p99", "RSS MB", "faults"):
            table.add_column(column, justify="right")
        for name, figures in by_name.items():
            times = [figures["p50_us"], figures["p99_us"]]
            times += [times[0] - direct["p50_us"], times[1] - direct["p99_us"]]
            cells = [f"{value / 1000:.2f}" for value in times]
            rest = [f"{figures['rss_mb']:.0f}", f"{figures['faults']:.0f}"]
            table.add_row(name, f"{figures['per_s']:.0f}", *cells, *rest)
        Console().print(table)
    ratio = sums["small"]["moongate"]["per_s"] / sums["small"]["nginx"]["per_s"]
    print(f"Moongate serves {ratio:.2f} of nginx's small requests a second.")
    return sums


def main() -> None:
    """Start everything, measure, print, write."""
    parser = argparse.ArgumentParser(description="Measures the gateway beside nginx.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of small requests a round")
    parser.add_argument("--connections", type=int, default=16, help="for small requests")
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=100, help="a paced stream; ten a second")
    parser.add_argument("--json", type=Path, default=servers.RESULTS / "gateway.json")
    options = parser.parse_args()
    with ExitStack() as stack:
        scratch = stack.enter_context(servers.folder())
        fsync_us = servers.fsync_us(scratch)
        print(f"fsync here: {fsync_us:.0f} us (median), {servers.file_system(scratch)}")
        origin = stack.enter_context(servers.origin())
        proxy = stack.enter_context(servers.nginx(origin, scratch))
        names = ("small", f"paced-{options.tokens}")
        config = servers.CONFIG.format(origin=origin.url.split(":")[2].split("/")[0])
        config += "".join(servers.MODEL.format(id=name) for name in names)
        gate = stack.enter_context(servers.moongate(scratch, config))
        servers.add_credit(gate, 1000)
        at_rest_mb = servers.rss_mb(gate.process.pid)
        found = measure({"direct": origin, "nginx": proxy, "moongate": gate}, options)
    sums = show(found)
    print(f"Moongate at rest, before the load: {at_rest_mb} MB")
    result = {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "fsync_us": fsync_us,
        "rss_at_rest_mb": at_rest_mb,
        "medians": sums,
        "rounds": found,
    }
    options.json.write_text(json.dumps(result, indent=1))
    print(f"written to {options.json}")


if __name__ == "__main__":
    main()
