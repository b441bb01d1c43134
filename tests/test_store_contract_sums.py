"""What statements, invoices and balances are added up from, asked of every engine."""

import random

from moongate.core.money import Price, Usage, charge
from moongate.core.ports import Store
from moongate.core.rows import AccountRow, KeyRow, Outcome, PriceRow
from moongate.core.store import Running
from moongate.core.sums import DAY_MS, UsageSum, add_up
from store_kit import KIMI, NOW_MS, a_hold, an_end, balance, furnish, held, the_time_is

OUTCOMES: tuple[Outcome, ...] = (
    "done", "done", "done", "client_left", "credit_stop", "upstream_error", "refused",
)  # fmt: skip
FREE: tuple[Outcome, ...] = ("upstream_error", "refused")


async def a_history(store: Store, seed: int = 7, requests: int = 120) -> None:
    """Requests of two accounts over a few days: charged, cut at their hold, and given away."""
    dice = random.Random(seed)
    await furnish(store, 10**9)
    await store.account_create(AccountRow("moon", "wallet", 0, 0, 0, NOW_MS))
    assert await store.credit("moon", 10**9, "trial", "credit-moon", NOW_MS)
    other = Price(300, 30, 900, 0)
    await store.price_add(PriceRow(0, "small", other, NOW_MS))
    days = sorted(dice.choices(range(4), k=requests))
    for n, day in enumerate(days):
        at_ms = NOW_MS + day * DAY_MS + dice.randrange(DAY_MS // 2)
        await the_time_is(store, at_ms)
        model, price, version = dice.choice([("kimi-k2.5", KIMI, 1), ("small", other, 2)])
        used = Usage(dice.randrange(90), dice.randrange(90), dice.randrange(90))
        due = charge(used, price)
        hold = a_hold(
            f"h{n:03}",
            # Some holds are too small: the rest of the price is forgiven.
            due if dice.random() < 0.8 else due // 3,
            dice.choice(["acme", "moon"]),
            key=dice.choice(["key_1", "key_2"]),
            model=model,
            price_version=version,
            created_ms=at_ms,
        )
        row = await held(store, hold)
        outcome = dice.choice(OUTCOMES)
        end = an_end(row, used, price=price, void=outcome in FREE, outcome=outcome, ended_ms=at_ms)
        assert await store.settle(end)


async def test_when_each_key_was_last_used_is_told_for_the_keys_that_were(store: Store) -> None:
    await a_history(store)
    for id, account in (("key_1", "acme"), ("key_2", "moon"), ("key_3", "acme")):
        await store.key_insert(KeyRow(id, account, "n", id.encode() * 8, "last", NOW_MS))
    rows = await store.usage()
    last = {key: max(row.ended_ms for row in rows if row.key == key) for key in ("key_1", "key_2")}
    assert await store.last_used() == last
    assert await store.last_used("acme") == {"key_1": last["key_1"]}
    assert await store.last_used("nobody") == {}


async def test_the_sums_are_those_of_the_rows_however_they_are_grouped(store: Store) -> None:
    await a_history(store)
    spans = [(0, None), (NOW_MS + DAY_MS, NOW_MS + 3 * DAY_MS), (NOW_MS + 9 * DAY_MS, None)]
    for account in (None, "acme", "moon", "nobody"):
        for from_ms, to_ms in spans:
            rows = await store.usage(account, from_ms, to_ms)
            for days in (True, False):
                for keys in (True, False):
                    found = await store.usage_sums(account, from_ms, to_ms, days=days, keys=keys)
                    assert found == add_up(rows, days=days, keys=keys)
    whole = await store.usage_sums()
    assert sum(one.requests for one in whole) == 120
    assert {one.day for one in whole} == {NOW_MS // DAY_MS + n for n in range(4)}
    assert any(one.uncharged for one in whole)
    assert any(one.forgiven_nanos for one in whole)


async def test_what_was_charged_is_what_the_wallets_entries_say(store: Store) -> None:
    await a_history(store)
    for account in ("acme", "moon"):
        for day in range(-1, 5):
            span = (NOW_MS + day * DAY_MS, NOW_MS + (day + 1) * DAY_MS)
            moved = await store.entry_sums(account, *span)
            sums = await store.usage_sums(account, *span)
            assert -moved.get("charge", 0) == sum(one.charge_nanos for one in sums)
        moved = await store.entry_sums(account)
        assert sum(moved.values()) == (await balance(store, account))[0]
    assert (await store.entry_sums("acme")).keys() == {"topup", "charge"}
    assert await store.entry_sums("nobody") == {}


async def test_a_charge_is_of_the_moment_at_which_its_request_ended(store: Store) -> None:
    await a_history(store, requests=20)
    for row in await store.usage():
        entries = await store.entries(tx=row.hold)
        assert {entry.created_ms for entry in entries} <= {row.ended_ms}


async def test_credits_are_the_movements_that_are_no_charges(store: Store) -> None:
    await a_history(store, requests=10)
    await the_time_is(store, NOW_MS + 5 * DAY_MS)
    assert await store.credit("acme", 700, "topup", "t2", NOW_MS + 5 * DAY_MS)
    assert await store.credit("acme", -200, "refund", "t3", NOW_MS + 5 * DAY_MS)
    every = await store.credits("acme")
    assert [(entry.kind, entry.amount_nanos, entry.account) for entry in every] == [
        ("topup", 10**9, "acme"),
        ("topup", 700, "acme"),
        ("refund", -200, "acme"),
    ]
    assert [entry.tx for entry in await store.credits("acme", NOW_MS + DAY_MS)] == ["t2", "t3"]
    assert len(await store.credits("acme", 0, NOW_MS + DAY_MS)) == 1
    assert [entry.kind for entry in await store.credits("moon")] == ["trial"]


async def test_a_crash_that_is_settled_is_charged_and_one_that_is_not_is_free(
    store: Store,
) -> None:
    await furnish(store, 10**9)
    used = Usage(10, 20, 30)
    for n, (id, cut) in enumerate((("h1", True), ("h2", False))):
        row = await held(store, a_hold(id, 10**6))
        await store.renew([Running(row.id, used)], NOW_MS)
        late_ms = NOW_MS + (n + 1) * 1_000_000
        await the_time_is(store, late_ms)
        assert await store.expire(late_ms, 1, checkpoint=cut) == [id]
    (group,) = await store.usage_sums(days=False, keys=False)
    due = charge(used, KIMI)
    assert group == UsageSum(-1, "acme", "", "kimi-k2.5", 1, 2, 1, 10, 20, 30, 0, due, due)
