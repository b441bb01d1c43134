"""Schemas held by the embedded engine: what share of answers finishes, and how fast.

    .venv/bin/python bench/structured.py [--schemas 40] [--seed 1] [--home DIR]

Every schema of the tests (or so many of them) as a forced tool and as json_schema, streamed and
not, 256 tokens each, four at a time, against a server of its own. Answers that did not finish are
listed by name. ``--home`` takes the model file from a home folder that has it.
"""

import argparse
import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.table import Table

import servers

sys.path.insert(0, str(servers.BENCH.parent / "tests"))
import engine_battery
import engine_schemas
import live_kit
from engine_battery import Told


def show(console: Console, told: list[Told], seconds: float) -> None:
    """A table of groups, and what did not finish."""
    groups: dict[str, list[Told]] = defaultdict(list)
    for one in told:
        groups[one.name.partition(":")[0]].append(one)
    table = Table("schemas", "answers", "finished", "valid of these", "seconds each", "tokens/s")
    for name, some in [*groups.items(), ("all", told)]:
        finished = [one for one in some if one.finished]
        busy_s = sum(one.took_s for one in some)
        table.add_row(
            f"{name} ({len({one.name for one in some})})",
            str(len(some)),
            f"{len(finished) / len(some):.1%}",
            f"{sum(not one.fault for one in finished) / max(1, len(finished)):.1%}",
            f"{busy_s / len(some):.2f}",
            f"{sum(one.tokens for one in some) / busy_s:.0f}",
        )
    console.print(table)
    console.print(f"{len(told)} answers in {seconds:.0f} s, four at a time")
    for one in told:
        if one.fault or not one.finished:
            console.print(f"{one.name} ({one.way}): {one.fault or 'did not finish'}", markup=False)


def main() -> None:
    """Run it."""
    read = argparse.ArgumentParser(description=__doc__)
    read.add_argument("--schemas", type=int, default=0, help="so many of them; 0: all")
    read.add_argument("--seed", type=int, default=1)
    read.add_argument("--home", type=Path, default=None)
    options = read.parse_args()
    cases = engine_battery.every()
    if options.schemas:
        names = {name for name, _ in engine_battery.rotated(options.schemas, options.seed)}
        cases = [case for case in cases if case[0] in names]
    with tempfile.TemporaryDirectory(prefix="mg-") as folder:
        home = Path(folder) / "home"
        home.mkdir(mode=0o700)
        if options.home:
            (home / "models").symlink_to((options.home / "models").resolve())
        with live_kit.running(home) as live, ThreadPoolExecutor(4) as threads:
            began = time.monotonic()
            told = list(threads.map(lambda c: engine_battery.ask(live.url, live.key, c), cases))
            seconds = time.monotonic() - began
    show(Console(width=110), told, seconds)
    print(f"{len(engine_schemas.ALL)} schemas are there")


if __name__ == "__main__":
    main()
