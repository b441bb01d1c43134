"""The ladder: down to a share of the limits when the shared counter is gone, and back."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from moongate.access.counter import LocalCounter
from moongate.access.ladder import Ladder, Replicas
from moongate.core.errors import LedgerUnavailable
from moongate.core.ports import ManualClock, SystemClock
from moongate.core.rates import SHARE, Answer, Ask, CounterGone, Rate, Room
from rates_kit import passed, take

REQUESTS = Rate("k:requests", 8, 1)
Told = list[str | None]


class Shared(LocalCounter):
    """A shared counter that a test takes away: ``mood`` is up, gone or silent."""

    def __init__(self) -> None:
        super().__init__(ManualClock())
        self.mood = "up"
        self.probes = 0

    async def ask(self, ask: Ask) -> Answer:
        self.probes += ask.ids == ("probe",)
        if self.mood == "gone":
            raise CounterGone("unreachable")
        if self.mood == "broken":
            raise ZeroDivisionError
        if self.mood == "silent":
            await asyncio.sleep(60)
        return self.count(ask)


class Hearts:
    """A store that knows how many processes live."""

    def __init__(self, alive: int) -> None:
        self.alive, self.gone = alive, False

    async def heartbeat(self, owner: str, at_ms: int) -> int:
        if self.gone:
            raise LedgerUnavailable("gone")
        return self.alive


@asynccontextmanager
async def laddered(
    shared: Shared, alive: int = 4
) -> AsyncIterator[tuple[Ladder, list[str | None]]]:
    told: list[str | None] = []
    replicas = Replicas(Hearts(alive), "srv_1", SystemClock())  # type: ignore[arg-type]  # one move
    local = LocalCounter(ManualClock())
    ladder = Ladder(shared, local, replicas, told.append, probe_s=0.05)
    await ladder.start()
    yield ladder, told
    await ladder.close()


async def until(ladder: Ladder, *, degraded: bool) -> None:
    async with asyncio.timeout(5):
        while ladder.degraded != degraded:
            await asyncio.sleep(0.01)


async def admitted(ladder: Ladder, tries: int, *parts: Rate) -> int:
    """How many of ``tries`` requests pass."""
    asks = [take(f"req_{n}", *(parts or (REQUESTS,))) for n in range(tries)]
    return passed([await ladder.ask(ask) for ask in asks])


@pytest.mark.parametrize("mood", ["gone", "silent"])
async def test_without_the_shared_counter_a_replica_admits_its_share(mood: str) -> None:
    shared = Shared()
    async with laddered(shared) as (ladder, told):
        shared.mood = mood
        assert await admitted(ladder, 20) == 2
        assert told == ["unreachable" if mood == "gone" else "slow"]


async def test_replicas_that_start_together_count_each_other_before_they_have_told() -> None:
    replicas = Replicas(Hearts(1), "srv_1", SystemClock(), 4)  # type: ignore[arg-type]  # one move
    await replicas.beat()
    assert replicas.count == 4


async def test_a_share_is_never_less_than_one() -> None:
    shared = Shared()
    async with laddered(shared, alive=100) as (ladder, _):
        shared.mood = "gone"
        assert await admitted(ladder, 5) == 1
        assert (await ladder.ask(take("r", rooms=(Room("k:answers", 50),)))).refused < 0
        assert (await ladder.ask(take("s", rooms=(Room("k:answers", 50),)))).refused == 0


async def test_silence_holds_a_request_up_for_about_the_patience_and_then_none() -> None:
    shared = Shared()
    async with laddered(shared) as (ladder, _):
        shared.mood = "silent"
        began = time.monotonic()
        await ladder.ask(take("a", REQUESTS))
        first = time.monotonic()
        for n in range(50):
            await ladder.ask(take(str(n), REQUESTS))
        assert 0.015 < first - began < 0.2
        assert time.monotonic() - first < 0.02


async def test_it_comes_back_when_the_shared_counter_answers_and_tells_each_change_once() -> None:
    shared = Shared()
    async with laddered(shared) as (ladder, told):
        shared.mood = "gone"
        await admitted(ladder, 5)
        probes = shared.probes
        await asyncio.sleep(0.2)
        assert 2 <= shared.probes - probes <= 5, "it is looked at now and then"
        shared.mood = "up"
        await until(ladder, degraded=False)
        assert await admitted(ladder, 20) == 8
        assert told == ["unreachable", None]


async def test_a_fault_that_nobody_thought_of_does_not_end_the_way_up() -> None:
    shared = Shared()
    async with laddered(shared) as (ladder, told):
        shared.mood = "gone"
        await ladder.ask(take("a", REQUESTS))
        shared.mood = "broken"
        async with asyncio.timeout(5):
            while told[-1] != "ZeroDivisionError":
                await asyncio.sleep(0.01)
        assert ladder.degraded
        shared.mood = "up"
        await until(ladder, degraded=False)
        assert told[-1] is None


async def test_a_start_without_the_shared_counter_is_no_failure() -> None:
    shared = Shared()
    shared.mood = "gone"
    async with laddered(shared) as (ladder, told):
        assert ladder.degraded
        assert await admitted(ladder, 20) == 2
        shared.mood = "up"
        await until(ladder, degraded=False)
        assert told == ["unreachable", None]


async def test_a_step_down_begins_where_the_shared_counter_stood() -> None:
    shared = Shared()
    async with laddered(shared, alive=2) as (ladder, _):
        assert await admitted(ladder, 6) == 6
        shared.mood = "gone"
        assert await admitted(ladder, 20) == 1, "of eight two are left, half of them here"


async def test_places_follow_their_answers_down_and_up() -> None:
    shared = Shared()
    room = (Room("k:answers", 4),)
    async with laddered(shared, alive=2) as (ladder, _):
        for id in "ab":
            assert (await ladder.ask(take(id, rooms=room))).refused < 0
        shared.mood = "gone"
        assert (await ladder.ask(take("c", rooms=room))).refused == 0, "two run here, half of four"
        await ladder.ask(Ask("acc", "drop", ("a",), (), room))
        assert (await ladder.ask(take("c", rooms=room))).refused < 0
        assert shared._rooms["acc", "k:answers"].keys() == {"a", "b"}
        shared.mood = "up"
        await until(ladder, degraded=False)
        assert shared._rooms["acc", "k:answers"].keys() == {"b", "c"}


async def test_a_place_taken_while_nobody_knew_is_given_back_or_kept_in_the_end() -> None:
    """The shared counter carries a step out, but its answer comes too late."""
    shared = Shared()
    room = (Room("k:answers", 4),)
    async with laddered(shared, alive=2) as (ladder, _):
        for id in "ab":
            shared.count(take(id, rooms=room))
        shared.mood = "silent"
        for id in "ab":
            await ladder.ask(take(id, rooms=room))
        await ladder.ask(Ask("acc", "drop", ("a",), (), room))
        shared.mood = "up"
        await until(ladder, degraded=False)
        assert shared._rooms["acc", "k:answers"].keys() == {"b"}


async def test_what_was_never_taken_of_the_shared_counter_is_not_given_back_to_it() -> None:
    shared = Shared()
    tokens = Rate("k:tokens", 1000, 900)
    async with laddered(shared) as (ladder, _):
        await ladder.ask(take("first", Rate("k:tokens", 1000, 500)))
        shared.mood = "gone"
        await ladder.ask(take("a", tokens))
        shared.mood = "up"
        await until(ladder, degraded=False)
        await ladder.ask(Ask("acc", "drop", ("a",), (Rate("k:tokens", 1000, -800),)))
        assert (await ladder.ask(take("b", Rate("k:tokens", 1000, 0)))).owed == (500 * SHARE,)
        await ladder.ask(Ask("acc", "drop", ("first",), (Rate("k:tokens", 1000, -400),)))
        assert (await ladder.ask(take("b", Rate("k:tokens", 1000, 0)))).owed == (100 * SHARE,)


async def test_a_busy_loop_is_not_taken_for_a_slow_counter() -> None:
    shared = Shared()

    async def answer(ask: Ask) -> Answer:
        await asyncio.sleep(0.002)
        return shared.count(ask)

    async with laddered(shared) as (ladder, told):
        shared.ask = answer  # type: ignore[method-assign]  # it answers within a few milliseconds
        work = asyncio.create_task(ladder.ask(take("a", REQUESTS)))
        await asyncio.sleep(0)
        time.sleep(0.1)
        assert (await work).refused < 0
        assert told == []


async def test_a_long_queue_that_moves_is_not_taken_for_a_slow_counter() -> None:
    shared = Shared()
    turn = asyncio.Lock()

    async def answer(ask: Ask) -> Answer:
        async with turn:
            await asyncio.sleep(0.001)
            return shared.count(ask)

    async with laddered(shared) as (ladder, told):
        shared.ask = answer  # type: ignore[method-assign]  # one at a time
        asks = [ladder.ask(take(str(n), Rate("k", 50, 1))) for n in range(150)]
        assert passed(await asyncio.gather(*asks)) == 50
        assert told == []


async def test_a_client_that_leaves_while_the_counter_is_silent_is_let_go_at_once() -> None:
    shared = Shared()
    async with laddered(shared) as (ladder, told):
        shared.mood = "silent"
        work = asyncio.create_task(ladder.ask(take("a", REQUESTS)))
        await asyncio.sleep(0)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        assert told == []


async def test_a_store_that_is_gone_leaves_the_number_of_replicas_as_it_was() -> None:
    hearts = Hearts(3)
    replicas = Replicas(hearts, "srv_1", SystemClock())  # type: ignore[arg-type]  # one move
    assert replicas.count == 1
    await replicas.beat()
    hearts.gone = True
    await replicas.beat()
    assert replicas.count == 3
    hearts.gone, hearts.alive = False, 0
    await replicas.beat()
    assert replicas.count == 1
