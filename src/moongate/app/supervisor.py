"""The supervisor: the first process of a server with several workers; it serves nothing itself.

It reserves the sockets that all workers listen on (clients' and commands'), starts worker 1, and
when that is ready (the store is migrated, prices are seeded) the others. A worker that ends is
started again, later each time while it keeps dying. It waits in one place, holds no thread and no
event loop, and so may fork at any time; the settings with their secrets reach a worker in memory
alone.
"""

import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, NoReturn

import msgspec

from moongate.app.doors import Place, reserve, reserve_admin
from moongate.app.parts import Announce
from moongate.app.worker import DRAIN, FAILED, HURRY, work
from moongate.core.errors import ConfigurationError
from moongate.home import Home
from moongate.log import Log
from moongate.settings import Settings

BACKOFF_S: Final = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""How long a worker's place stays empty after its first, second, … death in a row."""
CALM_S: Final = 60.0
"""A worker that served so long before it died counts as dying for the first time."""
LATE_S: Final = 15.0
"""A worker that is not gone so long after its drain is killed."""
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
_ENGINE_NOTE: Final = (
    "Each of the {count} workers runs an embedded engine of its own, which takes about 0.9 GB with "
    "the stand-in. Several workers are for upstreams that run elsewhere."
)


class Worker:
    """A worker as its supervisor sees it: its process, its pipes, and what it told."""

    def __init__(self, number: int, pid: int, orders: int, told: int) -> None:
        self.number, self.pid, self.orders, self.told = number, pid, orders, told
        self.began_s = time.monotonic()
        self.silent = False
        self.failure = ""
        self.running: int | None = None
        """Requests that it had when it began to drain."""
        self._piece = b""

    def order(self, what: bytes) -> None:
        """Send an order; a worker that is gone needs none."""
        with suppress(BrokenPipeError):
            os.write(self.orders, what)

    def events(self) -> Iterator[dict[str, Any]]:
        """What it has told since."""
        with suppress(BlockingIOError):
            while not self.silent:
                data = os.read(self.told, 65_536)
                self.silent = not data
                *lines, self._piece = (self._piece + data).split(b"\n")
                yield from (msgspec.json.decode(line) for line in lines)

    def close(self) -> None:
        """Let the pipes go."""
        os.close(self.orders)
        os.close(self.told)


class Supervisor:
    """Keeps ``settings.server.workers`` workers running until it is told to stop."""

    def __init__(self, settings: Settings, home: Home, announce: Announce, log: Log) -> None:
        self._settings, self._home, self._announce, self._log = settings, home, announce, log
        self._count = settings.server.workers
        self._selector = selectors.DefaultSelector()
        self._workers: dict[int, Worker] = {}
        self._due_s: dict[int, float] = {}
        self._deaths: dict[int, int] = {}
        self._settled: set[int] = set()
        """Workers that were ready once, or ended before they were."""
        self._first: dict[str, Any] = {}
        """What worker 1 said when it was ready."""
        self._told: set[str] = set()
        self._stops = self._obeyed = 0
        self._late_s = 0.0

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT. Raises ConfigurationError when the start fails."""
        self._home.fit(self._home.worker_socket(self._count))
        server = self._settings.server
        with (
            reserve(server.host, server.port) as self._listening,
            reserve_admin(self._home.socket) as self._admin,
            self._awake(),
        ):
            try:
                self._fork(1)
                while self._workers or self._due_s:
                    self._turn()
            except BaseException:
                self._abandon()
                raise
            finally:
                self._home.socket.unlink(missing_ok=True)
        if "ready" in self._told:
            self._once("stopped", {"event": "stopped"})

    @contextmanager
    def _awake(self) -> Iterator[None]:
        """Wake up for the signals that concern us; as before in the end."""
        self._wake, bell = socket.socketpair()
        with self._wake, bell, self._selector:
            for end in (self._wake, bell):
                end.settimeout(0)
            self._selector.register(self._wake, selectors.EVENT_READ)
            fd = signal.set_wakeup_fd(bell.fileno(), warn_on_full_buffer=False)
            known = {number: signal.signal(number, self._signalled) for number in _SIGNALS}
            try:
                yield
            finally:
                for number, what in known.items():
                    signal.signal(number, what)
                signal.set_wakeup_fd(fd)

    def _signalled(self, number: int, _: object) -> None:
        self._stops += number != signal.SIGCHLD

    def _turn(self) -> None:
        """Wait for something to happen, and see to it."""
        times_s = [*self._due_s.values(), *([self._late_s] if self._late_s else [])]
        wait_s = max(0.0, min(times_s) - time.monotonic()) if times_s else None
        for key, _ in self._selector.select(wait_s):
            if isinstance(key.data, Worker):
                self._hear(key.data)
            else:
                self._wake.recv(4096)
        while self._obeyed < self._stops:
            self._stop()
        for worker in list(self._workers.values()):
            pid, status = os.waitpid(worker.pid, os.WNOHANG)
            if pid:
                self._bury(worker, os.waitstatus_to_exitcode(status))
            elif self._late_s and time.monotonic() >= self._late_s:
                os.kill(worker.pid, signal.SIGKILL)
        for number in [n for n, at_s in self._due_s.items() if at_s <= time.monotonic()]:
            del self._due_s[number]
            self._fork(number)
        self._sum_up()

    def _hear(self, worker: Worker) -> None:
        """Pass on what a worker tells, so that everything is told once."""
        for event in worker.events():
            match event["event"]:
                case "ready":
                    self._settled.add(worker.number)
                    if not self._first:
                        self._first = event
                        for number in range(2, self._count + 1):
                            self._fork(number)
                case "draining":
                    worker.running = event["running"]
                case "failed":
                    worker.failure = event["text"]
                case "note":
                    self._once(event["text"], event)
                case "stopped":
                    pass
                case _:
                    self._announce(event)
        if worker.silent and worker.told in self._selector.get_map():
            self._selector.unregister(worker.told)

    def _once(self, what: str, event: dict[str, Any]) -> None:
        if what not in self._told:
            self._told.add(what)
            self._announce(event)

    def _sum_up(self) -> None:
        """Tell of all workers together: that they are ready, and that they drain."""
        if self._first and len(self._settled) == self._count:
            if any(upstream.kind == "embedded" for upstream in self._settings.upstreams):
                text = _ENGINE_NOTE.format(count=self._count)
                self._once(text, {"event": "note", "text": text})
            self._once("ready", {**self._first, "workers": self._count})
        if self._obeyed and "ready" in self._told:
            running = [worker.running for worker in self._workers.values()]
            if None not in running:
                self._once("draining", {"event": "draining", "running": sum(filter(None, running))})

    def _stop(self) -> None:
        """Drain every worker; the second time, hurry them."""
        self._obeyed += 1
        self._due_s.clear()
        self._listening.close()
        self._late_s = self._late_s or time.monotonic() + self._settings.server.drain_s + LATE_S
        for worker in self._workers.values():
            worker.order(DRAIN if self._obeyed == 1 else HURRY)

    def _bury(self, worker: Worker, code: int) -> None:
        """A worker has ended: say so, and give its place a time to be filled again."""
        self._hear(worker)
        if not worker.silent:
            self._selector.unregister(worker.told)
        worker.close()
        number = worker.number
        del self._workers[number]
        if self._obeyed:
            return
        kind = f"signal_{-code}" if code < 0 else f"code_{code}" if code else "drained"
        if not self._first:
            raise ConfigurationError(
                worker.failure or f"The first worker ended before it was ready ({kind})."
            )
        self._settled.add(number)
        self._log.event("worker_ended", worker=number, kind=kind)
        if worker.failure:
            self._once(worker.failure, {"event": "note", "text": worker.failure})
        calm = not code or time.monotonic() - worker.began_s > CALM_S
        deaths = self._deaths[number] = 0 if calm else self._deaths.get(number, 0) + 1
        self._due_s[number] = time.monotonic() + BACKOFF_S[min(deaths, len(BACKOFF_S) - 1)]

    def _fork(self, number: int) -> None:
        orders, giving = os.pipe()
        hearing, told = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if not pid:
            self._become(number, orders, told, (giving, hearing))
        os.close(orders)
        os.close(told)
        os.set_blocking(hearing, False)
        worker = self._workers[number] = Worker(number, pid, giving, hearing)
        self._selector.register(hearing, selectors.EVENT_READ, worker)
        self._log.event("worker_started", worker=number)

    def _become(self, number: int, orders: int, told: int, others: tuple[int, int]) -> NoReturn:
        """In the forked process: let go of what is the supervisor's, and be a worker."""
        code = FAILED
        try:
            signal.set_wakeup_fd(-1)
            for known in (signal.SIGTERM, signal.SIGCHLD):
                signal.signal(known, signal.SIG_DFL)
            # What stops a group of processes is the supervisor's to hear.
            signal.signal(signal.SIGINT, lambda *_: None)
            self._selector.close()
            self._wake.close()
            for pipe in others:
                os.close(pipe)
            for worker in self._workers.values():
                worker.close()
            place = Place(number, self._count, self._listening, self._admin)
            code = work(self._settings, self._home, place, orders, told)
        finally:
            os._exit(code)

    def _abandon(self) -> None:
        """End every worker now: something of our own went wrong, and none may outlive us."""
        for worker in self._workers.values():
            worker.order(DRAIN + HURRY)
        end_s = time.monotonic() + LATE_S
        while self._workers:
            for number, worker in list(self._workers.items()):
                if os.waitpid(worker.pid, os.WNOHANG)[0]:
                    worker.close()
                    del self._workers[number]
                elif time.monotonic() > end_s:
                    os.kill(worker.pid, signal.SIGKILL)
            time.sleep(0.02)
