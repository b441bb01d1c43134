"""A server of several workers in a process of its own, with what a test changes in it."""

import contextlib
import json
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPConnection
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from moongate.app import run
from moongate.home import Home
from moongate.settings import load

CONFIG = """
[server]
port = 0
workers = {workers}
drain_s = {drain_s}

[store]
url = "{store}"

[[upstreams]]
name = "moonshot"
kind = "moonshot"
base_url = "{upstream}"

[[models]]
id = "kimi-k2.5"
targets = [{{ upstream = "moonshot", model = "kimi-k2.5" }}]
price = {{ input = "0.48", cached = "0.10", output = "2.00", search = "0.005" }}
"""
T = TypeVar("T")
_ALONE = 60


def nothing() -> None:
    """Change nothing in the server's process."""


def _serve_here(home: Path, config: Path, events: Connection, change: Callable[[], None]) -> None:
    log = os.open(home.parent / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 2)
    change()
    run(load(config, {}), Home(home).open(), events.send)


@dataclass
class Crew:
    """The server: its supervisor's process, what it told, and how to ask it."""

    process: multiprocessing.process.BaseProcess
    home: Path
    events: list[dict[str, Any]] = field(default_factory=list)
    key: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    def told(self, event: str) -> list[dict[str, Any]]:
        return [one for one in self.events if one["event"] == event]

    @property
    def port(self) -> int:
        return int(self.told("ready")[0]["api"].rsplit(":", 1)[1].split("/")[0])

    def pids(self) -> list[int]:
        """The workers, in the order in which they were started."""
        assert self.process.pid is not None
        return sorted(children(self.process.pid))

    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.home.parent / "log").read_text().splitlines()]

    def ask(
        self, path: str = "/v1/models", body: Any = None, key: str = "", timeout_s: float = 30.0
    ) -> tuple[int, bytes]:
        """One answer over a fresh connection."""
        with contextlib.closing(HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)) as line:
            head = {"authorization": f"Bearer {key or self.key}"}
            if body is None:
                line.request("GET", path, headers=head)
            else:
                head["content-type"] = "application/json"
                line.request("POST", path, json.dumps(body), head)
            answer = line.getresponse()
            self.headers = dict(answer.getheaders())
            return answer.status, answer.read()

    def everyone(self, get: Callable[[], tuple[int, bytes]], tries: int = 200) -> set[int]:
        """Ask over fresh connections until every worker has answered; returns the statuses.

        One at a time at first; then several at once, since who answered last may be who wakes
        first, again and again.
        """
        before = self.counts()
        seen: set[int] = set()
        for turn in range(tries):
            with ThreadPoolExecutor(1 if turn < _ALONE else 6) as pool:
                asked = [pool.submit(get) for _ in range(1 if turn < _ALONE else 6)]
                seen |= {one.result()[0] for one in asked}
            now = self.counts()
            if all(now[at] > before.get(at, 0) for at in now):
                return seen
        raise AssertionError(
            f"not every worker answered in {tries} tries: {before}, {self.counts()}"
        )

    def counts(self) -> dict[Path, int]:
        """How many requests each worker that serves has seen, by its socket."""
        found = {}
        for path in sorted(self.home.glob("worker-*.sock")):
            try:
                lines = own_metrics(path).decode().splitlines()
            except ConnectionError:
                continue  # a dead worker's, which the next one makes anew
            counted = ("moongate_refusals_total", "moongate_requests_total")
            found[path] = sum(int(float(x.split()[-1])) for x in lines if x.startswith(counted))
        return found

    def stop(self, timeout_s: float = 30.0) -> int | None:
        """SIGTERM to the supervisor; the exit code."""
        self.process.terminate()
        self.process.join(timeout_s)
        return self.process.exitcode


def own_metrics(path: Path) -> bytes:
    """What one worker tells the others."""
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(5)
        line.connect(str(path))
        return b"".join(iter(lambda: line.recv(65_536), b""))


def children(pid: int) -> Iterator[int]:
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            words = entry.read_text().rpartition(")")[2].split()
            if int(words[1]) == pid and words[0] != "Z":
                yield int(entry.parent.name)


def until(look: Callable[[], T], what: str, timeout_s: float = 20.0) -> T:
    """Wait until ``look`` gives something; returns it."""
    end_s = time.monotonic() + timeout_s
    while time.monotonic() < end_s:
        if found := look():
            return found
        time.sleep(0.02)
    raise AssertionError(f"in {timeout_s} s there was no {what}")


def gone(pid: int) -> bool:
    """Whether a process is no more; a zombie is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@contextlib.contextmanager
def crew(
    folder: Path, config: str, change: Callable[[], None] = nothing, *, ready: bool = True
) -> Iterator[Crew]:
    """Start a server on ``config`` (TOML text), and leave none of its processes behind."""
    file = folder / "moongate.toml"
    file.write_text(config)
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(["moongate.app"])
    ours, theirs = forks.Pipe(duplex=False)
    process = forks.Process(target=_serve_here, args=(folder / "home", file, theirs, change))
    process.start()
    theirs.close()
    it = Crew(process, folder / "home")
    reader = threading.Thread(target=_collect, args=(it, ours), daemon=True)
    reader.start()
    try:
        if ready:
            until(lambda: it.told("ready") or not process.is_alive(), "ready server", 30)
            assert it.told("ready"), (folder / "log").read_text()
            it.key = it.told("key")[0]["key"] if it.told("key") else ""
        yield it
    finally:
        if process.is_alive():
            pids = it.pids()
            it.stop()
            for pid in [*pids, process.pid]:
                if pid is not None and not gone(pid):
                    os.kill(pid, signal.SIGKILL)
        process.join(10)
        reader.join(10)
        ours.close()


def _collect(it: Crew, events: Connection) -> None:
    with contextlib.suppress(EOFError, OSError):
        while True:
            event = events.recv()
            it.events.append(event)
