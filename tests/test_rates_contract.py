"""Counting rates: each counter counts exactly as a slow reference does, in virtual time."""

import pytest
from hypothesis import HealthCheck, given, settings

from moongate.core import rates
from moongate.core.rates import SHARE, Ask, Rate, Room
from rates_kit import SCHEDULES, Timed, agree, passed, take


@given(schedule=SCHEDULES)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_any_schedule_is_counted_as_the_reference_counts(
    timed: Timed, schedule: list[tuple]
) -> None:
    await agree(timed, schedule)


async def test_a_schedule_that_asks_too_much_is_refused_by_both(timed: Timed) -> None:
    steps = [(0, "take", id, {"k:requests"}, {"k:answers"}, 0, False) for id in "abcdeabcde"]
    assert await agree(timed, steps) == 8


@pytest.mark.parametrize("limit", [1, 7, 60, 1000])
async def test_three_times_the_limit_at_once_lets_exactly_the_limit_pass(
    timed: Timed, limit: int
) -> None:
    answers = [await timed.count(take(str(n), Rate("k", limit, 1))) for n in range(3 * limit)]
    assert passed(answers) == limit
    assert all(answer.refused < 0 for answer in answers[:limit])


async def test_a_refusal_consumes_nothing_of_what_would_have_passed(timed: Timed) -> None:
    tight, wide, room = Rate("k:requests", 1, 1), Rate("account:tokens", 100, 60), Room("k", 5)
    assert (await timed.count(take("a", tight, wide, rooms=(room,)))).refused < 0
    refused = await timed.count(take("b", tight, Rate("account:tokens", 100, 40), rooms=(room,)))
    assert refused.refused == 0
    assert refused.owed[1] == 60 * SHARE
    last = await timed.count(take("c", Rate("account:tokens", 100, 40), rooms=(Room("k", 2),)))
    assert last.refused < 0, "the refused request took tokens or a place"


async def test_what_waits_as_told_passes_and_a_millisecond_earlier_does_not(timed: Timed) -> None:
    for limit, amount in [(7, 1), (60, 1), (999, 500), (1_000_000_000, 999_999_999)]:
        name = f"k{limit}"
        while (answer := await timed.count(take("a", Rate(name, limit, amount)))).refused < 0:
            pass
        await timed.advance(answer.wait_ms - 1)
        assert (await timed.count(take("a", Rate(name, limit, amount)))).wait_ms == 1
        await timed.advance(1)
        assert (await timed.count(take("a", Rate(name, limit, amount)))).refused < 0


async def test_of_several_refusals_the_longest_is_named(timed: Timed) -> None:
    slow, quick = Rate("slow", 1, 1), Rate("quick", 60, 60)
    await timed.count(take("a", slow, quick, rooms=(Room("k", 1),)))
    answer = await timed.count(take("b", Rate("quick", 60, 30), slow, rooms=(Room("k", 1),)))
    assert (answer.refused, answer.wait_ms) == (1, 60_000)
    answer = await timed.count(take("b", Rate("quick", 60, 0), rooms=(Room("k", 1),)))
    assert (answer.refused, answer.wait_ms) == (1, rates.ROOM_WAIT_MS)


async def test_a_running_answer_is_never_refused_tokens_and_owes_two_minutes_at_most(
    timed: Timed,
) -> None:
    await timed.count(take("a", Rate("t", 100, 100)))
    answer = await timed.count(Ask("acc", "keep", ("a",), (Rate("t", 100, 5000),)))
    assert answer.refused < 0
    assert answer.owed == (2 * 100 * SHARE,)
    await timed.advance(60_000)
    assert (await timed.count(take("b", Rate("t", 100, 1)))).wait_ms == 600
    await timed.advance(600)
    assert (await timed.count(take("b", Rate("t", 100, 1)))).refused < 0


async def test_a_request_larger_than_a_minutes_worth_passes_when_nothing_is_owed(
    timed: Timed,
) -> None:
    assert (await timed.count(take("a", Rate("t", 100, 500)))).refused < 0
    await timed.advance(119_999)
    assert (await timed.count(take("b", Rate("t", 100, 500)))).wait_ms == 1
    await timed.advance(1)
    assert (await timed.count(take("b", Rate("t", 100, 500)))).refused < 0


async def test_giving_back_never_leaves_more_than_a_full_minute(timed: Timed) -> None:
    await timed.count(take("a", Rate("t", 100, 40)))
    await timed.count(Ask("acc", "drop", ("a",), (Rate("t", 100, -90),)))
    assert passed([await timed.count(take(str(n), Rate("t", 100, 60))) for n in range(2)]) == 1


async def test_a_changed_limit_counts_from_the_next_request_on(timed: Timed) -> None:
    assert passed([await timed.count(take(str(n), Rate("r", 10, 1))) for n in range(20)]) == 10
    assert passed([await timed.count(take(str(n), Rate("r", 15, 1))) for n in range(20)]) == 5
    lowered = await timed.count(take("x", Rate("r", 2, 1)))
    assert lowered.owed == (2 * 2 * SHARE,)
    assert lowered.wait_ms == 90_000


async def test_places_of_a_process_that_died_heal_when_their_lease_ends(timed: Timed) -> None:
    room = Room("k:answers", 2)
    assert passed([await timed.count(take(id, rooms=(room,))) for id in "abc"]) == 2
    await timed.advance(20_000)
    await timed.count(Ask("acc", "keep", ("b",), rooms=(room,)))
    await timed.advance(9_999)
    assert (await timed.count(take("d", rooms=(room,)))).refused == 0
    await timed.advance(1)
    assert (await timed.count(take("d", rooms=(room,)))).refused < 0, (
        "a's lease ended, b's was renewed"
    )
    assert (await timed.count(take("e", rooms=(room,)))).refused == 0


async def test_a_place_that_was_lost_is_made_anew_by_its_renewal(timed: Timed) -> None:
    room = Room("k:answers", 1)
    await timed.count(Ask("acc", "keep", ("a", "b"), rooms=(room,)))
    assert (await timed.count(take("c", rooms=(room,)))).refused == 0
    await timed.count(Ask("acc", "drop", ("a", "b"), rooms=(room,)))
    assert (await timed.count(take("c", rooms=(room,)))).refused < 0


async def test_accounts_with_names_alike_are_counted_apart(timed: Timed) -> None:
    rate = Rate("account:requests", 1, 1)
    assert (await timed.count(take("a", rate, account="one"))).refused < 0
    assert (await timed.count(take("b", rate, account="two"))).refused < 0
    assert (await timed.count(take("c", rate, account="one"))).refused == 0


def test_a_clock_that_goes_back_drains_nothing() -> None:
    assert rates.drained(5 * SHARE, 10, -3_600_000) == 5 * SHARE
