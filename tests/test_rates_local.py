"""Counting rates in one process: exact against a slow reference, in virtual time."""

import pytest
from hypothesis import given

from moongate.access.counter import LocalCounter
from moongate.core import rates
from moongate.core.ports import ManualClock
from moongate.core.rates import SHARE, Ask, Rate, Room
from rates_kit import LEASE_MS, SCHEDULES, TimedLocal, agree, passed, take


def fresh() -> tuple[ManualClock, LocalCounter]:
    clock = ManualClock()
    return clock, LocalCounter(clock, LEASE_MS)


@given(SCHEDULES)
async def test_any_schedule_is_counted_as_the_reference_counts(schedule: list[tuple]) -> None:
    await agree(TimedLocal(), schedule)


async def test_a_schedule_that_asks_too_much_is_refused_by_both() -> None:
    steps = [(0, "take", id, {"k:requests"}, {"k:answers"}, 0, False) for id in "abcdeabcde"]
    assert await agree(TimedLocal(), steps) == 8


@pytest.mark.parametrize("limit", [1, 7, 60, 1000])
async def test_three_times_the_limit_at_once_lets_exactly_the_limit_pass(limit: int) -> None:
    _, counter = fresh()
    answers = [counter.count(take(str(n), Rate("k", limit, 1))) for n in range(3 * limit)]
    assert passed(answers) == limit
    assert all(answer.refused < 0 for answer in answers[:limit])


async def test_a_refusal_consumes_nothing_of_what_would_have_passed() -> None:
    _, counter = fresh()
    tight, wide, room = Rate("k:requests", 1, 1), Rate("account:tokens", 100, 60), Room("k", 5)
    assert counter.count(take("a", tight, wide, rooms=(room,))).refused < 0
    refused = counter.count(take("b", tight, Rate("account:tokens", 100, 40), rooms=(room,)))
    assert refused.refused == 0
    assert refused.owed[1] == 60 * SHARE
    last = counter.count(take("c", Rate("account:tokens", 100, 40), rooms=(Room("k", 2),)))
    assert last.refused < 0, "the refused request took tokens or a place"


async def test_what_waits_as_told_passes_and_a_millisecond_earlier_does_not() -> None:
    clock, counter = fresh()
    for limit, amount in [(7, 1), (60, 1), (999, 500), (1_000_000_000, 999_999_999)]:
        name = f"k{limit}"
        while (answer := counter.count(take("a", Rate(name, limit, amount)))).refused < 0:
            pass
        clock.advance((answer.wait_ms - 1) / 1000)
        assert counter.count(take("a", Rate(name, limit, amount))).wait_ms == 1
        clock.advance(0.001)
        assert counter.count(take("a", Rate(name, limit, amount))).refused < 0


async def test_of_several_refusals_the_longest_is_named() -> None:
    _, counter = fresh()
    slow, quick = Rate("slow", 1, 1), Rate("quick", 60, 60)
    counter.count(take("a", slow, quick, rooms=(Room("k", 1),)))
    answer = counter.count(take("b", Rate("quick", 60, 30), slow, rooms=(Room("k", 1),)))
    assert (answer.refused, answer.wait_ms) == (1, 60_000)
    answer = counter.count(take("b", Rate("quick", 60, 0), rooms=(Room("k", 1),)))
    assert (answer.refused, answer.wait_ms) == (1, rates.ROOM_WAIT_MS)


async def test_a_running_answer_is_never_refused_tokens_and_owes_two_minutes_at_most() -> None:
    clock, counter = fresh()
    counter.count(take("a", Rate("t", 100, 100)))
    answer = counter.count(Ask("acc", "keep", ("a",), (Rate("t", 100, 5000),)))
    assert answer.refused < 0
    assert answer.owed == (2 * 100 * SHARE,)
    clock.advance(60)
    assert counter.count(take("b", Rate("t", 100, 1))).wait_ms == 600
    clock.advance(0.6)
    assert counter.count(take("b", Rate("t", 100, 1))).refused < 0


async def test_a_request_larger_than_a_minutes_worth_passes_when_nothing_is_owed() -> None:
    clock, counter = fresh()
    assert counter.count(take("a", Rate("t", 100, 500))).refused < 0
    clock.advance(119.999)
    assert counter.count(take("b", Rate("t", 100, 500))).wait_ms == 1
    clock.advance(0.001)
    assert counter.count(take("b", Rate("t", 100, 500))).refused < 0


async def test_giving_back_never_leaves_more_than_a_full_minute() -> None:
    _, counter = fresh()
    counter.count(take("a", Rate("t", 100, 40)))
    counter.count(Ask("acc", "drop", ("a",), (Rate("t", 100, -90),)))
    assert passed([counter.count(take(str(n), Rate("t", 100, 60))) for n in range(2)]) == 1


async def test_a_changed_limit_counts_from_the_next_request_on() -> None:
    _, counter = fresh()
    assert passed([counter.count(take(str(n), Rate("r", 10, 1))) for n in range(20)]) == 10
    assert passed([counter.count(take(str(n), Rate("r", 15, 1))) for n in range(20)]) == 5
    lowered = counter.count(take("x", Rate("r", 2, 1)))
    assert lowered.owed == (2 * 2 * SHARE,)
    assert lowered.wait_ms == 90_000


async def test_places_of_a_process_that_died_heal_when_their_lease_ends() -> None:
    clock, counter = fresh()
    room = Room("k:answers", 2)
    assert passed([counter.count(take(id, rooms=(room,))) for id in "abc"]) == 2
    clock.advance(20)
    counter.count(Ask("acc", "keep", ("b",), rooms=(room,)))
    clock.advance(9.999)
    assert counter.count(take("d", rooms=(room,))).refused == 0
    clock.advance(0.001)
    assert counter.count(take("d", rooms=(room,))).refused < 0, "a's lease ended, b's was renewed"
    assert counter.count(take("e", rooms=(room,))).refused == 0


async def test_a_place_that_was_lost_is_made_anew_by_its_renewal() -> None:
    _, counter = fresh()
    room = Room("k:answers", 1)
    counter.count(Ask("acc", "keep", ("a", "b"), rooms=(room,)))
    assert counter.count(take("c", rooms=(room,))).refused == 0
    counter.count(Ask("acc", "drop", ("a", "b"), rooms=(room,)))
    assert counter.count(take("c", rooms=(room,))).refused < 0


async def test_accounts_with_names_alike_are_counted_apart() -> None:
    _, counter = fresh()
    rate = Rate("account:requests", 1, 1)
    assert counter.count(take("a", rate, account="one")).refused < 0
    assert counter.count(take("b", rate, account="two")).refused < 0
    assert counter.count(take("c", rate, account="one")).refused == 0


async def test_memory_is_given_back_when_nothing_is_owed_any_more() -> None:
    clock, counter = fresh()
    for n in range(1000):
        counter.count(take(str(n), Rate(f"k{n}", 10, 1), rooms=(Room(f"k{n}:answers", 1),)))
        counter.count(Ask("acc", "drop", (str(n),), rooms=(Room(f"k{n}:answers", 1),)))
    clock.advance(120)
    counter.count(take("last", Rate("last", 10, 1), rooms=(Room("last:answers", 1),)))
    assert len(counter._owed) == 1
    assert len(counter._rooms) == 1


async def test_a_clock_that_goes_back_drains_nothing() -> None:
    assert rates.drained(5 * SHARE, 10, -3_600_000) == 5 * SHARE
