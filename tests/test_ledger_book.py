"""The book: what is held, what is charged and forgiven, and that it happens once."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moongate.core.errors import LedgerUnavailable, Refused
from moongate.core.money import Bill, Counts, Price, Usage, charge
from moongate.core.ports import ManualClock, Settlement, Store
from moongate.core.rows import HoldRow, PriceRow
from moongate.core.store import Extension, Idem, NotHeld
from moongate.ledger.book import Book, Held, Payer, Told, weigh
from moongate.ledger.slices import LEAST_TOKENS, Slices, Terms
from moongate.store.memory import MemoryStore
from postgres_kit import ClockedStore
from store_kit import ENGINES, KIMI, balance, furnish, make_store, opened, the_time_is

TOKENS = st.integers(0, 10**7)
USAGES = st.builds(Usage, TOKENS, TOKENS, TOKENS, st.integers(0, 50))
PRICES = st.builds(Price, *[st.integers(0, 10**6)] * 4)
START = 1_000_000
TOLD = Told(
    "scripted",
    created_ms=123,
    streamed=True,
    counts=Counts(prompt=150, completion=30, cached=50),
    first_token_ms=12,
    duration_ms=34,
)


class Desk:
    """A store with a price and a wallet, and a book on it."""

    def __init__(self, store: Store, price: PriceRow) -> None:
        self.store, self.price, self.clock = store, price, ManualClock()
        self.book = Book(store, self.clock, "us")

    async def hold(self, nanos: int = 600_000, id: str = "h1", account: str = "acme") -> Held:
        return await self.book.hold(
            id=id,
            payer=Payer("key_1", account),
            model="kimi-k2.5",
            price=self.price,
            terms=Terms(nanos, KIMI.output, 0),
        )

    async def roll(self, cap: int, prompt: int = 0, id: str = "h1") -> Held:
        """A hold for ``prompt`` tokens and at most ``cap`` of output."""
        return await self.book.hold(
            id=id,
            payer=Payer("key_1", "acme"),
            model="kimi-k2.5",
            price=self.price,
            terms=Terms.of(KIMI, prompt, cap),
        )

    async def lapse(self) -> None:
        """Let every lease run out, and expire them."""
        late_ms = self.clock.now_ms() + 10**9
        await the_time_is(self.store, late_ms)
        await self.store.expire(late_ms, 0)


@pytest.fixture(params=ENGINES)
async def desk(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Desk]:
    async with opened(make_store(request.param, tmp_path)) as store:
        it = Desk(store, await furnish(store, START))
        yield it
        await it.book.drain()
        assert await store.audit() == []


@given(USAGES, PRICES, st.integers(0, 10**15))
def test_charge_and_forgiven_are_the_price_and_never_above_the_hold(
    usage: Usage, price: Price, held: int
) -> None:
    charged, forgiven = weigh(usage, price, held)
    assert charged + forgiven == charge(usage, price)
    assert 0 <= charged <= held
    assert forgiven >= 0
    assert forgiven == 0 or charged == held


@given(USAGES, PRICES)
def test_classes_are_disjoint_and_sum(usage: Usage, price: Price) -> None:
    assert usage.input + usage.cache_read + usage.output == usage.total
    whole = weigh(usage, price, 10**30)[0]
    parts = (
        Usage(input=usage.input),
        Usage(cache_read=usage.cache_read),
        Usage(output=usage.output),
        Usage(searches=usage.searches),
    )
    assert whole == sum(weigh(part, price, 10**30)[0] for part in parts)
    # A remark about the output is never billed beside it.
    remarked = Usage(
        usage.input, usage.cache_read, usage.output, usage.searches, reasoning=usage.output
    )
    assert weigh(remarked, price, 10**30)[0] == whole


def test_the_worked_example() -> None:
    usage = Usage(input=50_000, cache_read=150_000, output=2_000)
    assert weigh(usage, Price(480, 100, 2_000), 10**12) == (43_000_000, 0)


async def test_settle_books_what_it_returns(desk: Desk) -> None:
    hold = await desk.hold()
    assert set(desk.book.live) == {"h1"}
    assert await balance(desk.store) == (START, 600_000)
    desk.clock.advance(2)
    await the_time_is(desk.store, desk.clock.now_ms())
    usage = Usage(100, 50, 30, reasoning=5)
    bill = await desk.book.settle(hold, "done", usage, TOLD)
    row = await desk.store.usage_row("h1")
    assert row is not None
    less = 50 * (480 - 100)
    assert bill == Bill(row.usage, row.charge_nanos, 1, less) == Bill(usage, 113_000, 1, less)
    assert not desk.book.live
    assert await balance(desk.store) == (START - 113_000, 0)
    assert (row.upstream_prompt, row.upstream_completion, row.upstream_cached) == (150, 30, 50)
    assert (row.first_token_ms, row.duration_ms) == (12, 34)
    # An engine with a clock of its own takes the time at which it made the hold.
    assert row.created_ms == (hold.row.created_ms if isinstance(desk.store, ClockedStore) else 123)
    assert (row.streamed, row.status, row.outcome) == (True, 200, "done")
    assert row.ended_ms == desk.clock.now_ms()


async def test_beyond_the_hold_is_forgiven(desk: Desk) -> None:
    hold = await desk.hold(10_000)
    bill = await desk.book.settle(hold, "done", Usage(output=7), TOLD)
    row = await desk.store.usage_row("h1")
    assert row is not None
    assert (bill.cost_nanos, row.charge_nanos, row.forgiven_nanos) == (10_000, 10_000, 4_000)
    assert bill.usage.output == 7


async def test_settling_again_returns_the_first_bill(desk: Desk) -> None:
    hold = await desk.hold()
    first = await desk.book.settle(hold, "done", Usage(output=10), TOLD)
    again = await desk.book.settle(hold, "done", Usage(output=99), TOLD)
    await desk.book.void(hold, "gateway_error", Usage(), TOLD)
    assert first == again
    assert await balance(desk.store) == (START - 20_000, 0)
    assert len(await desk.store.usage()) == 1


async def test_void_costs_nothing_and_forgives_the_work(desk: Desk) -> None:
    hold = await desk.hold()
    await desk.book.void(hold, "upstream_error", Usage(input=10), TOLD)
    row = await desk.store.usage_row("h1")
    assert row is not None
    assert (row.charge_nanos, row.forgiven_nanos, row.outcome) == (0, 4_800, "upstream_error")
    assert await balance(desk.store) == (START, 0)
    assert not desk.book.live


async def test_a_hold_that_was_resolved_otherwise_says_so(desk: Desk) -> None:
    holds = [await desk.hold(1_000, id) for id in ("h1", "h2")]
    await desk.lapse()
    for hold in holds:
        with pytest.raises(LedgerUnavailable, match="resolved"):
            await desk.book.settle(hold, "done", Usage(output=1), TOLD)
    assert await balance(desk.store) == (START, 0)


@pytest.mark.parametrize(("account", "nanos"), [("acme", START + 1), ("nobody", 0), ("cash", 0)])
async def test_who_cannot_pay_is_refused(desk: Desk, account: str, nanos: int) -> None:
    with pytest.raises(Refused) as refused:
        await desk.hold(nanos, account=account)
    assert (refused.value.status, refused.value.code) == (402, "insufficient_quota")
    assert not desk.book.live
    assert await desk.store.open_holds() == []


async def test_a_caller_who_leaves_while_holding_leaves_nothing_held(desk: Desk) -> None:
    for waits in range(4):
        task = asyncio.create_task(desk.hold(1_000, f"h{waits}"))
        for _ in range(waits):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await desk.book.drain()
        assert await balance(desk.store) == (START, 0)
        assert not desk.book.live
    assert {row.outcome for row in await desk.store.usage()} == {"client_left"}


async def test_a_caller_who_leaves_while_settling_is_charged_all_the_same(desk: Desk) -> None:
    hold = await desk.hold()
    task = asyncio.create_task(desk.book.settle(hold, "client_left", Usage(output=10), TOLD))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await desk.book.drain()
    assert await balance(desk.store) == (START - 20_000, 0)


async def test_a_store_in_trouble_holds_and_charges_nothing() -> None:
    store = MemoryStore()
    desk = Desk(store, await furnish(store, START))
    hold = await desk.hold()
    store.trouble = "full"
    moves: tuple[Any, ...] = (
        desk.hold(5, "h2"),
        desk.book.settle(hold, "done", Usage(output=1), TOLD),
        desk.book.void(hold, "gateway_error", Usage(), TOLD),
    )
    for move in moves:
        with pytest.raises(LedgerUnavailable, match="full"):
            await move
    store.trouble = None
    # It is not renewed any more, so it expires unless somebody tries again.
    assert not desk.book.live
    assert (await desk.book.settle(hold, "done", Usage(output=1), TOLD)).cost_nanos
    assert await store.audit() == []


async def test_an_answer_lost_after_the_commit_is_charged_once() -> None:
    """The outcome of a commit is unknown to the caller; trying again finds it done."""

    class Forgetful(MemoryStore):
        async def settle(self, settlement: Settlement) -> bool:
            if await super().settle(settlement):
                raise LedgerUnavailable("io")
            return False

    store = Forgetful()
    desk = Desk(store, await furnish(store, START))
    hold = await desk.hold()
    usage = Usage(output=10)
    with pytest.raises(LedgerUnavailable):
        await desk.book.settle(hold, "done", usage, TOLD)
    assert await desk.book.settle(hold, "done", usage, TOLD) == Bill(usage, 20_000)
    assert await balance(store) == (START - 20_000, 0)
    assert await store.audit() == []


@given(
    st.integers(0, 10**6), st.integers(1, 10**6), st.integers(1, 262_144), st.integers(0, 10**12)
)
def test_a_cover_never_promises_more_than_is_held(
    prompt: int, unit: int, cap: int, held: int
) -> None:
    terms = Terms(prompt, unit, cap)
    cover = terms.cover(held)
    assert 0 <= cover <= cap
    assert cover == 0 or prompt + cover * unit <= held
    wanted, least = terms.first(Slices())
    assert least <= wanted == prompt + min(4096, cap) * unit
    assert terms.cover(least) == min(LEAST_TOKENS, cap)
    assert cover + terms.next(held, Slices()) <= cap


def test_output_that_costs_nothing_is_covered_whole() -> None:
    assert Terms.of(Price(5, 1, 0), 10, 700).cover(50) == 700


async def test_slices_are_held_as_the_answer_grows(desk: Desk) -> None:
    desk.book.slices = Slices(first=100, step=150)
    held = await desk.roll(cap=300, prompt=10)
    assert (held.cover, (await balance(desk.store))[1]) == (100, 10 * 480 + 100 * 2_000)
    assert await desk.book.extend(held) == 150
    assert (held.cover, held.row.slice_no) == (250, 1)
    assert await desk.book.extend(held) == 50  # the cap, and no further
    assert (await balance(desk.store))[1] == 10 * 480 + 300 * 2_000
    bill = await desk.book.settle(held, "done", Usage(input=10, output=290), TOLD)
    assert bill.cost_nanos == 10 * 480 + 290 * 2_000


async def test_a_wallet_that_runs_low_gives_whole_tokens_then_none(desk: Desk) -> None:
    desk.book.slices = Slices(first=400, step=400)
    held = await desk.roll(cap=5_000)  # 800,000 of 1,000,000
    assert await desk.book.extend(held) == 100
    assert await desk.book.extend(held) == 0
    assert held.row.slice_no == 1
    assert await balance(desk.store) == (START, START)


async def test_a_first_slice_shrinks_to_what_is_affordable(desk: Desk) -> None:
    held = await desk.roll(cap=262_144)  # 4,096 tokens would cost 8,192,000
    assert held.cover == 500
    with pytest.raises(Refused, match="insufficient_quota"):
        await desk.roll(cap=262_144, id="h2")


async def test_an_extension_of_a_hold_that_expired_says_so(desk: Desk) -> None:
    desk.book.slices = Slices(first=100)
    held = await desk.roll(cap=300)
    await desk.lapse()
    with pytest.raises(LedgerUnavailable, match="resolved"):
        await desk.book.extend(held)


async def test_a_repeated_extension_is_granted_once(desk: Desk) -> None:
    """The answer to an extension was lost: asking for the same slice again gives it once."""
    desk.book.slices = Slices(first=100, step=100)
    held = await desk.roll(cap=300)
    again = Extension("h1", 1, 100 * 2_000, 2_000)
    first = await desk.store.extend(again)
    second = await desk.store.extend(again)
    assert first == second
    assert await desk.book.extend(held) == 100
    assert await balance(desk.store) == (START, 200 * 2_000)


async def test_a_used_idempotency_key_is_told_with_the_request_that_used_it(desk: Desk) -> None:
    async def hold(id: str, body: bytes = b"b" * 32) -> Held:
        return await desk.book.hold(
            id=id,
            payer=Payer("key_1", "acme"),
            model="kimi-k2.5",
            price=desk.price,
            terms=Terms(1_000, 1, 0),
            idem=Idem("acme", ((b"k" * 32, body),), desk.clock.now_ms() + 1_000),
        )

    held = await hold("h1")
    for id, body, code, status in (
        ("h2", b"b" * 32, "idempotency_in_progress", 409),
        ("h3", b"c" * 32, "idempotency_mismatch", 422),
    ):
        with pytest.raises(Refused) as refused:
            await hold(id, body)
        assert (refused.value.code, refused.value.status) == (code, status)
    await desk.book.settle(held, "done", Usage(output=0), TOLD)
    with pytest.raises(Refused) as refused:
        await hold("h4")
    assert refused.value.code == "idempotency_completed"
    assert refused.value.headers() == {"x-moongate-usage": "h1", "x-should-retry": "false"}
    assert len(await desk.store.usage()) == 1


async def test_a_hold_whose_commit_nobody_heard_of_is_given_back() -> None:
    class Deaf(MemoryStore):
        async def hold(self, row: HoldRow, **more: Any) -> HoldRow | NotHeld:
            await super().hold(row, **more)
            raise LedgerUnavailable("timeout")

    store = Deaf()
    desk = Desk(store, await furnish(store, START))
    with pytest.raises(LedgerUnavailable):
        await desk.hold()
    await desk.book.drain()
    assert await balance(store) == (START, 0)
    assert [row.outcome for row in await store.usage()] == ["gateway_error"]


def test_what_the_book_shows_of_itself() -> None:
    assert repr(Book(MemoryStore(), ManualClock(), "us")) == "Book(0 open)"
