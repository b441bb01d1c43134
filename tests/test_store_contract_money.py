"""Rolling holds, idempotency keys, what is forgiven, expiry and chains, asked of every engine."""

import asyncio

import pytest
from msgspec.structs import replace

from moongate.access.idempotency import PERIOD_MS, Idempotency
from moongate.core.chain import breaks, link
from moongate.core.errors import Refused
from moongate.core.money import Usage
from moongate.core.ports import ManualClock, Store
from moongate.core.rows import AccountRow, HoldRow, HoldState, TopupRow
from moongate.core.store import Extension, Idem, NotHeld, Running
from moongate.core.sums import add_up
from store_kit import (
    NOW_MS,
    a_hold,
    an_end,
    balance,
    furnish,
    held,
    the_time_is,
    took,
    total,
)

DAY_MS = 86_400_000


def idem(key: int = 1, body: int = 1, account: str = "acme", **fields: int) -> Idem:
    marks = ((bytes([key]) * 32, bytes([body]) * 32),)
    return Idem(account, marks, fields.get("expires_ms", NOW_MS + DAY_MS))


# rolling holds


@pytest.mark.parametrize(
    ("floor", "unit", "granted"),
    [
        (0, 1, 1_000),
        (400, 7, 400 + 595),
        (990, 7, 997),
        (1_000, 7, 1_000),
        (1_001, 7, None),
        (None, 1, None),
        (300, 0, 1_000),  # a price of 0 for one more token
    ],
)
async def test_a_hold_shrinks_to_whole_units_above_its_floor(
    store: Store, floor: int | None, unit: int, granted: int | None
) -> None:
    await furnish(store, 1_000)
    said = await store.hold(a_hold("h1", 5_000), floor_nanos=floor, unit_nanos=unit)
    if granted is None:
        assert said == NotHeld("short")
        assert await store.open_holds() == []
    else:
        assert said == a_hold("h1", granted, legs=("acme",))
        assert await store.open_holds() == [said]
    assert await balance(store) == (1_000, granted or 0)


async def test_what_fits_is_held_whole(store: Store) -> None:
    await furnish(store, 1_000)
    assert (await held(store, a_hold("h1", 999), floor_nanos=10, unit_nanos=7)).amount_nanos == 999
    with pytest.raises(ValueError, match="negative"):
        await store.hold(a_hold("h2", 1), floor_nanos=-1)


async def test_the_poorest_leg_decides(store: Store) -> None:
    await furnish(store, 1_000)
    assert await store.account_create(AccountRow("cap", "budget", 0, 0, 305, NOW_MS))
    hold = await held(store, a_hold("h1", 900, legs=("cap",)), floor_nanos=100, unit_nanos=10)
    assert (hold.amount_nanos, hold.legs) == (300, ("acme", "cap"))
    assert await balance(store, "cap") == (0, 300)
    assert await balance(store) == (1_000, 300)
    for n, wanted in enumerate((10, 5)):  # whole units only, but all of it where it fits
        grown = await store.extend(Extension("h1", 1, wanted, 10))
        assert grown is not None
        assert grown.amount_nanos == 300 + 5 * n


async def test_shrinking_holds_at_once_never_take_more_than_there_is(store: Store) -> None:
    await furnish(store, 1_000)
    rows = [a_hold(f"h{n}", 300) for n in range(8)]
    said = await asyncio.gather(*(store.hold(r, floor_nanos=50, unit_nanos=10) for r in rows))
    amounts = [answer.amount_nanos for answer in said if isinstance(answer, HoldRow)]
    assert sorted(amounts) == [100, 300, 300, 300]
    assert await balance(store) == (1_000, 1_000)


async def test_the_same_hold_again_is_the_one_that_stands(store: Store) -> None:
    await furnish(store, 1_000_000)
    hold = await held(store, a_hold("h1", 600_000), idem=idem())
    assert await store.hold(a_hold("h1", 999_999), idem=idem()) == hold
    both = await asyncio.gather(*(store.hold(a_hold("h1", 600_000)) for _ in range(3)))
    assert both == [hold] * 3
    assert await balance(store) == (1_000_000, 600_000)
    assert await store.settle(an_end(hold, Usage(output=1)))
    again = await held(store, a_hold("h1", 600_000))
    assert (again.state, again.amount_nanos) == (HoldState.SETTLED, 600_000)
    assert await balance(store) == (998_000, 0)
    await furnish(store, 5, "other")
    for stranger in (a_hold("h1", 1, "other"), a_hold("h1", 1, key="key_2")):
        with pytest.raises(ValueError, match="refused"):
            await store.hold(stranger)


async def test_of_the_same_hold_many_times_at_once_one_is_made(store: Store) -> None:
    await furnish(store, 1_000)
    said = await asyncio.gather(*(store.hold(a_hold("h1", 100)) for _ in range(20)))
    assert said == [said[0]] * 20
    assert await balance(store) == (1_000, 100)


async def test_an_extension_is_granted_once(store: Store) -> None:
    await furnish(store, 1_000_000)
    assert await took(store, a_hold("h1", 10_000))
    first = Extension("h1", 1, 16_000, 2_000)
    grown = await store.extend(first)
    assert grown == a_hold("h1", 26_000, legs=("acme",), slice_no=1)
    assert await store.extend(first) == grown
    assert await store.extend(Extension("h1", 3, 16_000, 2_000)) == grown
    at_once = await asyncio.gather(*(store.extend(Extension("h1", 2, 4_000, 1)) for _ in range(5)))
    assert [row and (row.slice_no, row.amount_nanos) for row in at_once] == [(2, 30_000)] * 5
    assert await balance(store) == (1_000_000, 30_000)
    assert await store.settle(an_end(await held(store, a_hold("h1", 1)), Usage(output=15)))
    assert await balance(store) == (970_000, 0)


async def test_an_extension_takes_what_whole_units_there_are(store: Store) -> None:
    await furnish(store, 1_000)
    assert await took(store, a_hold("h1", 500))
    part = await store.extend(Extension("h1", 1, 8_000, 200))
    assert part is not None
    assert (part.amount_nanos, part.slice_no) == (900, 1)
    refused = await store.extend(Extension("h1", 2, 8_000, 200))
    assert refused == part  # nothing to be had: its number may be asked for again
    assert await store.credit("acme", 100, "topup", "more", NOW_MS)
    again = await store.extend(Extension("h1", 2, 8_000, 200))
    assert again is not None
    assert (again.amount_nanos, again.slice_no) == (1_100, 2)
    assert await balance(store) == (1_100, 1_100)
    assert await store.extend(Extension("h1", 3, 5, 0)) == again
    assert await store.open_holds() == [again]


async def test_extensions_race_for_the_last_of_a_wallet(store: Store) -> None:
    await furnish(store, 1_000)
    rows = [await held(store, a_hold(f"h{n}", 100)) for n in range(6)]
    grown = await asyncio.gather(*(store.extend(Extension(r.id, 1, 150, 10)) for r in rows))
    assert sorted(row.amount_nanos for row in grown if row) == [100, 100, 100, 200, 250, 250]
    assert await balance(store) == (1_000, 1_000)


async def test_only_what_is_open_can_be_extended(store: Store) -> None:
    await furnish(store, 1_000_000)
    assert await store.extend(Extension("ghost", 1, 1, 1)) is None
    for id, void in (("h1", False), ("h2", True)):
        hold = await held(store, a_hold(id, 10))
        assert await store.settle(an_end(hold, void=void))
        assert await store.extend(Extension(id, 1, 1, 1)) is None
    assert await balance(store) == (1_000_000, 0)


@pytest.mark.parametrize("wanted", [0, 10, 10_000])
async def test_an_extension_renews_the_lease(store: Store, wanted: int) -> None:
    await furnish(store, 100)
    assert await took(store, a_hold("h1", 90))
    await the_time_is(store, NOW_MS + 50_000)
    assert await store.extend(Extension("h1", 1, wanted, 1_000, NOW_MS + 50_000)) is not None
    await the_time_is(store, NOW_MS + 229_999)
    assert await store.expire(NOW_MS + 229_999, 120) == []
    await the_time_is(store, NOW_MS + 230_000)
    assert await store.expire(NOW_MS + 230_000, 120) == ["h1"]
    assert await balance(store) == (100, 0)


# idempotency keys


async def test_a_used_key_says_what_became_of_its_request(store: Store) -> None:
    await furnish(store, 1_000_000)
    hold = await held(store, a_hold("h1", 10_000), idem=idem())
    assert await store.hold(a_hold("h2", 1), idem=idem(body=2)) == NotHeld("other", "h1")
    assert await store.hold(a_hold("h2", 1), idem=idem()) == NotHeld("running", "h1")
    assert await store.settle(an_end(hold, Usage(output=1)))
    assert await store.hold(a_hold("h2", 1), idem=idem()) == NotHeld("completed", "h1")
    assert await store.hold(a_hold("h2", 1), idem=idem(body=2)) == NotHeld("other", "h1")
    assert await balance(store) == (998_000, 0)
    assert await took(store, a_hold("h3", 1), idem=idem(key=2))
    await furnish(store, 10, "other")
    assert await took(store, a_hold("h4", 1, "other"), idem=idem(account="other"))


@pytest.mark.parametrize("how", ["void", "expired", "short"])
async def test_what_came_to_nothing_frees_its_key(store: Store, how: str) -> None:
    await furnish(store, 1_000)
    if how == "short":
        assert await store.hold(a_hold("h1", 1_001), idem=idem()) == NotHeld("short")
    else:
        hold = await held(store, a_hold("h1", 10), idem=idem())
        if how == "void":
            assert await store.settle(an_end(hold, void=True))
        else:
            await the_time_is(store, NOW_MS + 180_000)
            assert await store.expire(NOW_MS + 180_000, 120) == ["h1"]
    later = {"created_ms": NOW_MS + 180_000}
    await the_time_is(store, NOW_MS + 180_000)
    assert await took(store, a_hold("h2", 10, **later), idem=idem(body=2))
    assert await store.hold(a_hold("h3", 10, **later), idem=idem(body=2)) == NotHeld(
        "running", "h2"
    )


async def test_a_key_is_free_again_when_its_time_is_over(store: Store) -> None:
    await furnish(store, 1_000)
    over_ms = NOW_MS + 5_000
    assert await took(store, a_hold("h1", 10), idem=idem(expires_ms=over_ms))
    await the_time_is(store, over_ms - 1)
    said = await store.hold(a_hold("h2", 10, created_ms=over_ms - 1), idem=idem())
    assert said == NotHeld("running", "h1")
    await the_time_is(store, over_ms)
    assert await took(store, a_hold("h2", 10, created_ms=over_ms), idem=idem(body=2))


async def test_a_key_is_found_under_the_secret_before(store: Store) -> None:
    await furnish(store, 1_000)
    assert await took(store, a_hold("h1", 10), idem=idem())
    (old,) = idem().marks
    fresh = (b"\x07" * 32, b"\x08" * 32)
    turned = Idem("acme", (fresh, old), NOW_MS + DAY_MS)
    assert await store.hold(a_hold("h2", 10), idem=turned) == NotHeld("running", "h1")
    other = Idem("acme", (fresh, (old[0], b"\x09" * 32)), NOW_MS + DAY_MS)
    assert await store.hold(a_hold("h2", 10), idem=other) == NotHeld("other", "h1")
    # A row is written under each: who knows the newest alone finds it, and who knows it not yet.
    current = Idem("acme", (fresh, (b"\x0a" * 32, b"\x0b" * 32)), NOW_MS + DAY_MS)
    hold = await held(store, a_hold("h3", 10), idem=current)
    for mark in current.marks:
        alone = Idem("acme", (mark, (b"\x0c" * 32, b"\x0d" * 32)), NOW_MS + DAY_MS)
        assert await store.hold(a_hold("h4", 10), idem=alone) == NotHeld("running", "h3")
    assert await store.settle(an_end(hold, void=True))
    assert await took(store, a_hold("h4", 10), idem=current)


async def test_a_replica_that_missed_the_new_secret_finds_the_key(store: Store) -> None:
    await furnish(store, 1_000)
    clock = ManualClock(NOW_MS)
    first, second = (Idempotency(store, b"p" * 32, clock) for _ in range(2))
    assert await first.mark("acme", "order", "chat", b"body")
    clock.advance(PERIOD_MS // 1000 - 30)
    await the_time_is(store, clock.now_ms())
    assert await second.mark(
        "acme", "order", "chat", b"body"
    )  # the secret that is about to be replaced
    clock.advance(40)
    await the_time_is(store, clock.now_ms())
    assert await first.mark("acme", "order", "chat", b"x") != await first.mark(
        "acme", "order", "messages", b"x"
    )
    knows, knows_not = [await one.mark("acme", "order", "chat", b"body") for one in (first, second)]
    assert knows is not None
    assert knows_not is not None
    assert (len(knows.marks), len(knows_not.marks)) == (2, 1)
    assert await took(store, a_hold("h1", 10, created_ms=clock.now_ms()), idem=knows)
    again = a_hold("h2", 10, created_ms=clock.now_ms())
    assert await store.hold(again, idem=knows_not) == NotHeld("running", "h1")


async def test_one_key_many_times_at_once_is_one_hold(store: Store) -> None:
    await furnish(store, 1_000)
    rows = [a_hold(f"h{n}", 10) for n in range(50)]
    said = await asyncio.gather(*(store.hold(row, idem=idem()) for row in rows))
    (made,) = [answer for answer in said if isinstance(answer, HoldRow)]
    assert said.count(NotHeld("running", made.id)) == 49
    assert await balance(store) == (1_000, 10)


# forgiven, expired


@pytest.mark.parametrize("void", [True, False])
async def test_what_is_forgiven_is_posted(store: Store, void: bool) -> None:
    await furnish(store, 1_000_000)
    hold = await held(store, a_hold("h1", 10_000))
    end = an_end(hold, Usage(output=7), void=void)  # 14,000
    await the_time_is(store, end.row.ended_ms)
    assert await store.settle(end)
    paid = 0 if void else 10_000
    assert await balance(store) == (1_000_000 - paid, 0)
    assert await total(store, "forgiven") == 14_000 - paid
    assert await total(store, "contra") == paid - 14_000
    entries = [e for e in await store.entries(tx="h1") if e.kind == "forgiven"]
    assert [(e.seq, e.account.split("/")[0], e.amount_nanos) for e in entries] == [
        (100, "forgiven", 14_000 - paid),
        (101, "contra", paid - 14_000),
    ]


async def test_an_attempt_that_was_not_delivered_is_forgiven_and_told(store: Store) -> None:
    await furnish(store, 1_000_000)
    ends = {}
    for id, void, spoiled in (("done", False, 6_000), ("never", True, 6_000), ("once", False, 0)):
        hold = await held(store, a_hold(id, 20_000))
        end = an_end(hold, Usage(output=7), void=void)
        forgiven = end.row.forgiven_nanos + spoiled
        row = replace(
            end.row, attempts=2 if spoiled else 1, spoiled_nanos=spoiled, forgiven_nanos=forgiven
        )
        ends[id] = replace(end, row=row)
        await the_time_is(store, row.ended_ms)
        assert await store.settle(ends[id])
        kept = await store.usage_row(id)
        assert kept is not None
        assert (kept.attempts, kept.spoiled_nanos) == (row.attempts, spoiled)
        assert (kept.charge_nanos, kept.forgiven_nanos) == (row.charge_nanos, forgiven)
    assert [row.attempts for row in await store.usage()] == [2, 2, 1]
    assert [row.spoiled_nanos for row in await store.usage(account="acme")] == [6_000, 6_000, 0]
    assert await total(store, "forgiven") == 6_000 + 14_000 + 6_000
    sums = await store.usage_sums(days=False, keys=False)
    assert sums == add_up(await store.usage(), days=False, keys=False)
    assert [(one.requests, one.uncharged, one.output) for one in sums] == [(3, 1, 14)]
    assert await store.audit() == []


@pytest.mark.parametrize(
    "fields",
    [{"attempts": 0}, {"spoiled_nanos": -1}, {"spoiled_nanos": 1}],
    ids=["no attempt", "less than nothing", "more than was forgiven"],
)
async def test_an_attempt_that_cannot_have_been_is_refused(
    store: Store, fields: dict[str, int]
) -> None:
    await furnish(store, 1_000_000)
    end = an_end(await held(store, a_hold("h1", 20_000)), Usage(output=7))
    with pytest.raises(ValueError, match="the store refused this row"):
        await store.settle(replace(end, row=replace(end.row, **fields)))
    assert [row.id for row in await store.open_holds()] == ["h1"]


@pytest.mark.parametrize("checkpoint", [False, True])
async def test_the_counts_of_the_dead_are_forgiven_or_charged(
    store: Store, checkpoint: bool
) -> None:
    await furnish(store, 1_000_000)
    counts = {"h1": Usage(10, 5, 2, 0), "h2": Usage(output=50), "h3": Usage()}
    dues = {"h1": 4_800 + 500 + 4_000, "h2": 100_000, "h3": 0}
    for id in counts:
        assert await took(store, a_hold(id, 20_000))
    told = [Running(id, used) for id, used in counts.items()]
    assert await store.renew(told, NOW_MS) == 3
    assert {row.id: row.running for row in await store.open_holds()} == counts
    await the_time_is(store, NOW_MS + 180_000)
    assert sorted(await store.expire(NOW_MS + 180_000, 120, checkpoint=checkpoint)) == [*counts]
    for row in await store.usage():
        paid = min(dues[row.hold], 20_000) if checkpoint else 0
        assert (row.outcome, row.status, row.usage) == ("expired", 0, counts[row.hold])
        assert (row.charge_nanos, row.forgiven_nanos) == (paid, dues[row.hold] - paid)
    fall = 9_300 + 20_000 if checkpoint else 0
    assert await balance(store) == (1_000_000 - fall, 0)
    assert await total(store, "revenue") == fall
    assert await total(store, "forgiven") == sum(dues.values()) - fall
    state = (await held(store, a_hold("h1", 1))).state
    assert state is HoldState.EXPIRED


async def test_noted_counts_are_the_latest_and_only_those_that_are_billed(store: Store) -> None:
    await furnish(store, 1_000)
    assert await took(store, a_hold("h1", 20))
    assert (await store.open_holds())[0].running == Usage()
    assert await store.renew([Running("h1", Usage(1, 2, 3, 4))], NOW_MS) == 1
    late = Usage(2, 3, 4, 5, reasoning=3, estimated=True)
    assert await store.renew([Running("h1", late)], NOW_MS) == 1
    assert (await store.open_holds())[0].running == Usage(2, 3, 4, 5)
    assert await store.renew([], NOW_MS) == 0


# chains, credits


async def test_a_wallets_entries_form_a_chain(store: Store) -> None:
    await furnish(store, 1_000_000)
    await furnish(store, 10, "other")
    hold = await held(store, a_hold("h1", 10_000))
    await the_time_is(store, NOW_MS + 1_000)
    assert await store.settle(an_end(hold, Usage(output=7)))
    assert await store.credit("acme", -50, "refund", "r1", NOW_MS + 2_000)
    chained = await store.entries("acme")
    assert [entry.chain_no for entry in chained] == [1, 2, 3]
    assert chained[0].chain == link(b"", chained[0])
    assert chained[1].chain == link(chained[0].chain, chained[1])
    row = await store.account("acme")
    assert row is not None
    assert (row.chain_no, row.chain) == (3, chained[2].chain)
    assert list(breaks(chained, row.chain_no, row.chain)) == []
    others = [e for e in await store.entries() if e.account not in {"acme", "other"}]
    assert {(e.chain_no, e.chain) for e in others} == {(None, None)}
    fresh = await store.account("revenue/00") or await store.account("revenue")
    assert fresh is not None
    assert (fresh.chain_no, fresh.chain) == (0, b"")


async def test_chains_hold_where_many_settle_at_once(store: Store) -> None:
    await furnish(store, 1_000_000)
    rows = [await held(store, a_hold(f"h{n}", 10_000)) for n in range(20)]
    ends = [store.settle(an_end(row, Usage(output=n % 3))) for n, row in enumerate(rows)]
    credits = [store.credit("acme", 5, "topup", f"t{n}", NOW_MS) for n in range(5)]
    assert all(await asyncio.gather(*ends, *credits))
    chained = await store.entries("acme")
    assert len(chained) == 1 + 5 + 13  # a charge of nothing is no entry
    row = await store.account("acme")
    assert row is not None
    chained.sort(key=lambda entry: entry.chain_no or 0)
    assert list(breaks(chained, row.chain_no, row.chain)) == []


async def test_a_payment_is_credited_once(store: Store) -> None:
    await furnish(store, 0)
    payment = TopupRow("stripe", "evt_1", 500, "usd", "card")
    assert await store.credit("acme", 5_000, "topup", "t1", NOW_MS, payment)
    assert not await store.credit("acme", 5_000, "topup", "t2", NOW_MS, payment)
    elsewhere = TopupRow("other", "evt_1", 500, "usd", "card")
    assert await store.credit("acme", 5_000, "topup", "t3", NOW_MS, elsewhere)
    assert not await store.credit("acme", 1, "topup", "t3", NOW_MS, TopupRow("x", "y", 1, "", ""))
    assert await store.credit("acme", 1, "topup", "t4", NOW_MS, TopupRow("x", "y", 1, "usd", ""))
    at_once = TopupRow("stripe", "evt_2", 1, "usd", "card")
    won = await asyncio.gather(
        *(store.credit("acme", 10, "topup", f"w{n}", NOW_MS, at_once) for n in range(6))
    )
    assert sum(won) == 1
    assert await balance(store) == (10_011, 0)
    assert len(await store.entries("acme")) == 4


async def test_a_credit_that_failed_leaves_its_payment_to_be_booked(store: Store) -> None:
    payment = TopupRow("stripe", "evt_1", 500, "usd", "card")
    with pytest.raises(Refused):
        await store.credit("acme", 5_000, "topup", "t1", NOW_MS, payment)
    await furnish(store, 0)
    assert await store.credit("acme", 5_000, "topup", "t1", NOW_MS, payment)


async def test_a_refund_takes_no_more_than_is_free(store: Store) -> None:
    await furnish(store, 1_000)
    assert await took(store, a_hold("h1", 600))
    with pytest.raises(Refused) as refused:
        await store.credit("acme", -401, "refund", "r1", NOW_MS)
    assert refused.value.code == "conflict"
    assert await store.credit("acme", -400, "refund", "r1", NOW_MS)
    assert not await store.credit("acme", -400, "refund", "r1", NOW_MS)
    assert await balance(store) == (600, 600)
    assert await balance(store, "cash") == (-600, 0)


async def test_the_minutes_check_is_content_with_sound_books(store: Store) -> None:
    await furnish(store, 1_000_000)
    hold = await held(store, a_hold("h1", 10_000))
    assert await took(store, a_hold("h2", 10_000))
    assert await store.settle(an_end(hold, Usage(output=7)))
    assert await store.self_check() == []
