"""The sweep: our own holds stay, the dead's go, and trouble does not end it."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from moongate.core.money import Usage
from moongate.core.ports import ManualClock
from moongate.core.rows import PriceRow
from moongate.ledger.book import Book, Told
from moongate.ledger.sweep import Sweep
from moongate.store.memory import MemoryStore
from store_kit import a_hold, balance, furnish


class Shop:
    def __init__(self, price: PriceRow, store: MemoryStore) -> None:
        self.store, self.price, self.clock = store, price, ManualClock()
        self.book = Book(store, self.clock, "us")
        self.said: list[tuple[str, dict[str, object]]] = []
        self.sweep = Sweep(store, self.book, self.clock, self.report, renew_s=0.002, expire_s=0.004)

    def report(self, name: str, /, **fields: str | int | bool | None) -> None:
        self.said.append((name, dict(fields)))

    async def hold(self, id: str) -> None:
        await self.book.hold(
            id=id, key="k", account="acme", model="kimi-k2.5", amount_nanos=10, price=self.price
        )


@pytest.fixture
async def shop() -> Shop:
    store = MemoryStore()
    return Shop(await furnish(store, 1_000), store)


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    for _ in range(2_000):
        if await true():
            return
        await asyncio.sleep(0.002)
    pytest.fail("it did not come to pass")


async def test_what_a_dead_process_held_is_free_at_start(shop: Shop) -> None:
    for n in range(3):
        assert await shop.store.hold(a_hold(f"d{n}", 100, owner="dead"))
    await shop.hold("mine")
    assert await shop.sweep.recover() == 3
    assert await balance(shop.store) == (1_000, 10)
    assert shop.said == [("holds_expired", {"count": 3, "kind": "orphan"})]
    assert await shop.sweep.recover() == 0
    assert await shop.store.audit() == []


async def test_own_holds_outlive_their_lease_and_others_do_not(shop: Shop) -> None:
    await shop.hold("mine")
    assert await shop.store.hold(a_hold("theirs", 5, owner="them"))
    for _ in range(10):
        shop.clock.advance(59)
        assert await shop.sweep.renew(shop.clock.now_ms()) == 1
        await shop.sweep.expire(shop.clock.now_ms())
    assert [row.id for row in await shop.store.open_holds()] == ["mine"]
    assert shop.said == [("holds_expired", {"count": 1, "kind": "lapsed"})]


async def test_a_settled_hold_is_not_renewed(shop: Shop) -> None:
    await shop.hold("mine")
    hold = (await shop.store.open_holds())[0]
    await shop.book.settle(hold, shop.price, "done", Usage(), Told("scripted", 1))
    assert await shop.sweep.renew(shop.clock.now_ms()) == 0


async def test_a_clock_that_jumps_ahead_expires_nothing_of_ours(shop: Shop) -> None:
    await shop.hold("mine")
    assert await shop.store.hold(a_hold("theirs", 5, owner="them"))
    task = asyncio.create_task(shop.sweep.run())
    shop.clock.advance(3_600)

    async def theirs_gone() -> bool:
        return [row.id for row in await shop.store.open_holds()] == ["mine"]

    await until(theirs_gone)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_trouble_is_reported_and_outlived(shop: Shop) -> None:
    await shop.hold("mine")
    shop.store.trouble = "full"
    task = asyncio.create_task(shop.sweep.run())

    async def told() -> bool:
        return ("ledger_unavailable", {"kind": "full"}) in shop.said

    await until(told)
    assert not task.done()
    shop.store.trouble = None
    assert await shop.store.hold(a_hold("theirs", 5, owner="them"))
    shop.clock.advance(181)

    async def swept() -> bool:
        return ("holds_expired", {"count": 1, "kind": "lapsed"}) in shop.said

    await until(swept)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [row.id for row in await shop.store.open_holds()] == ["mine"]
