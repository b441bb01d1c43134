"""Many processes that want the same money of PostgreSQL at once, and the line in which moves wait.

Each store object has its own connections, as each process has.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import asyncpg
import pytest

from moongate.core.errors import LedgerUnavailable
from moongate.core.money import Usage
from moongate.core.rows import AccountRow, HoldRow
from moongate.core.store import Extension, Idem, NotHeld, Running
from moongate.store.postgres import PostgresStore
from moongate.store.postgres_line import ABREAST, BATCH_MAX, LANES, Line, Move
from postgres_kit import cluster, database
from store_kit import (
    NOW_MS,
    a_budget,
    a_hold,
    an_end,
    balance,
    furnish,
    held,
    opened,
    took,
    total,
)

AFFORDABLE, AMOUNT, CLIENTS, TRIES = 10, 7, 16, 320
on_postgres = pytest.mark.postgres


@asynccontextmanager
async def replicas(count: int, url: str | None = None) -> AsyncIterator[list[PostgresStore]]:
    """So many stores on one database, patient with a busy machine."""
    url = url or database()
    async with AsyncExitStack() as stack:
        stores = [PostgresStore(url, patience_s=10.0) for _ in range(count)]
        for store in stores:
            await stack.enter_async_context(opened(store))
        yield stores


@on_postgres
@pytest.mark.parametrize("rounds", [100, pytest.param(1_000, marks=pytest.mark.full)])
async def test_sixteen_clients_race_for_ten_holds(rounds: int) -> None:
    async with replicas(CLIENTS) as stores:
        won = [0] * rounds
        assert await stores[0].account_create(AccountRow("cap", "budget", 0, 0, 10**9, NOW_MS))

        async def tries(n: int, client: int) -> None:
            rows = [
                a_hold(f"{n}-{client}-{k}", AMOUNT, f"a{n}", legs=("cap",))
                for k in range(TRIES // CLIENTS)
            ]
            answers = await asyncio.gather(*(took(stores[client], row) for row in rows))
            won[n] += sum(answers)

        for start in range(0, rounds, 5):
            some = range(start, start + 5)
            for n in some:
                await furnish(stores[0], AFFORDABLE * AMOUNT + AMOUNT - 1, f"a{n}")
            await asyncio.gather(*(tries(n, client) for n in some for client in range(CLIENTS)))
        print(f"{rounds} rounds of {TRIES} tries by {CLIENTS} clients: won {set(won)} each")
        assert set(won) == {AFFORDABLE}
        assert await balance(stores[1], "cap") == (0, rounds * AFFORDABLE * AMOUNT)
        assert await stores[2].audit() == []


@on_postgres
async def test_partial_holds_and_extensions_race_for_the_last_of_a_wallet() -> None:
    async with replicas(8) as stores:
        await furnish(stores[0], 100_003)

        async def client(n: int) -> int:
            store, mine = stores[n % 8], 0
            ask = a_hold(f"h{n}", 10_000)
            row = await store.hold(ask, floor_nanos=1_000, unit_nanos=10)
            if isinstance(row, HoldRow):
                more = await store.extend(Extension(row.id, 1, 20_000, 10))
                assert more is not None
                assert row.amount_nanos <= more.amount_nanos
                mine = more.amount_nanos
            return mine

        amounts = await asyncio.gather(*(client(n) for n in range(64)))
        assert 100_003 - 10 < sum(amounts) <= 100_003
        assert await balance(stores[0]) == (100_003, sum(amounts))


@on_postgres
async def test_every_order_of_locks_ends_and_the_books_hold() -> None:
    """Random moves of everything on few rows from many sides: no deadlock, no fault."""
    dice = random.Random(20261124)
    url = database()
    async with replicas(6, url) as stores:
        names = [f"w{n}" for n in range(5)]
        for name in names:
            await furnish(stores[0], 10**7, name)
        for name in names:
            subject = {"scope": "account", "subject": name, "account": name, "id": f"bud_{name}"}
            await stores[0].budget_set(a_budget(10**7, **subject))
        done: list[str] = []

        async def request(n: int) -> None:
            store = dice.choice(stores)
            legs = tuple(dice.sample(names, 2))
            row = a_hold(f"h{n}", dice.randrange(1, 50_000), dice.choice(names), legs=legs)
            made = await store.hold(row, floor_nanos=1, unit_nanos=1)
            if isinstance(made, NotHeld):
                return
            await store.renew([Running(made.id, Usage(1, 2, 3))], NOW_MS)
            await store.extend(Extension(made.id, 1, dice.randrange(1, 30_000), 7))
            if dice.random() < 0.9:
                void = dice.random() < 0.2
                end = an_end(made, Usage(output=dice.randrange(60)), void=void)
                assert await dice.choice(stores).settle(end)
                done.append(made.id)

        async def office() -> None:
            for n in range(30):
                name = dice.choice(names)
                await dice.choice(stores).credit(name, 1_000, "topup", f"t{n}", NOW_MS)
                subject = {"scope": "account", "subject": name, "account": name}
                if n % 3:
                    row = a_budget(dice.randrange(10**7), id=f"bud_{name}_{n}", **subject)
                    await dice.choice(stores).budget_set(row)
                else:
                    await dice.choice(stores).budget_remove("account", name, "day")
                await dice.choice(stores).low_wallets(10**8, NOW_MS)
                await dice.choice(stores).expire(NOW_MS, 3_600)

        async def requests() -> None:
            for start in range(0, 600, 60):
                await asyncio.gather(*(request(n) for n in range(start, start + 60)))

        await asyncio.gather(requests(), office(), office_again(stores))
        assert len(done) > 300
        assert len(await stores[0].usage()) == len(done)
        assert await stores[0].audit() == []
    name = url.rpartition("/")[2]
    asked = f"SELECT deadlocks FROM pg_stat_database WHERE datname = '{name}'"
    assert cluster().psql("postgres", asked) == "0"


async def office_again(stores: Sequence[PostgresStore]) -> None:
    """Expiry and alerts from another side."""
    for store in stores:
        await store.expire(NOW_MS, 3_600)
        await store.low_wallets(10**8, NOW_MS)
        await store.low_told(["w0", "w1"])


@on_postgres
async def test_a_window_that_is_opened_while_its_cap_is_lowered_has_the_new_one() -> None:
    url = database()
    async with replicas(1, url) as (store,):
        await furnish(store, 10**6)
        await store.budget_set(a_budget(1_000))
        other = await asyncpg.connect(url)
        async with other.transaction():
            lowered = "SELECT moongate_budget_set('x', 'acme', 'key', 'key_1', 'day', 5, 1)"
            await other.execute(lowered)
            task = asyncio.create_task(store.hold(a_hold("h1", 10)))
            await asyncio.sleep(0.1)
            assert not task.done()
        await other.close()
        assert await task == NotHeld("short")
        assert await took(store, a_hold("h2", 5))
        assert [row.credit_limit_nanos for row in await store.accounts("budget")] == [5]


@on_postgres
async def test_one_idempotency_key_at_four_replicas_makes_one_hold() -> None:
    async with replicas(4) as stores:
        await furnish(stores[0], 1_000_000)
        idem = Idem("acme", ((b"k" * 32, b"b" * 32),), 4 * 10**12)
        asks = [stores[n % 4].hold(a_hold(f"h{n}", 100, key="key_1"), idem=idem) for n in range(50)]
        answers = await asyncio.gather(*asks)
        made = [row for row in answers if isinstance(row, HoldRow)]
        assert len(made) == 1
        others = [row for row in answers if isinstance(row, NotHeld)]
        assert {(row.why, row.hold) for row in others} == {("running", made[0].id)}
        assert await balance(stores[0]) == (1_000_000, 100)


@on_postgres
async def test_settle_void_and_expiry_race_for_one_hold() -> None:
    async with replicas(3) as stores:
        await furnish(stores[0], 10**9)
        for n in range(60):
            row = await held(stores[0], a_hold(f"h{n}", 50_000, lease_s=0))
            await asyncio.sleep(0.002)
            moves = [
                stores[0].settle(an_end(row, Usage(output=1))),
                stores[1].settle(an_end(row, Usage(output=2), void=True)),
                stores[2].expire(0, 0),
            ]
            answers = await asyncio.gather(*moves)
            assert sum(answer is True or answer == [row.id] for answer in answers) == 1
        assert len(await stores[0].usage()) == 60
        assert (await balance(stores[0]))[1] == 0
        assert await stores[0].audit() == []


@on_postgres
async def test_clocks_of_the_processes_do_not_matter() -> None:
    """One is an hour ahead, one an hour behind: leases, windows and times are the database's."""
    hour_ms = 3_600_000
    async with replicas(2) as (ahead, behind):
        await furnish(ahead, 10**9)
        await ahead.budget_set(a_budget(1_000, created_ms=NOW_MS))
        first = await held(ahead, a_hold("h1", 400, created_ms=NOW_MS + 24 * hour_ms))
        second = await held(behind, a_hold("h2", 400, created_ms=NOW_MS - 24 * hour_ms))
        assert abs(first.created_ms - second.created_ms) < 10_000
        assert len(first.legs) == 2
        assert first.legs == second.legs  # one window
        assert not await took(behind, a_hold("h3", 201, created_ms=NOW_MS + 24 * hour_ms))
        assert await ahead.expire(first.created_ms + 24 * hour_ms, 0) == []
        assert await behind.renew([Running("h1", Usage())], NOW_MS - 24 * hour_ms) == 1
        assert await ahead.expire(first.created_ms + 24 * hour_ms, 0) == []
        assert await ahead.heartbeat("a", NOW_MS + hour_ms) == 1
        assert await behind.heartbeat("b", NOW_MS - hour_ms) == 2
        assert await behind.settle(an_end(second, Usage(output=0), ended_ms=5))
        row = await ahead.usage_row("h2")
        assert row is not None
        assert 0 <= row.ended_ms - row.created_ms < 60_000


@on_postgres
async def test_revenue_is_spread_and_adds_up() -> None:
    async with replicas(6) as stores:
        await furnish(stores[0], 10**9)
        for n in range(24):
            row = await held(stores[n % 6], a_hold(f"h{n}", 2_000))
            assert await stores[n % 6].settle(an_end(row, Usage(output=1)))
        assert await total(stores[0], "revenue") == 24 * 2_000
        rows = await stores[0].accounts("revenue")
        assert len(rows) == 16
        assert sum(row.posted_nanos > 0 for row in rows) > 1


class Sink:
    """Where a line sends its batches: it keeps them until they are let go."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.under_way: list[list[str]] = []
        self.go = asyncio.Event()
        self.troubles: list[Exception] = []

    async def send(self, batch: Sequence[Move], lane: int) -> Sequence[Any]:
        holds = [move.hold for move in batch]
        assert len(set(holds)) == len(holds)
        assert not any(set(holds) & set(other) for other in self.under_way)
        assert 0 <= lane < LANES
        self.batches.append(holds)
        self.under_way.append(holds)
        await self.go.wait()
        self.under_way.remove(holds)
        if self.troubles:
            raise self.troubles.pop(0)
        return [f"done {hold}" for hold in holds]


def move(hold: str, account: str = "", patient_s: float = 0) -> Move:
    return Move("hold", hold, account, b"{}", patient_s)


async def test_moves_wait_for_each_other_but_never_two_of_one_hold() -> None:
    sink = Sink()
    line = Line(sink.send)
    futures = [line.put(move(f"h{n % 100}")) for n in range(300)]
    await asyncio.sleep(0.05)
    assert len(sink.under_way) <= LANES
    assert len(sink.batches[0]) == BATCH_MAX
    sink.go.set()
    assert await asyncio.gather(*futures) == [f"done h{n % 100}" for n in range(300)]
    assert sum(map(len, sink.batches)) == 300
    await line.close()
    with pytest.raises(LedgerUnavailable, match="closed"):
        line.put(move("late"))


async def test_moves_of_one_account_are_under_way_in_two_batches_at_most() -> None:
    sink = Sink()
    line = Line(sink.send)
    futures = [line.put(move(f"h{n}", f"a{n % 2}")) for n in range(200)]
    await asyncio.sleep(0.05)
    assert [len(batch) for batch in sink.under_way] == [BATCH_MAX] * ABREAST
    # Whoever has another account passes by, and one of a busy hold waits whatever its account.
    futures += [line.put(move(f"o{n}", f"b{n}")) for n in range(30)]
    again = line.put(move("h0", "b0"))
    await asyncio.sleep(0.05)
    assert [len(batch) for batch in sink.under_way] == [*[BATCH_MAX] * ABREAST, 30]
    sink.go.set()
    await asyncio.gather(*futures)
    assert await again == "done h0"
    firsts = [batch for batch in sink.batches if batch[0].startswith("h")]
    assert [int(hold[1:]) for batch in firsts for hold in batch] == [*range(200), 0]
    await line.close()


async def test_a_lost_batch_is_sent_again_as_it_was_and_bounded() -> None:
    sink = Sink()
    sink.go.set()
    line = Line(sink.send)
    sink.troubles = [LedgerUnavailable("lost"), LedgerUnavailable("silent")]
    assert await line.put(move("h1")) == "done h1"
    assert sink.batches == [["h1"]] * 3
    sink.troubles = [LedgerUnavailable("lost")] * 9
    with pytest.raises(LedgerUnavailable, match="lost"):
        await line.put(move("h2"))
    assert sink.batches.count(["h2"]) == 3
    sink.troubles = [LedgerUnavailable("unreachable")] * 3
    answers = await asyncio.gather(
        line.put(move("h3")), line.put(move("h4", patient_s=5)), return_exceptions=True
    )
    assert isinstance(answers[0], LedgerUnavailable)
    assert answers[1] == "done h4"
    await line.close()


async def test_one_that_spoils_a_batch_is_found_and_the_others_are_served() -> None:
    async def send(batch: Sequence[Move], lane: int) -> Sequence[Any]:
        if any(one.hold == "bad" for one in batch):
            raise ValueError("the store refused this row")
        return [True] * len(batch)

    line = Line(send)
    names = ["a", "bad", "b", "c"]
    answers = await asyncio.gather(
        *(line.put(move(name)) for name in names), return_exceptions=True
    )
    assert [answer is True for answer in answers] == [True, False, True, True]
    assert isinstance(answers[1], ValueError)
    await line.close()


async def test_who_gave_up_waiting_is_not_sent() -> None:
    sink = Sink()
    line = Line(sink.send, lanes=1)
    first = line.put(move("h1"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    gone, stays = line.put(move("h2")), line.put(move("h3"))
    gone.cancel()
    sink.go.set()
    assert [await first, await stays] == ["done h1", "done h3"]
    assert sink.batches == [["h1"], ["h3"]]
    await line.close()
