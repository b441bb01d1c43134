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
    told, complaint = program.communicate(timeout=timeout_s)
    assert (program.returncode, complaint) == (0, "")
    total: Counter[str] = Counter(json.loads(told))
    assert {name: total[name] for name in FAULTS} == dict.fromkeys(FAULTS, 0)
    return total


def _kill(folder: Path, kills: int) -> None:
    seed = int(os.environ.get("MOONGATE_TEST_SEED") or random.randrange(10**9))
    print(f"seed {seed}")
    began = time.monotonic()
    programs = []
    for n in range(AT_ONCE):
        folder.joinpath(str(n)).mkdir()
        words = ("kills", str(folder / str(n)), str(kills // AT_ONCE), str(seed + n))
        programs.append(_start(*words))
    total = sum((_counted(program, 60 + kills) for program in programs), Counter[str]())
    print(f"{time.monotonic() - began:.1f} s: {dict(total)}; no fault of {', '.join(FAULTS)}")
    assert total["met"] == kills  # kills that met an open hold; the others do not count
    assert total["holds_recovered"] >= kills
    assert min(total["slices_acknowledged"], total["settles_acknowledged"]) >= kills


def test_1_000_kills_that_met_an_open_hold(tmp_path: Path) -> None:
    _kill(tmp_path, 1_000)


@pytest.mark.full
def test_10_000_kills_that_met_an_open_hold(tmp_path: Path) -> None:
    _kill(tmp_path, 10_000)


@pytest.mark.parametrize("together", [1, 6])
def test_an_end_at_each_statement_and_each_write_of_every_move(
    tmp_path: Path, together: int
) -> None:
    total = _counted(_start("steps", str(tmp_path), str(together)), 300)
    print(f"{total['steps']} steps, {total['met']} of them met an open hold; no fault")
    assert total["steps"] >= 100
    assert total["met"] >= 50
