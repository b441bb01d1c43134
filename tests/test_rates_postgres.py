"""Rates on a real PostgreSQL: exact among replicas, and safe when it freezes, stops or forgets."""

import asyncio
import secrets
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from moongate.access.counter import LocalCounter
from moongate.access.ladder import Ladder, Replicas
from moongate.core.ports import SystemClock
from moongate.core.rates import Ask, CounterGone, Rate, Room
from moongate.store.postgres_rates import PostgresCounter
from postgres_kit import cluster, database
from rates_kit import passed, take

pytestmark = pytest.mark.postgres
ROOM = (Room("k:answers", 2),)


class Hearts:
    """A store that says how many processes live."""

    async def heartbeat(self, owner: str, at_ms: int) -> int:
        return 4


@asynccontextmanager
async def counters(url: str, count: int, **more: float) -> AsyncIterator[list[PostgresCounter]]:
    made = [PostgresCounter(url, patience_s=10, **more) for _ in range(count)]  # type: ignore[arg-type]  # its own words
    for counter in made:
        await counter.start()
    yield made
    for counter in made:
        await counter.close()


@asynccontextmanager
async def laddered(url: str) -> AsyncIterator[tuple[Ladder, list[str | None]]]:
    told: list[str | None] = []
    replicas = Replicas(Hearts(), "srv", SystemClock())  # type: ignore[arg-type]  # one move
    local = LocalCounter(SystemClock())
    ladder = Ladder(PostgresCounter(url), local, replicas, told.append, patience_s=0.1, probe_s=0.1)
    await ladder.start()
    yield ladder, told
    await ladder.close()


async def back(ladder: Ladder) -> None:
    async with asyncio.timeout(10):
        while ladder.degraded:
            await asyncio.sleep(0.02)


@pytest.fixture
def url() -> str:
    return database()


async def test_three_times_the_limit_at_once_from_four_replicas_lets_the_limit_pass(
    url: str,
) -> None:
    cluster().psql(url.rpartition("/")[2], "INSERT INTO manual_clock VALUES (1)")
    async with counters(url, 4) as four:
        rates = (Rate("k", 50, 1), Rate("account", 100, 1))
        asks = [four[n % 4].ask(take(str(n), *rates)) for n in range(150)]
        answers = await asyncio.gather(*asks)
        assert passed(answers) == 50
        after = await four[0].ask(take("after", Rate("account", 100, 50)))
        assert after.refused < 0, "a refusal took from the account"


async def test_concurrency_is_never_exceeded_by_replicas_that_race(url: str) -> None:
    running = most = 0

    async def answer(counter: PostgresCounter, id: str) -> None:
        nonlocal running, most
        while (await counter.ask(take(id, rooms=ROOM))).refused >= 0:
            await asyncio.sleep(0.005)
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        await counter.ask(Ask("acc", "drop", (id,), (), ROOM))

    async with counters(url, 4) as four:
        await asyncio.gather(*(answer(four[n % 4], f"req_{n}") for n in range(20)))
    assert most == 2


async def test_accounts_are_counted_beside_each_other_and_nobody_waits_in_a_circle(
    url: str,
) -> None:
    async with counters(url, 4) as four:
        asks = [
            four[n % 4].ask(take(str(n), Rate("k", 5, 1), Rate("r", 9, 1), account=f"acc{n % 7}"))
            for n in range(140)
        ]
        assert passed(await asyncio.gather(*asks)) == 7 * 5


async def test_places_of_a_replica_that_died_heal(url: str) -> None:
    async with counters(url, 2, lease_ms=300) as (dead, alive):
        for id in "ab":
            await dead.ask(take(id, rooms=ROOM))
        began = time.monotonic()
        while (await alive.ask(take("c", rooms=ROOM))).refused == 0:
            await asyncio.sleep(0.01)
        assert 0.2 < time.monotonic() - began < 0.8


async def test_what_is_owed_no_more_is_forgotten_and_what_is_owed_is_not(url: str) -> None:
    db = await asyncpg.connect(url)
    await db.execute("INSERT INTO manual_clock VALUES (1000000)")
    account = secrets.token_hex(8)
    async with counters(url, 1, forget_s=0.05) as (counter,):
        await counter.ask(take("a", Rate("old", 1, 1), rooms=ROOM, account=account))
        await db.execute("UPDATE manual_clock SET at_ms = at_ms + 119999")
        await counter.ask(take("a", Rate("new", 1, 1), account=account))
        await asyncio.sleep(0.2)
        assert await db.fetchval("SELECT count(*) FROM rate") == 2
        assert await db.fetchval("SELECT count(*) FROM rate_place") == 0
        await db.execute("UPDATE manual_clock SET at_ms = at_ms + 1")
        async with asyncio.timeout(5):
            while await db.fetchval("SELECT count(*) FROM rate") != 1:
                await asyncio.sleep(0.02)
        assert await db.fetchval("SELECT name FROM rate") == "new"
    await db.close()


async def test_a_frozen_database_holds_nobody_up_and_is_used_again_when_it_thaws(url: str) -> None:
    async with laddered(url) as (ladder, told):
        rate = Rate("k", 400, 1)
        await ladder.ask(take("a", rate))
        cluster().signal(signal.SIGSTOP)
        try:
            began = time.monotonic()
            answers = [await ladder.ask(take(str(n), rate)) for n in range(150)]
            passed_s = time.monotonic() - began
        finally:
            cluster().signal(signal.SIGCONT)
        assert passed(answers) in (99, 100, 101), "a quarter, less a quarter of what was owed"
        assert passed_s < 2
        assert told in (["slow"], ["silent"])  # as the machine is busy or not
        await back(ladder)
        assert (await ladder.ask(take("z", rate))).limits == (400,)


async def test_a_database_that_stops_is_done_without_and_missed_no_more_when_it_is_back(
    url: str,
) -> None:
    async with laddered(url) as (ladder, told):
        assert (await ladder.ask(take("a", rooms=ROOM))).refused < 0
        cluster().stop(signal.SIGQUIT)
        try:
            answers = [await ladder.ask(take(str(n), Rate("k", 8, 1))) for n in range(9)]
        finally:
            cluster().start()
        assert passed(answers) == 2
        assert len(told) == 1
        await back(ladder)
        assert told[1:] == [None]
        # The crash emptied the tables; what runs was told to the database anew.
        assert (await ladder.ask(take("b", rooms=ROOM))).refused < 0
        assert (await ladder.ask(take("c", rooms=ROOM))).refused == 0


async def test_a_database_without_the_tables_is_a_counter_that_is_gone() -> None:
    async with counters(database(empty=True), 1) as (counter,):
        with pytest.raises(CounterGone, match="store"):
            await counter.ask(take("a", Rate("k", 5, 1)))
