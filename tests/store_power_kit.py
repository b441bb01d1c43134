"""A disk that remembers every write and sync, and what may be left of them when the power goes.

A recording is the files before, and then each write, truncation and sync in order, with the
acknowledgements between them. A crash image is what a disk may hold after a cut at some point:
for each file what its last sync made sure of, and of everything later any part, in any order,
torn at the size of a sector.
"""

import asyncio
import random
from pathlib import Path
from typing import Any, Final, NamedTuple

import apsw
import pytest

from moongate.core.money import Usage
from moongate.core.rows import BudgetRow, HoldRow
from moongate.core.store import Extension, Running
from moongate.store import desk
from moongate.store.opening import connect
from moongate.store.sqlite import SqliteStore
from store_kit import NOW_MS, a_hold, an_end, balance, furnish, opened

SECTOR: Final = 512
TASKS, ROUNDS, CHECKPOINT_PAGES = 24, 6, 16
ACCOUNTS: Final = ("acme", "bert")


class Event(NamedTuple):
    """``kind``: write, truncate, sync or ack. Acks carry (what, id, nanos) as data."""

    kind: str
    file: str = ""
    offset: int = 0
    data: Any = b""


class PowerDisk(apsw.VFS):
    """A VFS over the real one that keeps every event."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.events: list[Event] = []
        super().__init__(name, base="")

    def xOpen(self, name: Any, flags: list[int]) -> "PowerFile":  # noqa: N802 - SQLite's name
        return PowerFile(self, name, flags)


class PowerFile(apsw.VFSFile):
    def __init__(self, disk: PowerDisk, name: Any, flags: list[int]) -> None:
        self.disk = disk
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        self.file = Path(path).name
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - SQLite's name
        super().xWrite(data, offset)
        self.disk.events.append(Event("write", self.file, offset, bytes(data)))

    def xTruncate(self, size: int) -> None:  # noqa: N802 - SQLite's name
        super().xTruncate(size)
        self.disk.events.append(Event("truncate", self.file, size))

    def xSync(self, flags: int) -> None:  # noqa: N802 - SQLite's name
        super().xSync(flags)
        self.disk.events.append(Event("sync", self.file))


class Recording(NamedTuple):
    before: dict[str, bytes]
    events: list[Event]


def record(folder: Path, seed: int, synchronous: str | None = None) -> Recording:
    """Book under load on a recording disk, at another ``synchronous`` where it is to fail."""
    file = folder / "moongate.db"
    disk = PowerDisk(f"moongate-power-{seed}-{synchronous}")
    with pytest.MonkeyPatch.context() as patch:

        def weaker(*args: Any, **options: Any) -> apsw.Connection:
            db = connect(*args, **options)
            if synchronous is not None:
                db.pragma("synchronous", synchronous)
            return db

        patch.setattr(desk, "connect", weaker)
        try:
            return asyncio.run(_record(file, disk, random.Random(seed)))
        finally:
            disk.unregister()


async def _record(file: Path, disk: PowerDisk, rng: random.Random) -> Recording:
    async with opened(SqliteStore(file)) as store:
        for account in ACCOUNTS:
            await furnish(store, 10**12, account)
        await store.budget_set(BudgetRow("b", "acme", "account", "acme", "day", 10**12, NOW_MS))
    before = {path.name: path.read_bytes() for path in file.parent.iterdir()}
    disk.events.clear()
    async with opened(SqliteStore(file, vfs=disk.name)) as store:
        # Many checkpoints: the file itself is written to, and the log begins anew.
        await store._move(lambda db: db.pragma("wal_autocheckpoint", CHECKPOINT_PAGES) and None)
        seeds = [rng.random() for _ in range(TASKS)]
        await asyncio.gather(
            *(_visits(store, disk.events, n, random.Random(s)) for n, s in enumerate(seeds))
        )
        events = list(disk.events)  # without the orderly end
    return Recording(before, events)


async def _visits(store: SqliteStore, events: list[Event], task: int, rng: random.Random) -> None:
    """Hold, perhaps extend and renew, then settle, void, or stay open; each answer is an ack."""
    for n in range(ROUNDS):
        hold = await store.hold(a_hold(f"h{task}-{n}", 50_000, rng.choice(ACCOUNTS)))
        assert isinstance(hold, HoldRow)
        events.append(Event("ack", data=("held", hold.id, hold.amount_nanos)))
        if rng.random() < 0.4:
            more = await store.extend(Extension(hold.id, 1, 30_000, 2_000))
            assert more is not None
            hold = more
            events.append(Event("ack", data=("held", hold.id, hold.amount_nanos)))
        if rng.random() < 0.2:
            assert await store.renew([Running(hold.id, Usage(output=n))], NOW_MS + n) == 1
        ends = rng.random()
        if ends < 0.9:
            end = an_end(hold, Usage(3, 2, rng.randrange(40)), void=ends < 0.2)
            assert await store.settle(end)
            events.append(Event("ack", data=("settled", hold.id, end.row.charge_nanos)))


def crash_image(recording: Recording, cut: int, rng: random.Random, folder: Path) -> None:
    """Write what the disk may hold when the power goes before event ``cut``."""
    durable = {name: bytearray(data) for name, data in recording.before.items()}
    pending: dict[str, list[Event]] = {}
    for event in recording.events[:cut]:
        if event.kind == "sync":
            for late in pending.pop(event.file, ()):
                _apply(durable.setdefault(event.file, bytearray()), late)
        elif event.kind != "ack":
            pending.setdefault(event.file, []).append(event)
    for file, late in pending.items():
        kept = rng.choice((0.0, 0.1, 0.5, 0.9, 1.0))
        pieces = [piece for event in late for piece in _sectors(event) if rng.random() < kept]
        if rng.random() < 0.5:
            rng.shuffle(pieces)
        for piece in pieces:
            _apply(durable.setdefault(file, bytearray()), piece)
    for name, data in durable.items():
        (folder / name).write_bytes(data)


def _sectors(event: Event) -> list[Event]:
    """The pieces of a write that reach the disk each by itself."""
    if event.kind == "truncate":
        return [event]
    pieces = []
    start, end = event.offset, event.offset + len(event.data)
    while start < end:
        stop = min(end, (start // SECTOR + 1) * SECTOR)
        piece = event.data[start - event.offset : stop - event.offset]
        pieces.append(event._replace(offset=start, data=piece))
        start = stop
    return pieces


def _apply(content: bytearray, event: Event) -> None:
    if event.kind == "truncate":
        del content[event.offset :]
        return
    content.extend(bytes(max(0, event.offset - len(content))))
    content[event.offset : event.offset + len(event.data)] = event.data


def acknowledged(recording: Recording, cut: int) -> dict[str, tuple[str, int]]:
    """Hold -> the last thing that was acknowledged of it before ``cut``, with its nanos."""
    return {
        event.data[1]: (event.data[0], event.data[2])
        for event in recording.events[:cut]
        if event.kind == "ack"
    }


async def faults(folder: Path, acks: dict[str, tuple[str, int]]) -> list[str]:
    """What is wrong with a store that starts on a crash image."""
    found = []
    async with opened(SqliteStore(folder / "moongate.db")) as store:
        found += [f"{f.invariant} {f.where}: {f.detail}" for f in await store.audit()]
        still_open = {row.id: row.amount_nanos for row in await store.open_holds()}
        ended = {row.hold: row.charge_nanos for row in await store.usage()}
        for id, (what, nanos) in acks.items():
            if what == "settled" and ended.get(id) != nanos:
                found.append(f"settle lost: {id}")
            elif what == "held" and id not in ended and still_open.get(id, -1) < nanos:
                found.append(f"hold lost: {id}")
        lapsed = await store.expire_orphans("nobody", NOW_MS + 1)
        if set(lapsed) != set(still_open):
            found.append("not all that was open could be given back")
        found += [f"held: {account}" for account in ACCOUNTS if (await balance(store, account))[1]]
        found += [f"later {f.invariant} {f.where}: {f.detail}" for f in await store.audit()]
    return found
