"""What ``core.store.Store`` promises, asked of every engine in the same words."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from moongate.core.errors import Refused
from moongate.core.money import Price, Usage
from moongate.core.ports import Store
from moongate.core.rows import AccountRow, HoldRow, HoldState, KeyRow, PriceRow
from moongate.core.store import NotHeld, Running
from store_kit import (
    ALONE,
    KIMI,
    NOW_MS,
    a_hold,
    an_end,
    balance,
    furnish,
    make_store,
    opened,
    the_time_is,
    took,
    total,
)


async def test_an_account_is_made_once_and_empty(store: Store) -> None:
    row = AccountRow("acme", "wallet", 0, 0, 7, NOW_MS)
    assert await store.account_create(row)
    assert not await store.account_create(msgspec.structs.replace(row, credit_limit_nanos=9))
    assert await store.account("acme") == row
    assert await store.account("nobody") is None
    assert row in await store.accounts()
    assert await store.accounts("wallet") == [row]
    assert {"cash", "promo"} <= {other.id for other in await store.accounts()}
    with pytest.raises(ValueError, match="entries only"):
        await store.account_create(AccountRow("rich", "wallet", 5, 0, 0, NOW_MS))
    with pytest.raises(ValueError, match="refused"):
        await store.account_create(AccountRow("deep", "wallet", 0, 0, -1, NOW_MS))


async def test_keys_come_back_whole_and_are_revoked_once(store: Store) -> None:
    await furnish(store, 0)
    row = KeyRow(
        id="key_1",
        account="acme",
        name="a name",
        mac=bytes(range(32)),
        last4="wxyz",
        created_ms=NOW_MS,
        models=("kimi-k2.5", "other"),
        policy="lenient",
        zero_retention=True,
        expires_ms=NOW_MS + 5,
    )
    other = KeyRow("key_0", "acme", "b", b"\x01" * 32, "1234", NOW_MS, admin=True)
    await store.key_insert(row)
    await store.key_insert(other)
    assert await store.key_by_mac(row.mac) == row
    assert await store.key_by_mac(b"\x02" * 32) is None
    assert await store.keys() == [row, other]
    assert await store.keys("acme") == [row, other]
    assert await store.keys("elsewhere") == []
    assert await store.key_revoke("key_1", NOW_MS + 9)
    assert not await store.key_revoke("key_1", NOW_MS + 10)
    assert not await store.key_revoke("key_9", NOW_MS)
    assert (await store.keys())[0].revoked_ms == NOW_MS + 9
    with pytest.raises(ValueError, match="refused"):
        await store.key_insert(msgspec.structs.replace(other, id="key_2"))  # the same MAC
    with pytest.raises(ValueError, match="refused"):
        await store.key_insert(KeyRow("key_3", "nobody", "", b"\x03" * 32, "", NOW_MS))


async def test_prices_get_rising_versions(store: Store) -> None:
    first = await store.price_add(PriceRow(77, "kimi-k2.5", KIMI, NOW_MS))
    second = await store.price_add(PriceRow(0, "kimi-k2.5", Price(0, 0, 0), NOW_MS + 1))
    assert (first.version, second.version) == (1, 2)
    assert await store.prices() == [first, second]
    with pytest.raises(ValueError, match="refused"):
        await store.price_add(PriceRow(0, "kimi-k2.5", Price(-1, 0, 0), NOW_MS))


async def test_credit_is_posted_once_against_its_source(store: Store) -> None:
    await furnish(store, 0)
    assert await store.credit("acme", 5, "trial", "t1", NOW_MS)
    assert not await store.credit("acme", 5, "trial", "t1", NOW_MS)
    assert not await store.credit("acme", 6, "topup", "t1", NOW_MS)
    assert await store.credit("acme", 7, "topup", "t2", NOW_MS)
    assert await balance(store) == (12, 0)
    assert await balance(store, "promo") == (-5, 0)
    assert await balance(store, "cash") == (-7, 0)
    entries = await store.entries()
    assert [(e.tx, e.seq, e.account, e.amount_nanos, e.kind) for e in entries] == [
        ("t1", 0, "acme", 5, "trial"),
        ("t1", 1, "promo", -5, "trial"),
        ("t2", 0, "acme", 7, "topup"),
        ("t2", 1, "cash", -7, "topup"),
    ]
    assert await store.entries("acme") == [entries[0], entries[2]]


@pytest.mark.parametrize(
    ("account", "nanos", "code"),
    [
        ("nobody", 5, "not_found"),
        ("revenue", 5, "not_found"),
        ("acme", -11, "conflict"),
        ("acme", 4 * 10**18, "conflict"),
    ],
)
async def test_credit_that_cannot_be(store: Store, account: str, nanos: int, code: str) -> None:
    await furnish(store, 10)
    with pytest.raises(Refused) as refused:
        await store.credit(account, nanos, "topup", "t", NOW_MS)
    assert refused.value.code == code
    assert await balance(store) == (10, 0)
    assert len(await store.entries()) == 2


async def test_a_credit_has_an_amount_and_a_known_kind(store: Store) -> None:
    await furnish(store, 0)
    for nanos, kind in ((0, "topup"), (5, "charge")):
        with pytest.raises(ValueError, match="not a credit"):
            await store.credit("acme", nanos, kind, "t", NOW_MS)


async def test_hold_settle_and_what_each_leaves(store: Store) -> None:
    await furnish(store, 1_000_000)
    hold = a_hold("h1", 600_000, legs=("acme",))
    assert await took(store, hold)
    assert await balance(store) == (1_000_000, 600_000)
    assert await store.open_holds() == [hold]
    assert await store.usage() == []
    end = an_end(
        hold,
        Usage(100, 50, 30, 0, reasoning=4, estimated=True),
        streamed=True,
        first_token_ms=12,
        duration_ms=900,
        upstream_prompt=150,
        upstream_completion=30,
        upstream_cached=50,
    )
    cost = 100 * 480 + 50 * 100 + 30 * 2000
    await the_time_is(store, end.row.ended_ms)
    assert end.row.charge_nanos == cost
    assert await store.settle(end)
    assert await balance(store) == (1_000_000 - cost, 0)
    assert await total(store, "revenue") == cost
    assert await store.open_holds() == []
    assert await store.usage() == [end.row]
    assert await store.usage_row("h1") == end.row
    assert await store.usage_row("h2") is None
    charged = await store.entries(tx="h1")
    assert [(e.seq, e.account.split("/")[0], e.amount_nanos, e.kind) for e in charged] == [
        (0, "acme", -cost, "charge"),
        (1, "revenue", cost, "charge"),
    ]
    assert await store.entries("acme", "h1") == charged[:1]


async def test_a_second_settle_changes_nothing(store: Store) -> None:
    await furnish(store, 1_000_000)
    hold = a_hold("h1", 600_000)
    assert await took(store, hold)
    assert await store.settle(an_end(hold, Usage(output=10)))
    before = await store.accounts(), await store.entries(), await store.usage()
    for again in (an_end(hold, Usage(output=20)), an_end(hold, void=True)):
        assert not await store.settle(again)
    both = await asyncio.gather(*(store.settle(an_end(hold, Usage(output=30))) for _ in range(3)))
    assert both == [False] * 3
    assert (await store.accounts(), await store.entries(), await store.usage()) == before


async def test_of_settles_at_once_one_wins(store: Store) -> None:
    await furnish(store, 1_000_000)
    holds = [a_hold(f"h{n}", 50_000) for n in range(4)]
    assert all(await asyncio.gather(*(took(store, hold) for hold in holds)))
    ends = [an_end(hold, Usage(output=n + 1)) for n in range(5) for hold in holds]
    won = await asyncio.gather(*map(store.settle, ends))
    assert sum(won) == 4
    assert len(await store.usage()) == 4
    paid = sum(end.row.charge_nanos for end, first in zip(ends, won, strict=True) if first)
    assert await balance(store) == (1_000_000 - paid, 0)


async def test_an_unknown_hold_cannot_be_settled(store: Store) -> None:
    await furnish(store, 1_000_000)
    assert not await store.settle(an_end(a_hold("ghost", 5), Usage(output=1)))
    assert await balance(store) == (1_000_000, 0)


async def test_void_gives_everything_back(store: Store) -> None:
    await furnish(store, 1_000_000)
    hold = a_hold("h1", 600_000)
    assert await took(store, hold)
    end = an_end(hold, Usage(input=10), void=True, outcome="upstream_error")
    await the_time_is(store, end.row.ended_ms)
    assert await store.settle(end)
    assert await balance(store) == (1_000_000, 0)
    assert (end.row.charge_nanos, end.row.forgiven_nanos) == (0, 4_800)
    assert await store.usage() == [end.row]
    assert not await store.settle(an_end(hold, Usage(output=1)))


async def test_a_charge_above_the_hold_is_impossible(store: Store) -> None:
    await furnish(store, 1_000_000)
    hold, other = a_hold("h1", 10_000), a_hold("h2", 20_000)
    assert await took(store, hold)
    assert await took(store, other)
    greedy = an_end(hold, Usage(output=5), charge_nanos=10_001, forgiven_nanos=0)
    fair = an_end(other, Usage(output=5))
    answers = await asyncio.gather(store.settle(greedy), store.settle(fair), return_exceptions=True)
    assert isinstance(answers[0], ValueError)
    assert answers[1] is True  # one at fault does not hold up the others
    with pytest.raises(ValueError, match="refused"):
        await store.settle(an_end(hold, void=True, charge_nanos=1))
    with pytest.raises(ValueError, match="refused"):
        await store.settle(an_end(hold, charge_nanos=-1))
    assert await balance(store) == (990_000, 10_000)
    assert [row.id for row in await store.open_holds()] == ["h1"]


async def test_usage_must_fit_its_hold(store: Store) -> None:
    await furnish(store, 1_000_000)
    await furnish(store, 1_000_000, "other")
    hold = a_hold("h1", 10_000)
    assert await took(store, hold)
    for wrong in ({"account": "other"}, {"price_version": 2}):
        with pytest.raises(ValueError, match="refused"):
            await store.settle(an_end(hold, Usage(output=1), **wrong))
    assert await balance(store, "other") == (1_000_000, 0)


async def test_the_last_nano_can_be_held_and_not_one_more(store: Store) -> None:
    await furnish(store, 100)
    assert not await took(store, a_hold("h1", 101))
    assert await took(store, a_hold("h2", 100))
    assert await store.hold(a_hold("h3", 1)) == NotHeld("short")
    assert await took(store, a_hold("h4", 0))
    assert await balance(store) == (100, 100)
    assert {row.id for row in await store.open_holds()} == {"h2", "h4"}


async def test_a_credit_limit_can_be_spent(store: Store) -> None:
    await furnish(store, 100_000, limit=50_000)
    hold = a_hold("h1", 150_000)
    assert not await took(store, a_hold("h0", 150_001))
    assert await took(store, hold)
    assert await store.settle(an_end(hold, Usage(output=75)))
    assert await balance(store) == (-50_000, 0)
    assert not await took(store, a_hold("h2", 1))


@pytest.mark.parametrize("account", ["nobody", "revenue", "cash", "promo"])
async def test_only_wallets_pay(store: Store, account: str) -> None:
    await furnish(store, 1_000_000)
    first = a_hold("h0", 100_000)
    assert await took(store, first)
    assert await store.settle(an_end(first, Usage(output=50)))  # revenue has something now
    assert not await took(store, a_hold("h1", 1, account))
    assert not await took(store, a_hold("h2", 1, legs=("acme", account)))
    assert await balance(store) == (900_000, 0)


async def test_all_legs_or_none(store: Store) -> None:
    await furnish(store, 1_000)
    assert await store.account_create(AccountRow("cap", "budget", 0, 0, 300, NOW_MS))
    both = ("acme", "cap")
    hold = a_hold("h1", 200, legs=both)
    assert await took(store, hold)
    assert not await took(store, a_hold("h2", 200, legs=both))
    assert await balance(store) == (1_000, 200)
    assert await balance(store, "cap") == (0, 200)
    assert (await store.open_holds())[0].legs == both
    assert await store.settle(an_end(hold, void=True))
    assert await balance(store, "cap") == (0, 0)


async def test_one_who_cannot_pay_does_not_hold_up_the_others(store: Store) -> None:
    await furnish(store, 5)
    await furnish(store, 1_000, "rich")
    rows = [a_hold(f"p{n}", 2) for n in range(20)]
    rows += [a_hold(f"r{n}", 2, "rich") for n in range(20)]
    rows += [a_hold(f"b{n}", 2, "rich", legs=("acme", "rich")) for n in range(20)]
    won = await asyncio.gather(*(took(store, row) for row in rows))
    assert sum(won[:20]) + sum(won[40:]) == 2
    assert all(won[20:40])
    assert await balance(store) == (5, 4)
    assert await balance(store, "rich") == (1_000, 40 + 2 * sum(won[40:]))


async def test_a_hold_needs_a_price_and_an_id_of_its_own(store: Store) -> None:
    await furnish(store, 1_000)
    assert await took(store, a_hold("h1", 10))
    good = a_hold("h2", 10)
    bad = [
        a_hold("h1", 10, key="key_2"),
        a_hold("h3", 10, price_version=99),
        a_hold("h4", -1),
    ]
    answers = await asyncio.gather(*map(store.hold, [*bad, good]), return_exceptions=True)
    assert [type(answer) for answer in answers] == [ValueError, ValueError, ValueError, HoldRow]
    assert await balance(store) == (1_000, 20)


async def test_leases_are_renewed_and_run_out(store: Store) -> None:
    await furnish(store, 1_000)
    for id in ("h1", "h2"):
        assert await took(store, a_hold(id, 10))
    ours = [Running("h1", Usage()), Running("ghost", Usage())]
    await the_time_is(store, NOW_MS + 100_000)
    assert await store.renew(ours, NOW_MS + 100_000) == 1
    await the_time_is(store, NOW_MS)
    assert await store.renew(ours, NOW_MS) == 1  # a clock that went back shortens nothing
    await the_time_is(store, NOW_MS + 179_999)
    assert await store.expire(NOW_MS + 179_999, 120) == []
    await the_time_is(store, NOW_MS + 180_000)
    assert await store.expire(NOW_MS + 180_000, 120) == ["h2"]
    assert await store.expire(NOW_MS + 180_000, 120) == []
    assert await balance(store) == (1_000, 10)
    row = await store.usage_row("h2")
    assert row is not None
    assert (row.outcome, row.charge_nanos, row.forgiven_nanos, row.usage) == (
        "expired", 0, 0, Usage(),
    )  # fmt: skip
    assert row.ended_ms == NOW_MS + 180_000
    # Its owner wakes up and loses the compare-and-set.
    assert not await store.settle(an_end(a_hold("h2", 10), Usage(output=1)))
    assert await store.renew([Running("h2", Usage())], NOW_MS + 200_000) == 0
    await the_time_is(store, NOW_MS + 280_000)
    assert await store.expire(NOW_MS + 280_000, 120) == ["h1"]
    assert await balance(store) == (1_000, 0)


@pytest.mark.parametrize("engine", ALONE)
async def test_what_the_dead_left_open_is_expired_at_once(engine: str, tmp_path: Path) -> None:
    async with opened(make_store(engine, tmp_path)) as store:
        await furnish(store, 1_000)
        dead = [a_hold(f"d{n}", 10, owner=f"o{n}") for n in range(5)]
        assert all(await asyncio.gather(*(took(store, row) for row in dead)))
        assert await took(store, a_hold("h1", 10))
        assert sorted(await store.expire_orphans("us", NOW_MS + 1)) == [f"d{n}" for n in range(5)]
        assert await store.expire_orphans("us", NOW_MS + 1) == []
        assert [row.state for row in await store.open_holds()] == [HoldState.OPEN]
        assert len(await store.usage()) == 5
        assert await store.audit() == []


async def test_usage_is_found_by_account_and_time(store: Store) -> None:
    await furnish(store, 1_000)
    await furnish(store, 1_000, "other")
    for n, account in enumerate(("acme", "other", "acme")):
        assert await took(store, a_hold(f"h{n}", 10, account))
    for n, account in reversed([*enumerate(("acme", "other", "acme"))]):
        ended_ms = NOW_MS + 10 * (3 - n)
        await the_time_is(store, ended_ms)
        hold = a_hold(f"h{n}", 10, account)
        assert await store.settle(an_end(hold, ended_ms=ended_ms))
    assert [row.hold for row in await store.usage()] == ["h2", "h1", "h0"]
    assert [row.hold for row in await store.usage("acme")] == ["h2", "h0"]
    assert [row.hold for row in await store.usage(None, NOW_MS + 20)] == ["h1", "h0"]
    assert [row.hold for row in await store.usage(None, NOW_MS + 20, NOW_MS + 30)] == ["h1"]
    assert await store.usage("nobody") == []


async def test_ping_and_a_caller_who_does_not_wait(store: Store) -> None:
    await store.ping()
    await furnish(store, 1_000)
    task = asyncio.create_task(store.hold(a_hold("h1", 10)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await store.ping()
    # Either it was in time or it was not, or comes yet; the books hold in all cases.
    assert await store.audit() == []
