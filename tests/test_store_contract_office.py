"""Rates, keys given another secret, secrets, invitations, alerts, forgetting: of every engine."""

import asyncio

import msgspec
import pytest

from moongate.core.errors import Refused
from moongate.core.money import Usage
from moongate.core.ports import Store
from moongate.core.rows import AccountRow, HoldRow, InviteRow, KeyRow, Quota
from moongate.core.store import Idem
from moongate.store import mapping
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
)

DAY_MS = 86_400_000


def a_key(id: str = "key_1", mac: int = 1, account: str = "acme", **fields: object) -> KeyRow:
    row = KeyRow(id, account, "a name", bytes([mac]) * 32, "wxyz", NOW_MS)
    return msgspec.structs.replace(row, **fields)


def an_invite(id: str = "inv_1", mac: int = 1, **fields: object) -> InviteRow:
    row = InviteRow(id, "acme", "for bert", bytes([mac]) * 32, NOW_MS, NOW_MS + DAY_MS)
    return msgspec.structs.replace(row, **fields)


async def test_what_is_bound_first_stays(store: Store) -> None:
    assert await store.bind("pepper", "one") == "one"
    assert await store.bind("pepper", "two") == "one"
    assert await store.bind("journal", "two") == "two"
    said = await asyncio.gather(*(store.bind("race", str(n)) for n in range(6)))
    assert len(set(said)) == 1


async def test_a_store_says_what_it_is_and_is_no_replica_for_it(store: Store) -> None:
    facts = await store.facts(NOW_MS)
    assert facts.kind in {"sqlite", "memory", "postgresql"}
    assert facts.kind == "memory" or facts.version[0].isdigit()
    assert (facts.replicas, facts.at_ms) == (0, NOW_MS)


async def test_heartbeats_count_who_lives(store: Store) -> None:
    assert await store.heartbeat("a", NOW_MS) == 1
    assert await store.heartbeat("b", NOW_MS) == 2
    await the_time_is(store, NOW_MS + 10_000)
    assert await store.heartbeat("b", NOW_MS + 10_000) == 2
    await the_time_is(store, NOW_MS + 16_000)
    assert await store.heartbeat("c", NOW_MS + 16_000) == 2
    await the_time_is(store, NOW_MS + 40_000)
    assert await store.heartbeat("a", NOW_MS + 40_000) == 1
    assert (await store.facts(NOW_MS + 41_000)).replicas == 1


# rates


async def test_rates_are_set_and_come_with_the_key(store: Store) -> None:
    await furnish(store, 0)
    own = Quota(60, None, 4)
    await store.key_insert(a_key(quota=own, project="site"))
    assert await store.key_by_mac(a_key().mac) == a_key(quota=own, project="site")
    shared = Quota(None, 90_000, 0)
    assert await store.account_quota("acme", shared)
    found = await store.key_by_mac(a_key().mac)
    assert found == a_key(quota=own, project="site", account_quota=shared)
    row = await store.account("acme")
    assert row is not None
    assert row.quota == shared
    assert await store.key_quota("key_1", Quota())
    assert await store.account_quota("acme", Quota(1, 2, 3))
    found = await store.key_by_mac(a_key().mac)
    assert found == a_key(project="site", account_quota=Quota(1, 2, 3))
    assert not await store.key_quota("key_9", own)
    assert not await store.account_quota("nobody", own)


async def test_an_account_comes_with_its_rates(store: Store) -> None:
    row = AccountRow("acme", "wallet", 0, 0, 0, NOW_MS, Quota(1, 2, 3))
    assert await store.account_create(row)
    assert await store.account("acme") == row


# keys


async def test_a_key_given_another_secret_keeps_its_id(store: Store) -> None:
    await furnish(store, 0)
    await store.key_insert(a_key(models=("kimi-k2.5",)))
    fresh, until_ms = b"\x02" * 32, NOW_MS + DAY_MS
    assert await store.key_rotate("key_1", fresh, "abcd", until_ms)
    turned = a_key(
        mac=2, models=("kimi-k2.5",), last4="abcd", old_mac=a_key().mac, old_until_ms=until_ms
    )
    assert await store.key_by_mac(fresh) == turned
    assert await store.key_by_mac(a_key().mac) == turned
    assert await store.keys("acme") == [turned]
    # Turned again, the secret before the last opens nothing.
    assert await store.key_rotate("key_1", b"\x03" * 32, "efgh", until_ms + 1)
    assert await store.key_by_mac(a_key().mac) is None
    found = await store.key_by_mac(fresh)
    assert found is not None
    assert (found.mac, found.old_mac, found.old_until_ms) == (b"\x03" * 32, fresh, until_ms + 1)


async def test_a_key_that_ended_gets_no_secret(store: Store) -> None:
    await furnish(store, 0)
    await store.key_insert(a_key())
    await store.key_insert(a_key("key_2", 2))
    assert not await store.key_rotate("key_9", b"\x09" * 32, "abcd", NOW_MS)
    with pytest.raises(ValueError, match="refused"):
        await store.key_rotate("key_1", a_key("key_2", 2).mac, "abcd", NOW_MS)
    assert await store.key_revoke("key_1", NOW_MS)
    assert not await store.key_rotate("key_1", b"\x09" * 32, "abcd", NOW_MS)
    assert await store.key_by_mac(b"\x09" * 32) is None


# secrets


async def test_secrets_turn_and_are_destroyed(store: Store) -> None:
    secrets = [bytes([n]) * 32 for n in range(6)]

    async def at(passed_ms: int, fresh: int, purpose: str = "idem") -> list[bytes]:
        await the_time_is(store, NOW_MS + passed_ms)
        return await store.rotate_secret(purpose, secrets[fresh], NOW_MS + passed_ms, DAY_MS)

    assert await at(0, 0) == [secrets[0]]
    assert await at(DAY_MS - 1, 1) == [secrets[0]]
    assert await at(DAY_MS + 1, 2) == [secrets[2], secrets[0]]
    assert await at(2 * DAY_MS - 1, 3) == [secrets[2], secrets[0]]
    assert await at(2 * DAY_MS + 1, 3) == [secrets[2]]
    assert await at(2 * DAY_MS + 2, 3, "cache") == [secrets[3]]
    assert await at(9 * DAY_MS, 4) == [secrets[4]]
    assert await at(9 * DAY_MS + 1, 5) == [secrets[4]]


async def test_processes_that_start_at_once_agree_on_a_secret(store: Store) -> None:
    said = await asyncio.gather(
        *(store.rotate_secret("idem", bytes([n]) * 32, NOW_MS, DAY_MS) for n in range(6))
    )
    assert said == [said[0]] * 6
    assert len(said[0]) == 1


# invitations


async def test_an_invitation_makes_one_key(store: Store) -> None:
    await furnish(store, 0)
    await store.invite_add(an_invite())
    key = a_key("key_1", 7, account="elsewhere", name="chosen by nobody")
    assert await store.invite_take(b"\x09" * 32, key, NOW_MS) is None
    used = await store.invite_take(an_invite().mac, key, NOW_MS)
    assert used == an_invite(used_ms=NOW_MS, key="key_1")
    assert await store.invites() == [used]
    assert await store.keys() == [msgspec.structs.replace(key, account="acme", name="for bert")]
    assert await store.invite_take(an_invite().mac, a_key("key_2", 8), NOW_MS) is None
    assert len(await store.keys()) == 1


async def test_an_invitation_taken_many_times_at_once_makes_one_key(store: Store) -> None:
    await furnish(store, 0)
    await store.invite_add(an_invite())
    takes = (store.invite_take(an_invite().mac, a_key(f"key_{n}", n), NOW_MS) for n in range(1, 7))
    said = await asyncio.gather(*takes)
    assert sum(row is not None for row in said) == 1
    assert len(await store.keys()) == 1


async def test_an_invitation_whose_key_cannot_be_stays_good(store: Store) -> None:
    await furnish(store, 0)
    await store.key_insert(a_key())
    await store.invite_add(an_invite())
    with pytest.raises(ValueError, match="refused"):
        await store.invite_take(an_invite().mac, a_key("key_2", 1), NOW_MS)  # the same MAC
    assert await store.invites() == [an_invite()]
    assert await store.invite_take(an_invite().mac, a_key("key_2", 2), NOW_MS) is not None


async def test_invitations_are_of_accounts_and_end(store: Store) -> None:
    await furnish(store, 0)
    await furnish(store, 0, "other")
    rows = [an_invite(), an_invite("inv_2", 2, account="other")]
    for row in rows:
        await store.invite_add(row)
    assert await store.invites() == rows
    assert await store.invites("other") == rows[1:]
    for wrong in (an_invite("inv_3"), an_invite("inv_1", 3), an_invite("i4", 4, account="nobody")):
        with pytest.raises(ValueError, match="refused"):
            await store.invite_add(wrong)
    await the_time_is(store, NOW_MS + DAY_MS)
    assert await store.invite_take(an_invite().mac, a_key(), NOW_MS + DAY_MS) is None


# alerts


async def test_a_wallet_that_fell_is_told_of_once(store: Store) -> None:
    await furnish(store, 10_000)
    await furnish(store, 1_000_000, "rich")
    await furnish(store, 0, "never-filled")
    hold = await held(store, a_hold("h1", 10_000))

    async def low(at_ms: int, below: int = 5_000) -> list[str]:
        await the_time_is(store, at_ms)
        return [row.id for row in await store.low_wallets(below, at_ms)]

    assert await low(NOW_MS) == []  # what a request holds for a moment is not spent
    assert await store.settle(an_end(hold, Usage(output=3)))
    assert await low(NOW_MS) == ["acme"]
    assert await low(NOW_MS + 1_000) == []
    assert await low(NOW_MS + 61_000) == ["acme"]  # whoever claimed it told nobody
    await store.low_told(["acme", "rich"])
    assert await low(NOW_MS + 200_000) == []
    assert await store.credit("acme", 1_000, "topup", "t1", NOW_MS)
    assert await low(NOW_MS + 201_000) == []  # at 5,000 it is not below
    assert await store.credit("acme", -1, "refund", "t2", NOW_MS)
    assert await low(NOW_MS + 202_000) == ["acme"]


async def test_a_credit_limit_keeps_a_wallet_up(store: Store) -> None:
    await furnish(store, 1_000, limit=4_000)
    assert await store.low_wallets(5_000, NOW_MS) == []
    assert [row.id for row in await store.low_wallets(5_001, NOW_MS)] == ["acme"]


async def test_of_those_who_look_at_once_one_tells(store: Store) -> None:
    await furnish(store, 1_000)
    said = await asyncio.gather(*(store.low_wallets(5_000, NOW_MS) for _ in range(6)))
    assert sorted(len(rows) for rows in said) == [0] * 5 + [1]


# forgetting


async def test_what_served_its_time_is_forgotten(store: Store) -> None:
    await furnish(store, 1_000)
    await store.invite_add(an_invite())
    await store.invite_add(an_invite("inv_2", 2, expires_ms=NOW_MS + 3 * DAY_MS))
    for n, days in enumerate((1, 3)):
        mark = (bytes([n]) * 32, bytes(32))
        idem = Idem("acme", (mark,), NOW_MS + days * DAY_MS)
        assert await took(store, a_hold(f"h{n}", 10), idem=idem)
    await the_time_is(store, NOW_MS + DAY_MS - 1)
    assert await store.forget(NOW_MS + DAY_MS - 1) == 0
    await the_time_is(store, NOW_MS + DAY_MS)
    assert await store.forget(NOW_MS + DAY_MS) == 2
    assert await store.forget(NOW_MS + DAY_MS) == 0
    assert [row.id for row in await store.invites()] == ["inv_2"]
    assert {row.id for row in await store.open_holds()} == {"h0", "h1"}
    assert len(await store.entries()) == 2


async def test_forgetting_goes_page_by_page(store: Store) -> None:
    await furnish(store, 10_000)
    rows = [a_hold(f"h{n}", 1) for n in range(1_005)]
    marks = [(n.to_bytes(32, "big"), bytes(32)) for n in range(len(rows))]
    said = await asyncio.gather(
        *(
            store.hold(row, idem=Idem("acme", (mark,), NOW_MS + 5))
            for row, mark in zip(rows, marks, strict=True)
        )
    )
    assert all(isinstance(answer, HoldRow) for answer in said)
    await the_time_is(store, NOW_MS + 5)
    assert [await store.forget(NOW_MS + 5) for _ in range(3)] == [1_000, 5, 0]


async def test_an_invitation_and_its_trial_credit_are_both_there_or_neither(store: Store) -> None:
    await furnish(store, 0)
    await store.invite_add(an_invite(), 500)
    assert await balance(store) == (500, 0)
    assert await store.entry_sums("acme") == {"trial": 500}
    for row, nanos in ((an_invite(), 7), (an_invite("inv_2", 2), mapping.AMOUNT_MAX)):
        with pytest.raises((ValueError, Refused)):
            await store.invite_add(row, nanos)
    assert [row.id for row in await store.invites()] == ["inv_1"]
    assert await balance(store) == (500, 0)
    assert await store.audit() == []


async def test_a_key_and_its_budget_are_both_there_or_neither(store: Store) -> None:
    await furnish(store, 1_000)
    await store.key_insert(a_key(), a_budget(400))
    (budget,) = await store.budgets("acme", NOW_MS)
    assert (budget.scope, budget.subject, budget.cap_nanos) == ("key", "key_1", 400)
    for key, cap in ((a_key(), 300), (a_key("key_2", 2), -1)):
        with pytest.raises(ValueError, match="the store refused this row"):
            await store.key_insert(key, a_budget(cap, id="bud_2", subject=key.id))
    assert [row.id for row in await store.keys()] == ["key_1"]
    assert await store.budgets("acme", NOW_MS) == [budget]
    assert not await took(store, a_hold("h1", 401))
    assert await took(store, a_hold("h2", 400))
