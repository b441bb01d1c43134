"""Rates on a real Redis: exact among replicas, and safe when it dies, freezes or forgets."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis

from moongate.access.counter import LocalCounter
from moongate.access.ladder import Ladder, Replicas
from moongate.access.redis_counter import RedisCounter
from moongate.core.errors import ConfigurationError
from moongate.core.ports import ManualClock
from moongate.core.rates import Ask, CounterGone, Rate, Room
from rates_kit import passed, take
from redis_kit import RedisServer, redis_server

pytestmark = pytest.mark.redis
ROOM = (Room("k:answers", 2),)


@pytest.fixture
def own() -> Iterator[RedisServer]:
    """A server of the test's own, to be treated badly."""
    with redis_server() as server:
        yield server


@pytest.fixture
def account() -> str:
    return secrets.token_hex(8)


class Hearts:
    """A store that says how many processes live."""

    async def heartbeat(self, owner: str, at_ms: int) -> int:
        return 4


class Replica:
    """A process with a ladder on ``url``; ``told`` is what it said."""

    def __init__(self, url: str, *, skew_s: float = 0, lease_ms: int = 30_000) -> None:
        self.told: list[str | None] = []
        clock = ManualClock()
        clock.advance(7200 + skew_s)
        self.shared = RedisCounter(url, lease_ms=lease_ms)
        replicas = Replicas(Hearts(), "srv", clock)  # type: ignore[arg-type]  # one move is enough
        local = LocalCounter(clock)
        # More patient than the product: a busy machine is not what is tested.
        self.ladder = Ladder(
            self.shared, local, replicas, self.told.append, patience_s=0.1, probe_s=0.1
        )

    async def back(self) -> None:
        async with asyncio.timeout(5):
            while self.ladder.degraded:
                await asyncio.sleep(0.02)


@asynccontextmanager
async def replicas(
    url: str, *skews_s: float, lease_ms: int = 30_000
) -> AsyncIterator[list[Replica]]:
    made = [Replica(url, skew_s=skew_s, lease_ms=lease_ms) for skew_s in skews_s]
    for replica in made:
        await replica.ladder.start()
    yield made
    for replica in made:
        await replica.ladder.close()


async def test_three_times_the_limit_at_once_from_four_replicas_lets_the_limit_pass(
    redis: RedisServer, account: str
) -> None:
    async with replicas(redis.url, 0, 0, 0, 0) as four:
        asks = [
            four[n % 4].ladder.ask(take(str(n), Rate("k", 20, 1), account=account))
            for n in range(60)
        ]
        assert passed(await asyncio.gather(*asks)) == 20
        assert [replica.told for replica in four] == [[], [], [], []]


async def test_concurrency_is_never_exceeded_by_replicas_that_race(
    redis: RedisServer, account: str
) -> None:
    running = most = 0

    async def answer(replica: Replica, id: str) -> None:
        nonlocal running, most
        while (await replica.ladder.ask(take(id, rooms=ROOM, account=account))).refused >= 0:
            await asyncio.sleep(0.005)
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        await replica.ladder.ask(Ask(account, "drop", (id,), (), ROOM))

    async with replicas(redis.url, 0, 0, 0, 0) as four:
        await asyncio.gather(*(answer(four[n % 4], f"req_{n}") for n in range(20)))
    assert most == 2


async def test_the_clock_of_a_replica_does_not_matter(redis: RedisServer, account: str) -> None:
    async with replicas(redis.url, 0, 3600, -3600) as three:
        asks = [
            await three[n % 3].ladder.ask(take(str(n), rooms=ROOM, account=account))
            for n in range(6)
        ]
        assert [answer.refused for answer in asks] == [-1, -1, 0, 0, 0, 0]
        rates = [
            await three[n % 3].ladder.ask(take(str(n), Rate("r", 9, 1), account=account))
            for n in range(18)
        ]
        assert passed(rates) == 9


async def test_places_of_a_replica_that_died_heal(redis: RedisServer, account: str) -> None:
    async with replicas(redis.url, 0, 0, lease_ms=300) as (dead, alive):
        for id in "ab":
            await dead.shared.ask(take(id, rooms=ROOM, account=account))
        began = time.monotonic()
        assert (await alive.ladder.ask(take("c", rooms=ROOM, account=account))).refused == 0
        while (await alive.ladder.ask(take("c", rooms=ROOM, account=account))).refused == 0:
            await asyncio.sleep(0.01)
        assert 0.2 < time.monotonic() - began < 0.6


async def test_keys_lie_in_their_accounts_slot_and_expire(redis: RedisServer, account: str) -> None:
    async with replicas(redis.url, 0) as (one,):
        await one.ladder.ask(take("req_1", Rate("key_1:tokens", 9, 1), rooms=ROOM, account=account))
    async with Redis.from_url(redis.url, protocol=2) as look:
        keys = sorted([key async for key in look.scan_iter(match=f"*{account}*")])
        tag = f"moongate:{{{account}}}:".encode()
        assert keys == [tag + b"k:answers", tag + b"key_1:tokens"]
        lives = [await look.pttl(key) for key in keys]
        assert all(0 < life <= most for life, most in zip(lives, (30_000, 120_000), strict=True))


async def test_a_script_that_the_server_forgot_is_sent_again(
    redis: RedisServer, account: str
) -> None:
    async with replicas(redis.url, 0) as (one,), Redis.from_url(redis.url, protocol=2) as other:
        await one.ladder.ask(take("a", Rate("k", 2, 1), account=account))
        await other.script_flush()
        asks = [one.ladder.ask(take(id, Rate("k", 2, 1), account=account)) for id in "bcd"]
        assert passed(await asyncio.gather(*asks)) == 1
        assert one.told == []


async def test_a_killed_server_is_done_without_and_missed_no_more_when_it_is_back(
    own: RedisServer, account: str
) -> None:
    async with replicas(own.url, 0, 0) as two:
        assert (await two[0].ladder.ask(take("a", rooms=ROOM, account=account))).refused < 0
        own.kill()
        rate = Rate("k", 8, 1)
        for replica in two:
            asks = [await replica.ladder.ask(take(str(n), rate, account=account)) for n in range(9)]
            assert passed(asks) == 2, "a quarter of the limit"
            assert replica.told == ["unreachable"]
        own.start()
        for replica in two:
            await replica.back()
        # It forgot everything; what runs was told to it anew.
        assert (await two[1].ladder.ask(take("b", rooms=ROOM, account=account))).refused < 0
        assert (await two[1].ladder.ask(take("c", rooms=ROOM, account=account))).refused == 0


async def test_a_frozen_server_holds_nobody_up_and_is_used_again_when_it_thaws(
    own: RedisServer, account: str
) -> None:
    async with replicas(own.url, 0) as (one,):
        rate = Rate("k", 400, 1)
        await one.ladder.ask(take("a", rate, account=account))
        own.freeze()
        began = time.monotonic()
        answers = [await one.ladder.ask(take(str(n), rate, account=account)) for n in range(150)]
        passed_s = time.monotonic() - began
        own.thaw()
        assert passed(answers) in (99, 100, 101), "a quarter, less a quarter of what was owed"
        assert passed_s < 0.5, "the first waits for its patience, nobody else at all"
        assert one.told == ["slow"]
        await one.back()
        assert (await one.ladder.ask(take("z", rate, account=account))).limits == (400,)


async def test_a_server_that_stalls_is_done_without_until_it_answers_again(
    own: RedisServer, account: str
) -> None:
    async with replicas(own.url, 0) as (one,), Redis.from_url(own.url, protocol=2) as other:
        await one.ladder.ask(take("a", account=account))
        stall = asyncio.create_task(other.execute_command("DEBUG", "SLEEP", "0.4"))
        await asyncio.sleep(0.05)
        began = time.monotonic()
        await one.ladder.ask(take("b", account=account))
        assert time.monotonic() - began < 0.35
        assert one.told == ["slow"]
        await stall
        await one.back()
        assert one.told == ["slow", None]


async def test_a_server_that_refuses_to_write_is_a_counter_that_is_gone(own: RedisServer) -> None:
    counter = RedisCounter(own.url)
    async with Redis.from_url(own.url, protocol=2) as other:
        await counter.ask(take("a", Rate("k", 5, 1)))
        await other.config_set("maxmemory", 1)
        with pytest.raises(CounterGone) as caught:
            await counter.ask(take("b", Rate("k", 5, 1)))
        assert caught.value.kind == "refused"
        await other.config_set("maxmemory", 0)
        assert (await counter.ask(take("b", Rate("k", 5, 1)))).refused < 0
    await counter.close()


async def test_a_server_that_cannot_write_is_not_come_back_to(
    own: RedisServer, account: str
) -> None:
    async with replicas(own.url, 0) as (one,), Redis.from_url(own.url, protocol=2) as other:
        await other.execute_command("REPLICAOF", "127.0.0.1", 1)  # as after a failover
        assert (await one.ladder.ask(take("a", Rate("k", 8, 1), account=account))).limits == (2,)
        await asyncio.sleep(0.35)
        assert one.told == ["refused"]
        await other.execute_command("REPLICAOF", "NO", "ONE")
        await one.back()
        assert one.told == ["refused", None]


async def test_an_address_that_is_none_is_told_with_an_example() -> None:
    with pytest.raises(ConfigurationError, match="redis://host:6379/0"):
        RedisCounter("localhost:6379")
