"""kill -9 at any moment: the books hold, and nothing that was acknowledged is lost.

Beside the wallets' charges there are budgets, slices, renewals and Idempotency-Keys under way.
"""

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from postgres_kit import cluster
from store_crash_kit import FAULTS

KIT = Path(__file__).with_name("store_crash_kit.py")
AT_ONCE = 2


def _start(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(KIT), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _counted(program: subprocess.Popen[str], timeout_s: float) -> Counter[str]:
    try:
        told, complaint = program.communicate(timeout=timeout_s)
    finally:
        program.kill()
    assert (program.returncode, complaint) == (0, "")
    total: Counter[str] = Counter(json.loads(told))
    assert {name: total[name] for name in FAULTS} == dict.fromkeys(FAULTS, 0)
    return total


def _kill(places: list[str], kills: int) -> None:
    """So many kills that met an open hold, by as many programs as there are places."""
    seed = int(os.environ.get("MOONGATE_TEST_SEED") or random.randrange(10**9))
    print(f"seed {seed}")
    began = time.monotonic()
    programs = [
        _start("kills", place, str(kills // len(places)), str(seed + n))
        for n, place in enumerate(places)
    ]
    total = sum((_counted(program, 120 + 2 * kills) for program in programs), Counter[str]())
    print(f"{time.monotonic() - began:.1f} s: {dict(total)}; no fault of {', '.join(FAULTS)}")
    assert total["met"] == kills  # kills that met an open hold; the others do not count
    assert total["holds_recovered"] >= kills
    assert min(total["slices_acknowledged"], total["settles_acknowledged"]) >= kills


@pytest.mark.parametrize("kills", [1_000, pytest.param(10_000, marks=pytest.mark.full)])
def test_kills_that_met_an_open_hold(tmp_path: Path, kills: int) -> None:
    folders = [tmp_path / str(n) for n in range(AT_ONCE)]
    for folder in folders:
        folder.mkdir()
    _kill([str(folder) for folder in folders], kills)


@pytest.mark.postgres
@pytest.mark.parametrize("kills", [100, pytest.param(1_000, marks=pytest.mark.full)])
def test_kills_that_met_an_open_hold_on_postgresql(kills: int) -> None:
    _kill([cluster().url("postgres")] * AT_ONCE, kills)


@pytest.mark.parametrize("together", [1, 6])
def test_an_end_at_each_statement_and_each_write_of_every_move(
    tmp_path: Path, together: int
) -> None:
    total = _counted(_start("steps", str(tmp_path), str(together)), 300)
    print(f"{total['steps']} steps, {total['met']} of them met an open hold; no fault")
    assert total["steps"] >= 100
    assert total["met"] >= 50
