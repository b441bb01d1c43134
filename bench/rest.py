"""Moongate at rest, its start, and what it adds to its own engine's time.

    .venv/bin/python bench/rest.py [--requests 15] [--home DIR]

Three figures and their bounds: resident memory of the gateway without the engine (80 MB), start to
ready (2 s, the model file in place), and what stands between a client's 200 tokens and the engine's
own time for them (5 ms + 2 x the fsync of the same run).
"""

import argparse
import asyncio
import json
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import uvloop

import servers
from moongate.app.application import Application
from moongate.home import Home
from moongate.settings import load

RSS_MB_MAX = 80
READY_S_MAX = 2.0
ADDED_MS_MAX = 5.0
PROMPT = "Tell a long story about a lighthouse and the sea."


def at_rest(scratch: Path) -> dict[str, float]:
    """Resident memory and time to ready of a gateway that has an HTTP upstream."""
    with servers.origin() as origin:
        port = origin.url.split(":")[2].split("/")[0]
        config = servers.CONFIG.format(origin=port) + servers.MODEL.format(id="small")
        ready = []
        for _ in range(4):  # the first makes the home, the rest are starts as on any day
            with servers.moongate(scratch, config) as gate:
                ready.append(gate.ready_s)
                time.sleep(1)
                rss_mb = servers.rss_mb(gate.process.pid)
    return {"rss_mb": rss_mb, "first_ready_s": ready[0], "ready_s": median(ready[1:])}


def with_engine(scratch: Path) -> dict[str, float]:
    """The same with the embedded engine, its model file in place."""
    ready = []
    for _ in range(3):
        with servers.moongate(scratch, None) as gate:
            ready.append(gate.ready_s)
            whole_mb = servers.rss_mb(gate.process.pid)
    return {"engine_ready_s": median(ready), "with_engine_rss_mb": whole_mb}


class Relay:
    """The relay's process, and its answers."""

    def __init__(self, engine: str) -> None:
        port = engine.rsplit(":", 1)[1]
        self.process = subprocess.Popen(
            [sys.executable, servers.BENCH / "relay.py", port],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.address = f"http://127.0.0.1:{self._line()}"

    def _line(self) -> int:
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())

    def spent_us(self) -> int:
        """The engine's time since the last question."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self._line()

    def close(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(10)


async def added(scratch: Path, requests: int) -> dict[str, Any]:
    """Ask for 200 tokens again and again; the client's time less the engine's, for each."""
    told: list[dict[str, Any]] = []
    settings = load(None, {}).with_server(port=0)
    home = Home(scratch / "home")
    app = Application(settings, home, told.append)
    await app.start()
    try:
        key = (scratch / "home" / "bench-key").read_text()
        url = next(event["api"] for event in told if event["event"] == "ready")
        engine = app.upstreams["embedded"]
        relay = Relay(engine.address)
        engine._process.address = relay.address  # noqa: SLF001 - a seam for this measurement only
        rows = []
        for number in range(requests + 2):
            relay.spent_us()
            figures = await asyncio.to_thread(ask, url, key, f"{PROMPT} Number {number}.")
            spent_us = relay.spent_us()
            if number >= 2:  # the first two warm up
                rows.append({**figures, "engine_us": spent_us})
                rows[-1]["added_us"] = figures["p50_us"] - spent_us
        relay.close()
    finally:
        await app.close()
    extra = sorted(row["added_us"] for row in rows)
    return {"added_ms": median(extra) / 1000, "worst_ms": extra[-1] / 1000, "requests": rows}


def ask(url: str, key: str, prompt: str) -> dict[str, float]:
    """One unstreamed request for 200 tokens, from a process of its own."""
    command = [sys.executable, servers.BENCH / "load.py", "small", url, key, "kimi-k2.5"]
    command += ["--connections", "1", "--seconds", "0", "--tokens", "200", "--prompt", prompt]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def main() -> None:
    """Measure, print, write; the exit code says whether the bounds hold."""
    parser = argparse.ArgumentParser(description="Measures Moongate at rest.")
    parser.add_argument("--requests", type=int, default=15)
    parser.add_argument("--home", type=Path, help="take the model file from this home folder")
    parser.add_argument("--json", type=Path, default=servers.RESULTS / "rest.json")
    options = parser.parse_args()
    with ExitStack() as stack:
        quiet, busy = (stack.enter_context(servers.folder()) for _ in range(2))
        fsync_us = servers.fsync_us(quiet)
        print(f"fsync here: {fsync_us:.0f} us (median), {servers.file_system(quiet)}", flush=True)
        figures: dict[str, Any] = {"fsync_us": fsync_us, **at_rest(quiet)}
        if options.home is not None:
            shutil.copytree(options.home / "models", busy / "home" / "models")
            (busy / "home").chmod(0o700)
        else:
            print("fetching the embedded model, once", flush=True)
            with servers.moongate(busy, None):
                pass
        figures |= with_engine(busy)
        figures |= uvloop.run(added(busy, options.requests))
    allowed_ms = ADDED_MS_MAX + 2 * fsync_us / 1000
    rows = [
        ("gateway at rest, no engine", figures["rss_mb"], RSS_MB_MAX, "MB"),
        ("start to ready, no engine", figures["ready_s"], READY_S_MAX, "s"),
        ("start to ready, with the engine", figures["engine_ready_s"], READY_S_MAX, "s"),
        ("added to the engine's 200 tokens", figures["added_ms"], allowed_ms, "ms"),
    ]
    for what, value, bound, unit in rows:
        verdict = "holds" if value <= bound else "BROKEN"
        print(f"{what:<34}{value:>8.2f} {unit:<3} of {bound:.2f} allowed: {verdict}")
    print(f"with the engine: {figures['with_engine_rss_mb']} MB in all")
    options.json.write_text(json.dumps(figures, indent=1))
    print(f"written to {options.json}")
    sys.exit(0 if all(value <= bound for _, value, bound, _ in rows) else 1)


if __name__ == "__main__":
    main()
