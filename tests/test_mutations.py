"""Guards that are taken away are missed: scripts/mutations.py on a few, and on all with `full`."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "scripts" / "mutations.py", *words],
        capture_output=True,
        text=True,
        timeout=1_800,
    )


def test_a_few_guards_are_missed() -> None:
    done = run("settle, SQLite", "cover", "key of a route")
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 of 3" in done.stdout


def test_a_word_that_names_none_is_no_success() -> None:
    assert run("no such guard").returncode == 1


@pytest.mark.full
@pytest.mark.postgres
def test_every_guard_is_missed() -> None:
    done = run()
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
