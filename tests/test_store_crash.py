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


def _kill(folder: Path, kills: int) -> None:
    seed = int(os.environ.get("MOONGATE_TEST_SEED") or random.randrange(10**9))
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(KIT), str(folder), str(kills), str(seed)],
        capture_output=True,
        text=True,
        timeout=60 + kills,
    )
    assert done.returncode == 0, f"seed {seed}: {done.stderr}"
    total = json.loads(done.stdout)
    print(f"seed {seed}, {time.monotonic() - began:.1f} s: {total}")
    assert total["kills"] == kills
    assert total["kills_with_open_holds"] >= 0.8 * kills
    assert total["settles_acknowledged"] >= kills
    faults = ("findings", "holds_lost", "settles_lost", "recovery_wrong", "held_after")
    assert {name: total[name] for name in faults} == dict.fromkeys(faults, 0)
    assert done.stderr == ""


def test_200_kills(tmp_path: Path) -> None:
    _kill(tmp_path, 200)


@pytest.mark.full
def test_10_000_kills(tmp_path: Path) -> None:
    _kill(tmp_path, 10_000)
