"""Servers that die at a chosen point, on either real store, and what they leave behind."""

import abc
import asyncio
import contextlib
import multiprocessing
import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import apsw

from moongate.app.application import Application
from moongate.core.errors import LedgerUnavailable
from moongate.core.ports import Store, SystemClock
from moongate.core.rows import HoldRow, UsageRow
from moongate.home import Home
from moongate.ledger.sweep import Turns
from moongate.settings import load
from moongate.store.postgres import PostgresStore
from moongate.store.sqlite import SqliteStore
from moongate.upstream.scripted import ScriptedServer
from moongate.upstream.transcript import parse
from postgres_kit import cluster, database
from serving_kit import Served, serve
from store_kit import Disk, opened

CONFIG: Final = """
[server]
port = 0
drain_s = 2

[store]
url = "{store}"

[[upstreams]]
name = "moonshot"
kind = "moonshot"
base_url = "{upstream}"
first_token_timeout_s = 0.5
idle_timeout_s = 0.5
{second}
[[models]]
id = "kimi-k2.5"
targets = [{targets}]
price = {{ input = "0.48", cached = "0.10", output = "2.00", search = "0.005" }}

[ledger]
hold_first = 20
hold_step = 30
hold_low = 5
crash_settlement = "{crash}"
"""
_TARGET: Final = '{{ upstream = "{name}", model = "kimi-k2.5" }}'
Fault = Callable[[Application], None]


def die() -> None:
    """End this process as kill -9 does."""
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Dies:
    """The server dies ``when`` (before, after) a move of its store."""

    move: str
    when: str

    def __call__(self, app: Application) -> None:
        real = getattr(app.store, self.move)

        async def dying(*args: Any, **more: Any) -> Any:
            if self.when == "before":
                die()
            answer = await real(*args, **more)
            if self.when == "after":
                die()
            return answer

        setattr(app.store, self.move, dying)


def renews_at_once(app: Application) -> None:
    """Leases are renewed, and counts noted, twenty times a second."""
    app.sweep._turns = Turns(renew_s=0.05)


def dies_with_its_journal_written(app: Application) -> None:
    """The store takes no settlement, the journal does, and then the server dies."""

    async def gone(*_: Any) -> bool:
        raise LedgerUnavailable("gone")

    real = app.journal.write

    async def dying(*args: Any) -> None:
        await real(*args)
        die()

    app.store.settle = gone  # type: ignore[method-assign]  # what is tested
    app.journal.write = dying  # type: ignore[method-assign]  # what is tested


def serve_here(home: Path, config: Path, events: Connection, fault: Fault) -> None:
    """A whole server in this forked process."""

    async def forever() -> None:
        app = Application(load(config, {}), Home(home).open(), events.send)
        fault(app)
        await app.start()
        await asyncio.Event().wait()

    asyncio.run(forever())


class Stepped(SystemClock):
    """The machine's clock, which somebody sets."""

    off_ms = 0

    def now_ms(self) -> int:
        return super().now_ms() + self.off_ms


@dataclass
class Bench(abc.ABC):
    """One store of one engine, an upstream, and a client's key; servers come and go."""

    folder: Path
    scripted: ScriptedServer
    url: str
    second: ScriptedServer | None = None
    crash: str = "void"
    key: str = ""
    start_nanos: int = 5_000_000_000
    held_nanos: int = 0
    """The amount of the last hold as it was made."""
    clock: Stepped = field(default_factory=Stepped)

    # What differs between the engines.

    @abc.abstractmethod
    def store(self) -> Store:
        """A store for a server that lives."""

    @abc.abstractmethod
    def another(self) -> Store:
        """A store beside whoever serves it."""

    @abc.abstractmethod
    async def expire(self, served: Served, after_s: int) -> None:
        """Have leases looked at when so many seconds have passed."""

    @abc.abstractmethod
    async def breaks(self) -> None:
        """Nothing can be written any more."""

    @abc.abstractmethod
    async def mends(self) -> None:
        """It can."""

    @abc.abstractmethod
    async def back_up(self) -> None:
        """Keep the store as it is; nobody serves it now."""

    @abc.abstractmethod
    async def restore(self) -> None:
        """Put the store back to what was kept."""

    # What does not.

    def says(self, *lines: str) -> None:
        """What the upstream answers from now on."""
        turns = iter(parse("\n".join(lines)))
        last = None

        def choose(_: Any) -> Any:
            nonlocal last
            last = next(turns, last)
            return last

        self.scripted._choose = choose

    def config(self) -> str:
        names = ["moonshot"] + (["second"] if self.second else [])
        second = (
            ""
            if self.second is None
            else f'\n[[upstreams]]\nname = "second"\nkind = "vllm"\ncache_probe = false\n'
            f'base_url = "{self.second.base_url}"\n'
        )
        return CONFIG.format(
            store=self.url,
            upstream=self.scripted.base_url,
            second=second,
            targets=", ".join(_TARGET.format(name=name) for name in names),
            crash=self.crash,
        )

    @contextlib.asynccontextmanager
    async def server(self) -> AsyncIterator[Served]:
        """A server in this process, whose store may break and whose clock may be set."""
        async with serve(
            self.folder, self.config(), store=self.store(), clock=self.clock
        ) as served:
            self.key = served.key = served.key or self.key
            self._watch(served.app.store)
            yield served

    def _watch(self, store: Store) -> None:
        """Remember what each hold takes."""
        real = store.hold

        async def hold(*args: Any, **more: Any) -> Any:
            made = await real(*args, **more)
            self.held_nanos = getattr(made, "amount_nanos", self.held_nanos)
            return made

        store.hold = hold  # type: ignore[method-assign]  # looks on

    @contextlib.asynccontextmanager
    async def doomed(self, fault: Fault) -> AsyncIterator["Doomed"]:
        """A server in a process of its own, dead at the end."""
        file = self.folder / "doomed.toml"
        file.write_text(self.config())
        forks = multiprocessing.get_context("forkserver")
        forks.set_forkserver_preload(["moongate.app", "matrix_kit"])
        ours, theirs = forks.Pipe(duplex=False)
        process = forks.Process(target=serve_here, args=(self.folder / "home", file, theirs, fault))
        process.start()
        theirs.close()
        try:
            port = 0
            while not port:
                event = await asyncio.to_thread(ours.recv)
                self.key = event.get("key") or self.key
                if event["event"] == "ready":
                    port = int(event["api"].rsplit(":", 1)[1].split("/")[0])
            yield Doomed(process, port, self.key)
        finally:
            process.kill()
            await asyncio.to_thread(process.join)
            ours.close()

    @contextlib.asynccontextmanager
    async def looking(self) -> AsyncIterator[Store]:
        """The rows as they lie there, whoever serves them."""
        async with opened(self.another()) as store:
            yield store

    async def open_hold(self) -> HoldRow | None:
        """The one hold that is open, if any."""
        async with self.looking() as store:
            rows = await store.open_holds()
            assert len(rows) <= 1
            return rows[0] if rows else None

    async def row(self) -> UsageRow | None:
        """The one usage row, if any."""
        async with self.looking() as store:
            rows = await store.usage()
            assert len(rows) <= 1
            return rows[0] if rows else None

    async def durable(self) -> str:
        """What is on the disk of one request: its hold, what was noted of it, a journal."""
        hold, row = await self.open_hold(), await self.row()
        words = [] if hold is None else ["open"]
        if hold is not None and hold.running.total:
            words.append("counts")
        if row is not None:
            words.append("resolved")
        if any(b"mgj1" in path.read_bytes() for path in self.folder.glob("home/journal/*")):
            words.append("journal")
        return ", ".join(words) or "nothing"

    async def paid(self) -> int:
        """What the wallet lost; nothing may be held and the books must hold."""
        async with self.looking() as store:
            wallet = await store.account("default")
            assert wallet is not None
            assert wallet.held_nanos == 0
            assert await store.audit() == []
            return self.start_nanos - wallet.posted_nanos


class SqliteBench(Bench):
    """A file, and a disk that can be full."""

    disk: Disk | None = None

    def file(self) -> Path:
        return self.folder / "home" / "moongate.db"

    @contextlib.asynccontextmanager
    async def server(self) -> AsyncIterator[Served]:
        self.disk = Disk(f"moongate-{id(self)}")
        try:
            async with super().server() as served:
                yield served
        finally:
            self.disk.unregister()

    def store(self) -> Store:
        assert self.disk is not None
        return SqliteStore(self.file(), vfs=self.disk.name)

    def another(self) -> Store:
        return SqliteStore(self.file(), lock=False)

    async def expire(self, served: Served, after_s: int) -> None:
        at_ms = served.app.clock.now_ms() + after_s * 1000
        await served.app.store.expire(at_ms, 120, checkpoint=self.crash == "checkpoint")

    async def breaks(self) -> None:
        assert self.disk is not None
        self.disk.writes = lambda: apsw.FullError("no space")

    async def mends(self) -> None:
        assert self.disk is not None
        self.disk.mend()

    async def back_up(self) -> None:
        shutil.copy(self.file(), self.folder / "backup.db")

    async def restore(self) -> None:
        for path in self.file().parent.glob("moongate.db*"):
            path.unlink()
        shutil.copy(self.folder / "backup.db", self.file())


class PostgresBench(Bench):
    """A database whose clock can be set, and that can refuse to be written to."""

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    def store(self) -> Store:
        return PostgresStore(self.url, patience_s=10)

    another = store

    async def expire(self, served: Served, after_s: int) -> None:
        at = f"floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint + {after_s * 1000}"
        cluster().psql(self.name, f"INSERT INTO manual_clock SELECT {at};")
        await served.app.store.expire(0, 120, checkpoint=self.crash == "checkpoint")
        cluster().psql(self.name, "TRUNCATE manual_clock;")

    def _alter(self, how: str) -> None:
        end = (
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{self.name}'"
        )
        cluster().psql("postgres", f"ALTER DATABASE {self.name} {how}; {end};")

    async def breaks(self) -> None:
        self._alter("SET default_transaction_read_only = on")

    async def mends(self) -> None:
        self._alter("RESET default_transaction_read_only")

    async def back_up(self) -> None:
        cluster().psql("postgres", f"CREATE DATABASE {self.name}_kept TEMPLATE {self.name};")

    async def restore(self) -> None:
        self.url += "_kept"


@dataclass
class Doomed:
    """A server that will die: ``port`` and ``key`` are what a visitor needs."""

    process: Any
    port: int
    key: str

    def kill(self) -> None:
        self.process.kill()

    async def dead(self) -> None:
        """Wait until it is."""
        await asyncio.to_thread(self.process.join, 20)
        assert self.process.exitcode == -signal.SIGKILL


@contextlib.asynccontextmanager
async def bench(engine: str, folder: Path) -> AsyncIterator[Bench]:
    """A bench whose upstream says ``text Io``."""
    async with ScriptedServer("text Io") as scripted:
        if engine == "sqlite":
            yield SqliteBench(folder, scripted, "sqlite:///moongate.db")
        else:
            yield PostgresBench(folder, scripted, database())
