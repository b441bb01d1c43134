"""Stores to test with: every engine behind one fixture, short rows, and a disk that can fail.

An engine is a line of MAKERS. One with a clock of its own is made with that clock at NOW_MS, and
its ``the_time_is(at_ms)`` moves it; the others take times as they are given.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import apsw
import pytest

from moongate.core.money import Price, Usage, charge
from moongate.core.ports import Settlement, Store
from moongate.core.rows import (
    AccountRow,
    BudgetRow,
    HoldRow,
    Outcome,
    Per,
    PriceRow,
    Scope,
    UsageRow,
)
from moongate.store.memory import MemoryStore
from moongate.store.sqlite import SqliteStore
from postgres_kit import ClockedStore, database

MAKERS: Final[dict[str, Callable[[Path], Store]]] = {
    "sqlite": lambda folder: SqliteStore(folder / "moongate.db"),
    "memory": lambda _folder: MemoryStore(),
    "postgres": lambda _folder: ClockedStore(database(), NOW_MS),
}
ALONE: Final = ("sqlite", "memory")
"""Engines that one process serves."""
ENGINES: Final = (*ALONE, pytest.param("postgres", marks=pytest.mark.postgres))
KIMI = Price(input=480, cached=100, output=2000, search=5_000_000)
NOW_MS = 1_769_472_000_000


def make_store(engine: str, folder: Path) -> Store:
    return MAKERS[engine](folder)


@asynccontextmanager
async def opened(store: Store) -> AsyncIterator[Store]:
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def the_time_is(store: Store, at_ms: int) -> None:
    move = getattr(store, "the_time_is", None)
    if move is not None:
        await move(at_ms)


async def furnish(store: Store, nanos: int, account: str = "acme", limit: int = 0) -> PriceRow:
    """A wallet with ``nanos`` in it, and a price."""
    assert await store.account_create(AccountRow(account, "wallet", 0, 0, limit, NOW_MS))
    if nanos:
        assert await store.credit(account, nanos, "topup", f"credit-{account}", NOW_MS)
    return await store.price_add(PriceRow(0, "kimi-k2.5", KIMI, NOW_MS))


def a_hold(id: str, amount: int, account: str = "acme", **fields: Any) -> HoldRow:
    values = {
        "id": id,
        "key": "key_1",
        "account": account,
        "model": "kimi-k2.5",
        "amount_nanos": amount,
        "price_version": 1,
        "owner": "us",
        "lease_s": 60,
        "created_ms": NOW_MS,
    }
    return HoldRow(**(values | fields))


async def took(store: Store, row: HoldRow, **ask: Any) -> bool:
    """Whether ``row`` was held."""
    return isinstance(await store.hold(row, **ask), HoldRow)


async def held(store: Store, row: HoldRow, **ask: Any) -> HoldRow:
    """``row`` as it was held."""
    made = await store.hold(row, **ask)
    assert isinstance(made, HoldRow)
    return made


def a_budget(
    cap: int, per: Per = "day", scope: Scope = "key", subject: str = "key_1", **fields: Any
) -> BudgetRow:
    values = {"id": f"bud_{scope}_{per}", "account": "acme", "created_ms": NOW_MS}
    return BudgetRow(scope=scope, subject=subject, per=per, cap_nanos=cap, **(values | fields))


def an_end(
    hold: HoldRow,
    usage: Usage | None = None,
    *,
    price: Price = KIMI,
    void: bool = False,
    outcome: Outcome = "done",
    ended_ms: int = NOW_MS + 1_000,
    **fields: Any,
) -> Settlement:
    """How ``hold`` ends: ``usage`` charged as far as the hold goes, or nothing when void."""
    usage = usage or Usage()
    due = charge(usage, price)
    charged = 0 if void else min(due, hold.amount_nanos)
    values = {
        "hold": hold.id,
        "key": hold.key,
        "account": hold.account,
        "model": hold.model,
        "upstream": "scripted",
        "outcome": outcome,
        "usage": usage,
        "price_version": hold.price_version,
        "charge_nanos": charged,
        "forgiven_nanos": due - charged,
        "created_ms": hold.created_ms,
        "ended_ms": ended_ms,
    }
    return Settlement(UsageRow(**(values | fields)), void=void)


async def balance(store: Store, account: str = "acme") -> tuple[int, int]:
    """(posted, held)."""
    row = await store.account(account)
    assert row is not None
    return row.posted_nanos, row.held_nanos


async def total(store: Store, kind: str) -> int:
    """What all accounts of a kind have posted."""
    return sum(row.posted_nanos for row in await store.accounts(kind))


class Disk(apsw.VFS):
    """A VFS over the real one that fails when told: ``writes`` and ``syncs`` are exceptions.

    ``after`` lets so many more calls pass first.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.writes: Callable[[], Exception] | None = None
        self.syncs: Callable[[], Exception] | None = None
        self.after = 0
        self.failed = 0
        super().__init__(name, base="")

    def xOpen(self, name: Any, flags: list[int]) -> "DiskFile":  # noqa: N802 - SQLite's name
        return DiskFile(self, name, flags)

    def mend(self) -> None:
        self.writes = self.syncs = None

    def meet(self, trouble: Callable[[], Exception] | None) -> None:
        if trouble is not None:
            if self.after > 0:
                self.after -= 1
            else:
                self.failed += 1
                raise trouble()


class DiskFile(apsw.VFSFile):
    def __init__(self, disk: Disk, name: Any, flags: list[int]) -> None:
        self.disk = disk
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - SQLite's name
        self.disk.meet(self.disk.writes)
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:  # noqa: N802 - SQLite's name
        self.disk.meet(self.disk.syncs)
        super().xSync(flags)


def in_threads(count: int, work: Callable[[int], Any]) -> list[Any]:
    """``work(n)`` in ``count`` threads, each a coroutine on an event loop of its own."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda n: asyncio.run(work(n)), range(count)))


def chunks(length: int, size: int) -> Iterator[range]:
    for start in range(0, length, size):
        yield range(start, min(start + size, length))
