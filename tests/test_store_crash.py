"""kill -9 at any moment: the books hold, and nothing that was acknowledged is lost."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

KIT = Path(__file__).with_name("store_crash_kit.py")


FAULTS = ("findings", "holds_lost", "settles_lost", "recovery_wrong", "held_after")


def _run(folder: Path, what: str, timeout_s: int) -> dict[str, int]:
    seed = int(os.environ.get("MOONGATE_TEST_SEED") or random.randrange(10**9))
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(KIT), str(folder), what, str(seed)],
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    assert done.returncode == 0, f"seed {seed}: {done.stderr}"
    total: dict[str, int] = json.loads(done.stdout)
    print(f"seed {seed}, {time.monotonic() - began:.1f} s: {total}")
    assert {name: total[name] for name in FAULTS} == dict.fromkeys(FAULTS, 0), f"seed {seed}"
    assert done.stderr == ""
    return total


def _kill(folder: Path, kills: int) -> None:
    total = _run(folder, str(kills), 60 + kills)
    assert total["kills"] == kills
    assert total["kills_with_open_holds"] >= 0.8 * kills
    assert total["settles_acknowledged"] >= kills


def test_200_kills(tmp_path: Path) -> None:
    _kill(tmp_path, 200)


@pytest.mark.full
def test_10_000_kills(tmp_path: Path) -> None:
    _kill(tmp_path, 10_000)


def test_an_end_before_each_statement_and_each_write(tmp_path: Path) -> None:
    total = _run(tmp_path, "steps", 300)
    assert total["statements"] >= 40
    assert total["writes"] >= 40
    assert total["kills_with_open_holds"] >= total["kills"] // 3
    assert total["settles_acknowledged"] >= total["kills"]
