"""The sweep: our own holds stay, the dead's go, and trouble does not end it."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from moongate.core.money import Usage
from moongate.core.ports import ManualClock
from moongate.core.rows import Finding, InviteRow, PriceRow
from moongate.ledger.book import Book, Held, Payer, Told
from moongate.ledger.slices import Terms
from moongate.ledger.sweep import Sweep, Turns
from moongate.store.memory import MemoryStore
from store_kit import a_hold, balance, furnish


class Shop:
    def __init__(self, price: PriceRow, store: MemoryStore) -> None:
        self.store, self.price, self.clock = store, price, ManualClock()
        self.book = Book(store, self.clock, "us")
        self.said: list[tuple[str, dict[str, object]]] = []
        self.found: list[int] = []
        self.sweep = Sweep(
            store,
            self.book,
            self.clock,
            self.report,
            checked=lambda found: self.found.append(len(found)),
            turns=Turns(replay_s=0.002, renew_s=0.002, expire_s=0.004, check_s=0.006),
        )

    def report(self, name: str, /, **fields: str | int | bool | None) -> None:
        self.said.append((name, dict(fields)))

    async def hold(self, id: str) -> Held:
        return await self.book.hold(
            id=id,
            payer=Payer("k", "acme"),
            model="kimi-k2.5",
            price=self.price,
            terms=Terms(10, 1, 0),
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
        assert await shop.sweep.renew() == 1
        await shop.sweep.expire()
    assert [row.id for row in await shop.store.open_holds()] == ["mine"]
    assert shop.said == [("holds_expired", {"count": 1, "kind": "lapsed"})]


async def test_a_settled_hold_is_not_renewed(shop: Shop) -> None:
    held = await shop.hold("mine")
    await shop.book.settle(held, "done", Usage(), Told("scripted", 1))
    assert await shop.sweep.renew() == 0


async def test_what_runs_is_noted_with_the_lease_and_forgiven_when_its_holder_dies(
    shop: Shop,
) -> None:
    held = await shop.hold("mine")
    held.used = lambda: Usage(input=7, output=3)
    assert await shop.sweep.renew() == 1
    shop.book.live.clear()  # as if we had died
    shop.clock.advance(181)
    assert await shop.sweep.expire() == 1
    row = await shop.store.usage_row("mine")
    assert row is not None
    assert (row.outcome, row.usage, row.charge_nanos) == ("expired", Usage(input=7, output=3), 0)
    assert row.forgiven_nanos == 7 * 480 + 3 * 2_000


async def test_the_ledger_is_checked_in_its_turn_and_a_contradiction_is_told(shop: Shop) -> None:
    assert await shop.sweep.check() == []

    async def drifted() -> list[Finding]:
        return [Finding("I3", "acme", "held 5, open legs 0", 5)]

    shop.store.self_check = drifted  # type: ignore[method-assign]  # a store that lies
    task = asyncio.create_task(shop.sweep.run())

    async def told() -> bool:
        return ("ledger_drift", {"kind": "I3", "account": "acme"}) in shop.said

    await until(told)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert shop.found[:2] == [0, 1]


async def test_all_that_has_served_its_time_goes_in_one_turn(shop: Shop) -> None:
    over_ms = shop.clock.now_ms() + 1
    for n in range(2_500):
        await shop.store.invite_add(InviteRow(f"i{n}", "acme", "a", b"%d" % n, 0, over_ms))
    await shop.sweep.check()
    assert len(await shop.store.invites()) == 2_500
    shop.clock.advance(8 * 86_400)
    await shop.sweep.check()
    assert await shop.store.invites() == []


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


async def test_a_fault_of_ours_is_told_and_outlived(shop: Shop) -> None:
    await shop.hold("mine")
    real, failed = shop.store.renew, asyncio.Event()

    async def broken(*args: object) -> int:
        shop.store.renew = real  # type: ignore[method-assign]  # once
        failed.set()
        raise RuntimeError

    shop.store.renew = broken  # type: ignore[method-assign]  # what is tested
    task = asyncio.create_task(shop.sweep.run())
    await failed.wait()
    shop.clock.advance(59)

    async def told() -> bool:
        return ("fault", {"error": "RuntimeError"}) in shop.said

    await until(told)
    assert await shop.store.hold(a_hold("theirs", 5, owner="them"))
    shop.clock.advance(181)

    async def swept() -> bool:
        return ("holds_expired", {"count": 1, "kind": "lapsed"}) in shop.said

    await until(swept)
    assert [row.id for row in await shop.store.open_holds()] == ["mine"]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
