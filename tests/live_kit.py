"""Moongate as people run it: a process of its own, started and stopped by the test."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def environment(**more: str) -> dict[str, str]:
    """This process's environment without what would steer Moongate or an SDK."""
    taken = ("MOONGATE_", "MOONSHOT_", "OPENAI_")
    return {k: v for k, v in os.environ.items() if not k.startswith(taken)} | more


@dataclass
class Live:
    url: str
    key: str
    home: Path
    process: subprocess.Popen[str] = field(repr=False)
    events: list[dict[str, Any]] = field(repr=False, default_factory=list)
    reader: threading.Thread | None = field(repr=False, default=None)

    def cli(self, *words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command beside the server; returns what it printed."""
        return subprocess.run(
            [sys.executable, "-m", "moongate", *words],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            env=environment(MOONGATE_HOME=str(self.home), NO_COLOR="1"),
        )

    def json(self, *words: str) -> Any:
        """The JSON that a command prints."""
        done = self.cli(*words, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


def start(home: Path, *, config: Path | None = None, key: str = "") -> Live:
    """Start a server and wait until it is ready."""
    command = [sys.executable, "-m", "moongate", "serve", "--json", "--port", "0"]
    command += ["--home", str(home)] + (["--config", str(config)] if config else [])
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment()
    )
    live = Live("", key, home, process)
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        live.events.append(event)
        if event["event"] == "key":
            live.key = event["key"]
        if event["event"] == "ready":
            live.url = event["api"]
            break
    else:
        raise AssertionError(f"the server ended with {process.wait()}: {live.events}")
    # Go on reading, so that the pipe never fills.
    live.reader = threading.Thread(target=_collect, args=(live,), daemon=True)
    live.reader.start()
    return live


def _collect(live: Live) -> None:
    assert live.process.stdout is not None
    with live.process.stdout as lines:
        for line in lines:
            live.events.append(json.loads(line))


def kill(live: Live) -> None:
    """SIGKILL; returns when the process is gone."""
    live.process.kill()
    live.process.wait(20)
    assert live.reader is not None
    live.reader.join(20)


def stop(live: Live) -> int:
    """SIGTERM, and the exit code."""
    live.process.terminate()
    try:
        return live.process.wait(20)
    except subprocess.TimeoutExpired:
        live.process.kill()
        raise
    finally:
        assert live.reader is not None
        live.reader.join(20)


@contextlib.contextmanager
def running(home: Path, *, config: Path | None = None) -> Iterator[Live]:
    """A server for the length of a ``with``."""
    live = start(home, config=config)
    try:
        yield live
    finally:
        if live.process.poll() is None:
            stop(live)


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """A folder whose path is short enough for a unix socket."""
    with tempfile.TemporaryDirectory(prefix="mg-") as name:
        yield Path(name)


@contextlib.contextmanager
def scripted_process(script: Path) -> Iterator[str]:
    """The scripted upstream in a process of its own; yields its base URL."""
    fake = subprocess.Popen(
        [sys.executable, "-m", "moongate.upstream.scripted", str(script), "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert fake.stdout is not None
    try:
        yield fake.stdout.readline().split()[-1]
    finally:
        fake.terminate()
        fake.wait(10)
        fake.stdout.close()
