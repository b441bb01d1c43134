"""Budgets: caps in windows, as legs of every hold they bound, asked of every engine."""

import asyncio
from datetime import UTC, datetime

import msgspec
import pytest

from moongate.core.money import Usage
from moongate.core.ports import Store
from moongate.core.rows import BudgetRow, Per, Scope
from moongate.core.store import Extension, NotHeld
from moongate.core.windows import window_id
from store_kit import (
    NOW_MS,
    a_budget,
    a_hold,
    an_end,
    balance,
    furnish,
    held,
    the_time_is,
    took,
    total,
)


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


async def spent(store: Store, budget: BudgetRow, at_ms: int = NOW_MS) -> tuple[int, int]:
    """(spent, held) of a budget's window."""
    await the_time_is(store, at_ms)
    (found,) = [row for row in await store.budgets(None, at_ms) if row.id == budget.id]
    return found.spent_nanos, found.held_nanos


async def test_a_budget_is_made_and_comes_back(store: Store) -> None:
    await furnish(store, 1_000)
    await furnish(store, 1_000, "other")
    rows = [
        a_budget(500),
        a_budget(700, "life", "account", "acme"),
        a_budget(900, "month", "project", "other/site", account="other"),
    ]
    assert [await store.budget_set(row) for row in rows] == rows
    assert sorted(await store.budgets("acme", NOW_MS), key=lambda row: row.cap_nanos) == rows[:2]
    assert await store.budgets("other", NOW_MS) == rows[2:]
    assert len(await store.budgets(None, NOW_MS)) == 3
    assert await store.budgets("nobody", NOW_MS) == []


@pytest.mark.parametrize("wrong", [{"cap_nanos": -1}, {"account": "nobody"}])
async def test_a_budget_that_cannot_be(store: Store, wrong: dict[str, object]) -> None:
    await furnish(store, 1_000)
    with pytest.raises(ValueError, match="refused"):
        await store.budget_set(msgspec.structs.replace(a_budget(1), **wrong))
    assert await store.budgets(None, NOW_MS) == []


@pytest.mark.parametrize(
    ("scope", "subject"), [("key", "key_1"), ("project", "acme/site"), ("account", "acme")]
)
async def test_a_cap_bounds_its_subject_and_nobody_else(
    store: Store, scope: Scope, subject: str
) -> None:
    await furnish(store, 1_000)
    await furnish(store, 1_000, "other")
    budget = await store.budget_set(a_budget(100, scope=scope, subject=subject))
    hold = await held(store, a_hold("h1", 60, project="site"))
    assert hold.legs == ("acme", window_id(budget.id, "day", NOW_MS))
    assert await store.hold(a_hold("h2", 41, project="site")) == NotHeld("short")
    assert await took(store, a_hold("h3", 40, project="site"))
    assert await spent(store, budget) == (0, 100)
    assert await balance(store) == (1_000, 100)
    for n, stranger in enumerate(
        (
            a_hold("s0", 100, "other", key="key_2", project="site"),
            a_hold("s1", 100, key="key_2"),
            a_hold("s2", 100, key="key_2", project="sit"),
        )
    ):
        bounded = scope == "account" and n > 0
        assert await took(store, stranger) is not bounded


@pytest.mark.parametrize(
    ("per", "last", "first"),
    [
        ("day", "2026-03-14T23:59:59.999", "2026-03-15T00:00:00"),
        ("day", "2028-02-28T23:59:59.999", "2028-02-29T00:00:00"),
        ("week", "2026-03-15T23:59:59.999", "2026-03-16T00:00:00"),  # Sunday, Monday
        ("week", "2027-01-03T23:59:59.999", "2027-01-04T00:00:00"),  # over the new year
        ("month", "2026-01-31T23:59:59.999", "2026-02-01T00:00:00"),
        ("month", "2028-02-29T23:59:59.999", "2028-03-01T00:00:00"),
        ("month", "2026-12-31T23:59:59.999", "2027-01-01T00:00:00"),
    ],
)
async def test_a_window_ends_at_its_border(store: Store, per: Per, last: str, first: str) -> None:
    await furnish(store, 1_000_000)
    before, after = ms(last), ms(first)
    assert after - before == 1
    budget = await store.budget_set(a_budget(50_000, per, created_ms=before))
    await the_time_is(store, before)
    old = await held(store, a_hold("h1", 50_000, created_ms=before))
    assert await store.hold(a_hold("h2", 1, created_ms=before)) == NotHeld("short")
    await the_time_is(store, after)
    new = await held(store, a_hold("h3", 50_000, created_ms=after))
    assert await store.hold(a_hold("h4", 1, created_ms=after)) == NotHeld("short")
    # A charge falls into the window in which its request was admitted, whenever it ends.
    assert await store.settle(an_end(old, Usage(output=3), ended_ms=after))
    assert await store.settle(an_end(new, Usage(output=5), ended_ms=after))
    assert await spent(store, budget, after) == (10_000, 0)
    assert await spent(store, budget, before) == (6_000, 0)


@pytest.mark.parametrize(
    ("per", "inside"),
    [("week", "2026-03-15T23:59:59"), ("month", "2026-03-31T23:59:59"), ("life", "2031-01-01")],
)
async def test_a_window_lasts(store: Store, per: Per, inside: str) -> None:
    await furnish(store, 1_000_000)
    start, end = ms("2026-03-09"), ms(inside)  # a Monday
    budget = await store.budget_set(a_budget(50_000, per, created_ms=start))
    await the_time_is(store, start)
    hold = await held(store, a_hold("h1", 50_000, created_ms=start))
    assert await store.settle(an_end(hold, Usage(output=24)))
    await the_time_is(store, end)
    assert await store.hold(a_hold("h2", 2_001, created_ms=end)) == NotHeld("short")
    assert await took(store, a_hold("h3", 2_000, created_ms=end))
    assert await spent(store, budget, end) == (48_000, 2_000)


async def test_what_a_budget_is_charged_is_in_the_books(store: Store) -> None:
    await furnish(store, 1_000_000)
    day = await store.budget_set(a_budget(500_000))
    life = await store.budget_set(a_budget(400_000, "life", "account", "acme"))
    hold = await held(store, a_hold("h1", 10_000))
    windows = [window_id(life.id, "life", NOW_MS), window_id(day.id, "day", NOW_MS)]
    assert hold.legs == ("acme", *windows)
    assert await store.settle(an_end(hold, Usage(output=6)))  # 12,000: 2,000 are forgiven
    entries = await store.entries(tx="h1")
    assert [(e.seq, e.account.split("/")[0], e.amount_nanos, e.kind) for e in entries] == [
        (0, "acme", -10_000, "charge"),
        (1, "revenue", 10_000, "charge"),
        (2, life.id, -10_000, "budget"),
        (3, "contra", 10_000, "budget"),
        (4, day.id, -10_000, "budget"),
        (5, "contra", 10_000, "budget"),
        (100, "forgiven", 2_000, "forgiven"),
        (101, "contra", -2_000, "forgiven"),
    ]
    assert [e.account for e in entries if e.kind == "budget"][::2] == windows
    assert await spent(store, day) == (10_000, 0)
    assert await total(store, "contra") == 18_000


async def test_a_hold_given_back_is_given_back_to_its_budgets(store: Store) -> None:
    await furnish(store, 1_000)
    budget = await store.budget_set(a_budget(100))
    assert await store.settle(an_end(await held(store, a_hold("h1", 100)), void=True))
    assert await took(store, a_hold("h2", 100))
    await the_time_is(store, NOW_MS + 180_000)
    assert await store.expire(NOW_MS + 180_000, 120) == ["h2"]
    assert await spent(store, budget) == (0, 0)


async def test_one_budget_that_cannot_pay_takes_nothing_from_the_others(store: Store) -> None:
    await furnish(store, 1_000)
    tight = await store.budget_set(a_budget(10))
    wide = await store.budget_set(a_budget(500, "month"))
    assert await store.hold(a_hold("h1", 11)) == NotHeld("short")
    assert await balance(store) == (1_000, 0)
    assert await spent(store, wide) == (0, 0)
    assert await spent(store, tight) == (0, 0)
    part = await held(store, a_hold("h2", 11), floor_nanos=1, unit_nanos=2)
    assert part.amount_nanos == 9
    assert await spent(store, wide) == (0, 9)


async def test_a_cap_lowered_stops_new_holds_and_breaks_nothing(store: Store) -> None:
    await furnish(store, 1_000_000)
    budget = await store.budget_set(a_budget(50_000))
    hold = await held(store, a_hold("h1", 40_000))
    lower = await store.budget_set(a_budget(100, id="another"))
    assert (lower.id, lower.cap_nanos, lower.created_ms) == (budget.id, 100, budget.created_ms)
    assert await store.hold(a_hold("h2", 0)) == NotHeld("short")  # less than nothing is left
    refused = await store.extend(Extension("h1", 1, 10_000, 1))
    assert refused is not None
    assert (refused.amount_nanos, refused.slice_no) == (40_000, 0)
    assert await store.settle(an_end(hold, Usage(output=20)))
    assert await spent(store, budget) == (40_000, 0)
    assert await store.hold(a_hold("h3", 1)) == NotHeld("short")
    assert await store.budget_set(a_budget(40_001)) == msgspec.structs.replace(
        budget, cap_nanos=40_001
    )
    assert await took(store, a_hold("h4", 1))
    assert await store.hold(a_hold("h5", 1)) == NotHeld("short")
    assert await store.budget_set(a_budget(60_000))
    assert await took(store, a_hold("h6", 19_999))


async def test_a_cap_of_nothing_lets_nothing_through(store: Store) -> None:
    await furnish(store, 1_000)
    assert await store.budget_set(a_budget(0))
    assert await store.hold(a_hold("h1", 1)) == NotHeld("short")
    assert await took(store, a_hold("h2", 0))


async def test_a_budget_removed_bounds_nothing_any_more(store: Store) -> None:
    await furnish(store, 1_000_000)
    assert await store.budget_set(a_budget(10_000))
    hold = await held(store, a_hold("h1", 10_000))
    assert await store.budget_remove("key", "key_1", "day")
    assert not await store.budget_remove("key", "key_1", "day")
    assert not await store.budget_remove("key", "key_2", "day")
    assert await store.budgets(None, NOW_MS) == []
    grown = await store.extend(Extension("h1", 1, 30_000, 1))
    assert grown is not None
    assert grown.amount_nanos == 40_000
    assert (await held(store, a_hold("h2", 500_000))).legs == ("acme",)
    assert await store.settle(an_end(grown, Usage(output=20)))
    assert await balance(store) == (960_000, 500_000)
    assert hold.legs == grown.legs
    # Made anew it is another budget, and starts at nothing.
    fresh = await store.budget_set(a_budget(10_000, id="fresh"))
    assert await spent(store, fresh) == (0, 0)


async def test_a_budget_that_comes_while_a_request_runs_bounds_the_next(store: Store) -> None:
    await furnish(store, 1_000_000)
    hold = await held(store, a_hold("h1", 10_000))
    budget = await store.budget_set(a_budget(100))
    assert await store.settle(an_end(hold, Usage(output=5)))
    assert await spent(store, budget) == (0, 0)
    assert await store.hold(a_hold("h2", 101)) == NotHeld("short")


async def test_holds_at_once_share_a_new_window_exactly(store: Store) -> None:
    await furnish(store, 1_000_000)
    budget = await store.budget_set(a_budget(70))
    won = await asyncio.gather(*(took(store, a_hold(f"h{n}", 7)) for n in range(40)))
    assert sum(won) == 10
    assert await spent(store, budget) == (0, 70)
    assert await balance(store) == (1_000_000, 70)


async def test_a_cap_changed_among_holds_at_once_is_never_passed(store: Store) -> None:
    await furnish(store, 1_000_000)
    budget = await store.budget_set(a_budget(30))
    moves = [took(store, a_hold(f"h{n}", 7)) for n in range(20)]
    moves.insert(5, store.budget_set(a_budget(70)))
    won = sum(answer is True for answer in await asyncio.gather(*moves))
    assert await spent(store, budget) == (0, 7 * won)
    assert 4 <= won <= 10
    while await took(store, a_hold(f"more{won}", 7)):
        won += 1
    assert won == 10
