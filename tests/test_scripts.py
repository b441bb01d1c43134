"""The two commands, on machines that lack things: everything around them is a stand-in."""

import os
import shutil
import subprocess
import sys

import pytest

from live_kit import ROOT

CHECKS = [sys.executable, ROOT / "scripts" / "checks.py"]
OTHERS = ["--without=format", "--without=lint", "--without=types"]
OTHERS += ["--without=node", "--without=engine", "--without=redis", "--without=postgres"]
QUICK = "tests/test_scripts.py::test_an_unknown_part_is_wrong_use"

# Imports every module as if only the packages of the lock (1) were installed; says how many.
ALONE = r"""
import importlib, importlib.machinery, pkgutil, re, sys
from importlib.metadata import packages_distributions

def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()

with open(sys.argv[1], encoding="utf-8") as lock:
    locked = {plain(name) for name in re.findall(r"^([A-Za-z0-9._-]+)==", lock.read(), re.M)}
absent = {top for top, of in packages_distributions().items() if not locked & {*map(plain, of)}}

class Finder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name in absent else super().find_spec(name, path, target)

real = sys.meta_path.index(importlib.machinery.PathFinder)
sys.path.insert(0, sys.argv[2])
absent.discard("moongate")
sys.meta_path[real] = Finder
import moongate

names = [found.name for found in pkgutil.walk_packages(moongate.__path__, "moongate.")]
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
print(len(names))
"""


@pytest.fixture
def house(tmp_path):
    """A copy of what scripts/serve reads, in a path with a space, with its own PATH in front."""
    root = tmp_path / "a house"
    shutil.copytree(ROOT / "scripts", root / "scripts")
    shutil.copytree(ROOT / "requirements", root / "requirements")
    (root / "src" / "moongate").mkdir(parents=True)
    (root / "src" / "moongate" / "__init__.py").write_text('__version__ = "1"\n')
    (root / "bin").mkdir()
    return root


def program(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def serve(house, *words, **env):
    return subprocess.run(
        [house / "scripts" / "serve", *words],
        cwd=house.parent,
        env={"PATH": f"{house / 'bin'}{os.pathsep}/usr/bin:/bin", **env},
        capture_output=True,
        text=True,
        timeout=60,
    )


def lacking(house, user):
    """A machine without venv and libgomp, where apt does not help."""
    program(house / "bin" / "id", f"echo {user}")
    program(house / "bin" / "uname", "echo Linux")
    program(house / "bin" / "apt-get", 'echo "apt $*" >&2; exit 1')
    answer = 'case "$2" in *ensurepip*|*libgomp*) exit 1;; *print*) echo python3.11-venv;; esac'
    return str(program(house / "bin" / "new python", answer))


def test_an_old_python_is_named(house):
    done = serve(house, PYTHON=str(program(house / "bin" / "old", "echo Python 3.9.1; exit 1")))
    assert done.returncode == 1
    assert "Python 3.11 or newer is needed; found: Python 3.9.1" in done.stderr


def test_a_user_is_told_the_exact_command(house):
    done = serve(house, PYTHON=lacking(house, 1000))
    assert done.returncode == 1
    assert "apt-get install -y python3.11-venv libgomp1\n" in done.stderr
    assert "apt update" not in done.stderr


def test_root_has_apt_do_it_and_hears_when_it_failed(house):
    done = serve(house, PYTHON=lacking(house, 0))
    assert done.returncode == 1
    assert "apt update" in done.stderr
    assert "apt could not install: python3.11-venv libgomp1" in done.stderr


def test_a_second_start_runs_at_once_with_the_words_given(house):
    venv = house / ".venv"
    program(venv / "bin" / "moongate", 'printf "%s|" "$@"')
    program(venv / "bin" / "python", "exit 1")
    code = 'root=$1; . "$1/scripts/venv.sh"; fingerprint "$2" "$3"'
    locks = [house / "requirements" / f"{name}.txt" for name in ("build", "run")]
    stamp = subprocess.check_output(["sh", "-c", code, "sh", house, *locks], text=True)
    (venv / "stamp.run").write_text(stamp)
    done = serve(house, "--port", "1 2")
    assert (done.returncode, done.stdout, done.stderr) == (0, "serve|--port|1 2|", "")
    with (house / "requirements" / "run.txt").open("a") as lock:
        lock.write("# newer\n")
    assert serve(house, PYTHON="/bin/false").returncode == 1  # it would install again


def test_what_is_left_out_is_printed_and_the_closing_line_comes_last():
    done = subprocess.run([*CHECKS, *OTHERS, QUICK], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout
    assert lines[-1].startswith("1 passed")
    assert "      lint: left out (--without lint)" in lines


def test_a_failed_part_fails_the_run():
    done = subprocess.run([*CHECKS, *OTHERS, f"{QUICK}_not"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "   tests: failed" in done.stdout


def test_an_unknown_part_is_wrong_use():
    done = subprocess.run([*CHECKS, "--without", "thinking"], capture_output=True, text=True)
    assert done.returncode == 2


def test_what_the_lock_names_is_all_that_the_program_imports():
    """The tests' packages are beside it here; on a machine of a buyer they are not."""
    lock = ROOT / "requirements" / "run.txt"
    done = subprocess.run(
        [sys.executable, "-c", ALONE, lock, ROOT / "src"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100
