"""PostgreSQL that is slow, silent, cut off, killed or gone: nothing lost, nothing booked twice."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from chaos_kit import Chaos, chaos
from moongate.core.errors import LedgerUnavailable
from moongate.core.money import Usage
from moongate.core.rows import HoldRow
from moongate.core.store import Extension, Idem, NotHeld, Running
from moongate.store.postgres import PostgresStore
from moongate.store.postgres_pool import PATIENCE_S
from postgres_kit import Cluster, cluster, database
from store_kit import KIMI, a_hold, an_end, balance, furnish, held, opened, took

pytestmark = pytest.mark.postgres
GONE_S = 0.25
# The test machine's own hiccups, which are no part of the promise.
LEEWAY_S = 0.1


@asynccontextmanager
async def behind_chaos(
    url: str, patience_s: float = PATIENCE_S
) -> AsyncIterator[tuple[PostgresStore, Chaos]]:
    """A store on ``url`` whose connections go through a proxy."""
    async with chaos(cluster().port) as proxy:
        name = url.rpartition("/")[2]
        address = cluster().url(name, proxy.port)
        async with opened(PostgresStore(address, patience_s=patience_s)) as store:
            yield store, proxy
            proxy.mend()


async def within(limit_s: float, work: Awaitable[Any]) -> str:
    """The kind of LedgerUnavailable that ``work`` ends in, in time."""
    began = time.monotonic()
    with pytest.raises(LedgerUnavailable) as error:
        await work
    took_s = time.monotonic() - began
    assert took_s <= limit_s + LEEWAY_S, f"{took_s:.3f} s"
    return error.value.kind


async def goes_on(store: PostgresStore, id: str, amount: int = 1_000) -> HoldRow:
    """A hold as soon as the store serves again, by itself."""
    until = time.monotonic() + 10
    while True:
        try:
            return await held(store, a_hold(id, amount))
        except LedgerUnavailable:
            assert time.monotonic() < until
            await asyncio.sleep(0.05)


async def test_a_database_that_is_silent_is_gone_within_a_quarter_of_a_second() -> None:
    url = database()
    async with behind_chaos(url) as (store, proxy):
        await furnish(store, 1_000_000)
        open_hold = await held(store, a_hold("h0", 1_000))
        proxy.blackhole = True
        assert await within(GONE_S, store.hold(a_hold("h1", 1))) == "silent"
        assert await within(GONE_S, store.extend(Extension("h0", 1, 10, 1))) == "silent"
        for look in (
            store.key_by_mac(bytes(32)),  # nobody is unknown only because nobody can be asked
            store.account("acme"),
            store.usage_row("h0"),
            store.usage(),
            store.prices(),
            store.renew([Running("h0", Usage())], 0),
            store.ping(),
            store.self_check(),
        ):
            assert await within(GONE_S, look) == "silent"
        many = await asyncio.gather(
            *(within(GONE_S, store.hold(a_hold(f"m{n}", 1))) for n in range(200))
        )
        assert set(many) <= {"silent", "unreachable"}
        assert await within(2.1, store.settle(an_end(open_hold, Usage(output=1)))) == "silent"
        proxy.mend()
        await goes_on(store, "h2")
        assert await store.settle(an_end(open_hold, Usage(output=1))) in {True, False}
        assert await store.usage_row("h0") is not None
        assert await store.audit() == []


async def test_a_database_that_refuses_is_gone_at_once() -> None:
    async with behind_chaos(database()) as (store, proxy):
        await furnish(store, 1_000_000)
        proxy.refuse = True
        proxy.reset()
        await asyncio.sleep(0.01)
        assert await within(0.05, store.hold(a_hold("h1", 1))) in {"unreachable", "lost"}
        assert await within(0.05, store.key_by_mac(bytes(32))) in {"unreachable", "lost"}
        proxy.mend()
        await goes_on(store, "h1")


async def test_a_settlement_waits_for_a_database_that_comes_back() -> None:
    async with behind_chaos(database()) as (store, proxy):
        await furnish(store, 1_000_000)
        row = await held(store, a_hold("h1", 100_000))
        proxy.refuse = True
        proxy.reset()
        task = asyncio.create_task(store.settle(an_end(row, Usage(output=10))))
        await asyncio.sleep(0.3)
        assert not task.done()
        proxy.mend()
        assert await task
        assert await balance(store) == (980_000, 0)


CUTS: dict[str, Callable[[Chaos], None]] = {
    "reset": Chaos.reset,
    "finish": Chaos.finish,
    "half close": Chaos.half_close,
}


@pytest.mark.parametrize("cut", CUTS)
async def test_connections_cut_under_load_lose_nothing(cut: str) -> None:
    """Every request that was told anything is in the books, once."""
    async with behind_chaos(database()) as (store, proxy):
        await furnish(store, 10**9)
        settled, unsure = 0, 0

        async def request(n: int) -> None:
            nonlocal settled, unsure
            try:
                row = await held(store, a_hold(f"h{n}", 100_000))
                # A repeat of an unknown commit may find its own work done.
                await store.settle(an_end(row, Usage(output=10)))
                settled += 1
            except LedgerUnavailable:
                unsure += 1

        async def cutting() -> None:
            seen = 0
            while True:
                await asyncio.sleep(0.001)
                if settled + unsure >= seen + 30:
                    seen = settled + unsure
                    CUTS[cut](proxy)

        cutter = asyncio.create_task(cutting())
        for start in range(0, 600, 50):
            await asyncio.gather(*(request(n) for n in range(start, start + 50)))
        cutter.cancel()
        rows = await store.usage()
        assert settled > 300
        assert settled <= len(rows) <= settled + unsure
        assert (await balance(store))[0] == 10**9 - 20_000 * len(rows)
        assert await store.audit() == []


async def test_the_answer_to_a_commit_is_lost_and_it_is_booked_once() -> None:
    idem = Idem("acme", ((b"k" * 32, b"b" * 32),), 4 * 10**12)
    async with behind_chaos(database()) as (store, proxy):
        await furnish(store, 1_000_000)
        await held(store, a_hold("warm", 1))

        proxy.eat(b"h-lost")
        row = await held(store, a_hold("h-lost", 100_000), idem=idem)
        assert (proxy.eaten, row.amount_nanos) == (1, 100_000)
        assert await balance(store) == (1_000_000, 100_001)

        proxy.eat(b"h-lost")
        more = await store.extend(Extension("h-lost", 1, 40_000, 2_000))
        assert more is not None
        assert (proxy.eaten, more.amount_nanos, more.slice_no) == (2, 140_000, 1)

        proxy.eat(b"h-lost")
        # Who asks again is told that it was resolved before, as a journal's replay is.
        assert await store.settle(an_end(more, Usage(output=10))) is False
        assert proxy.eaten == 3
        assert await balance(store) == (980_000, 1)
        assert len(await store.usage()) == 1
        assert isinstance(await store.hold(a_hold("again", 1), idem=idem), NotHeld)

        proxy.eat(b"credit-lost")
        with pytest.raises(LedgerUnavailable):
            await store.credit("acme", 5, "topup", "credit-lost", 0)
        assert not await store.credit("acme", 5, "topup", "credit-lost", 0)
        assert await balance(store) == (980_005, 1)
        assert await store.audit() == []


async def test_slow_and_narrow_lines_only_take_longer() -> None:
    async with behind_chaos(database(), patience_s=10.0) as (store, proxy):
        await furnish(store, 1_000_000)
        proxy.delay_s, proxy.rate = 0.02, 200_000
        rows = await asyncio.gather(*(held(store, a_hold(f"h{n}", 100)) for n in range(100)))
        assert all(await asyncio.gather(*(store.settle(an_end(row)) for row in rows)))
        assert await balance(store) == (1_000_000, 0)


async def test_a_connection_that_takes_longer_than_anybody_waits_is_made_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with behind_chaos(database()) as (store, proxy):
        await furnish(store, 1_000_000)
        real = asyncpg.connect

        async def slow(*words: Any, **names: Any) -> Any:
            await asyncio.sleep(0.5)
            return await real(*words, **names)

        monkeypatch.setattr(asyncpg, "connect", slow)
        proxy.reset()
        await asyncio.sleep(0.01)
        assert await within(GONE_S, store.account("acme")) == "silent"
        await asyncio.sleep(0.7)
        assert await store.account("acme") is not None


@pytest.fixture
def own() -> Any:
    """A cluster that a test may hurt."""
    it = Cluster()
    try:
        yield it
    finally:
        it.remove()


async def test_a_server_that_is_stopped_crashes_and_comes_back(own: Cluster) -> None:
    async with opened(PostgresStore(own.url("postgres"))) as store:
        await furnish(store, 1_000_000)
        first = await held(store, a_hold("h1", 100_000))

        # Not a sign of life, and yet nothing is closed.
        own.signal(signal.SIGSTOP)
        try:
            assert await within(GONE_S, store.hold(a_hold("h2", 1))) == "silent"
            assert await within(GONE_S, store.key_by_mac(bytes(32))) == "silent"
        finally:
            own.signal(signal.SIGCONT)
        await goes_on(store, "h3")
        assert await store.expire(0, 0) == []  # others may not be back yet

        # As when the power fails: no word to anybody, and recovery at the next start.
        settle = asyncio.create_task(store.settle(an_end(first, Usage(output=10))))
        assert await settle
        own.stop(signal.SIGQUIT)
        assert await within(GONE_S, store.hold(a_hold("h4", 1))) in {"unreachable", "lost"}
        await asyncio.to_thread(own.start)
        await goes_on(store, "h5")
        row = await store.usage_row("h1")
        assert row is not None
        assert row.charge_nanos == 10 * KIMI.output
        assert await store.audit() == []


async def test_after_an_outage_the_owners_get_time_to_renew(monkeypatch: Any) -> None:
    from moongate.store import postgres_money

    async with behind_chaos(database()) as (store, proxy):
        await furnish(store, 1_000_000)
        await held(store, a_hold("h1", 10, lease_s=0))
        await asyncio.sleep(0.01)
        proxy.refuse = True
        proxy.reset()
        await within(GONE_S, store.hold(a_hold("h2", 1)))
        proxy.mend()
        await goes_on(store, "h3")
        assert await store.expire(0, 0) == []
        monkeypatch.setattr(postgres_money, "QUIET_S", 0.0)
        assert await store.expire(0, 0) == ["h1"]


async def test_a_row_that_is_locked_elsewhere_is_waited_for_and_then_given_up() -> None:
    url = database()
    async with opened(PostgresStore(url)) as store:
        await furnish(store, 1_000_000)
        other = await asyncpg.connect(url)
        tx = other.transaction()
        await tx.start()
        await other.execute("SELECT 1 FROM account WHERE id = 'acme' FOR UPDATE")
        task = asyncio.create_task(store.hold(a_hold("h1", 10)))
        await asyncio.sleep(0.1)
        await tx.rollback()
        assert isinstance(await task, HoldRow)
        tx = other.transaction()
        await tx.start()
        await other.execute("SELECT 1 FROM account WHERE id = 'acme' FOR UPDATE")
        assert await within(2.0, store.hold(a_hold("h2", 10))) in {"busy", "silent"}
        await tx.rollback()
        await other.close()
        assert await took(store, a_hold("h3", 10))
        assert await store.audit() == []


async def test_a_closed_store_takes_nothing_and_finishes_what_it_took() -> None:
    url = database()
    store = PostgresStore(url)
    await store.open()
    await furnish(store, 1_000_000)
    tasks = [asyncio.create_task(store.hold(a_hold(f"h{n}", 10))) for n in range(100)]
    await asyncio.sleep(0)
    await store.close()
    assert all(isinstance(row, HoldRow) for row in await asyncio.gather(*tasks))
    for work in (store.hold(a_hold("late", 1)), store.account("acme"), store.ping()):
        assert await within(GONE_S, work) == "closed"
    async with opened(PostgresStore(url)) as again:
        assert len(await again.open_holds()) == 100
