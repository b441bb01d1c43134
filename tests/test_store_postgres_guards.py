"""What PostgreSQL itself refuses, whoever asks, and what the audit finds if it was done anyway."""

import asyncio

import pytest

from moongate.core.errors import ConfigurationError
from moongate.core.money import Usage
from moongate.core.ports import Store
from moongate.core.rows import AccountRow, HoldRow
from moongate.core.store import Extension, NotHeld
from postgres_kit import ClockedStore, cluster, database
from store_kit import NOW_MS, a_hold, an_end, balance, furnish, opened, took

pytestmark = pytest.mark.postgres


async def lived_in(store: Store) -> None:
    """One settled, one void and one open hold."""
    await furnish(store, 1_000_000)
    for id in ("settled", "void", "open"):
        assert await took(store, a_hold(id, 100_000))
    assert await store.settle(an_end(a_hold("settled", 100_000), Usage(output=10)))
    assert await store.settle(an_end(a_hold("void", 100_000), Usage(output=1), void=True))
    assert await store.audit() == []


REFUSED = {
    "UPDATE entry SET amount_nanos = amount_nanos + 1": "append-only",
    "DELETE FROM entry": "append-only",
    "TRUNCATE entry": "append-only",
    "UPDATE price SET input_nanos = 0": "append-only",
    "DELETE FROM price": "append-only",
    "UPDATE usage SET charge_nanos = 0": "append-only",
    "DELETE FROM usage": "append-only",
    "TRUNCATE usage": "append-only",
    "DELETE FROM hold": "holds are kept",
    "TRUNCATE hold CASCADE": "kept|append-only",
    "UPDATE hold SET state = 0, resolved_ms = NULL WHERE state = 1": "resolved once",
    "UPDATE hold SET amount_nanos = 7 WHERE state = 1": "resolved once",
    "DELETE FROM account WHERE id = 'promo'": "accounts are kept",
    "UPDATE account SET id = 'other' WHERE id = 'acme'": "keeps its id",
    "UPDATE account SET held_nanos = posted_nanos + 1 WHERE id = 'acme'": "no_overdraft",
    "UPDATE account SET held_nanos = -1 WHERE id = 'cash'": "check constraint",
    "UPDATE account SET posted_nanos = 4000000000000000001 WHERE id = 'acme'": "check constraint",
    "INSERT INTO entry (tx, seq, account, amount_nanos, kind, created_ms)"
    " VALUES ('x', 0, 'nobody', 5, 'topup', 1)": "no such account",
    "INSERT INTO hold_leg VALUES ('open', 'nobody')": "no such account",
    "INSERT INTO hold_leg VALUES ('ghost', 'acme')": "no such hold",
    "INSERT INTO hold (id, key, account, model, amount_nanos, slice_no, price_version, owner,"
    " lease_s, created_ms, renewed_ms) VALUES ('x', 'k', 'acme', 'm', 1, 0, 99, 'o', 1, 1, 1)": (
        "no such price"
    ),
    "INSERT INTO usage (hold, key, account, model, upstream, outcome, input, cache_read, output,"
    " searches, estimated, price_version, charge_nanos, forgiven_nanos, created_ms, ended_ms,"
    " streamed, status, duration_ms) SELECT 'open', key, account, model, upstream, outcome, 0, 0,"
    " 0, 0, false, price_version, 0, 0, 1, 1, false, 200, 0 FROM usage LIMIT 1": "its hold",
}


async def test_the_database_itself_refuses() -> None:
    url = database()
    async with opened(ClockedStore(url, NOW_MS)) as store:
        await lived_in(store)
        for statement, reason in REFUSED.items():
            with pytest.raises(AssertionError, match=reason):
                cluster().psql(url.rpartition("/")[2], statement)
        assert await store.audit() == []


BREAKS: dict[str, tuple[set[str], list[str]]] = {
    "an entry too much": (
        {"I1", "I2"},
        ["INSERT INTO entry VALUES (DEFAULT, 'x', 0, 'promo', 5, 'topup', 1)"],
    ),
    "an entry outside the chain": (
        {"I1", "I2", "chain"},
        ["INSERT INTO entry VALUES (DEFAULT, 'x', 0, 'acme', 5, 'topup', 1)"],
    ),
    "an entry is gone": (
        {"I1", "I2", "I5", "chain"},
        ["DELETE FROM entry WHERE tx = 'settled' AND seq = 0"],
    ),
    "an entry's time was changed": (
        {"chain"},
        ["UPDATE entry SET created_ms = created_ms + 1 WHERE tx = 'settled' AND seq = 0"],
    ),
    "the account's last link was changed": (
        {"chain"},
        ["UPDATE account SET chain_no = chain_no + 1 WHERE id = 'acme'"],
    ),
    "posted is off": ({"I1", "I2"}, [
        "UPDATE account SET posted_nanos = posted_nanos + 1 WHERE id = 'acme'",
    ]),
    "held is off": ({"I3"}, ["UPDATE account SET held_nanos = 0 WHERE id = 'acme'"]),
    "a leg is gone": ({"I3", "I8"}, ["DELETE FROM hold_leg WHERE hold = 'open'"]),
    "overdrawn": ({"I1", "I2", "I4"}, [
        "ALTER TABLE account DROP CONSTRAINT no_overdraft",
        "UPDATE account SET posted_nanos = 99999 WHERE id = 'acme'",
    ]),
    "charged more than held": ({"I6"}, [
        "UPDATE hold SET amount_nanos = 19999 WHERE id = 'settled'",
    ]),
    "another usage than was priced": ({"I7"}, [
        "UPDATE usage SET output = 11 WHERE hold = 'settled'",
    ]),
    "a void that forgives too little": ({"I7"}, [
        "UPDATE usage SET forgiven_nanos = 1 WHERE hold = 'void'",
    ]),
    "a resolved hold without usage": ({"I7", "I8"}, ["DELETE FROM usage WHERE hold = 'void'"]),
    "usage of an open hold": ({"I3", "I8"}, [
        "UPDATE hold SET state = 0, resolved_ms = NULL WHERE id = 'void'",
    ]),
    "usage of another account": ({"I8"}, [
        "UPDATE usage SET account = 'cash' WHERE hold = 'void'",
    ]),
}  # fmt: skip


@pytest.mark.parametrize("name", BREAKS)
async def test_the_audit_finds(name: str) -> None:
    expected, statements = BREAKS[name]
    url = database()
    async with opened(ClockedStore(url, NOW_MS)) as store:
        await lived_in(store)
        # Its owner can put every guard to sleep.
        script = ";\n".join(["SET session_replication_role = replica", *statements])
        cluster().psql(url.rpartition("/")[2], script)
        assert {finding.invariant for finding in await store.audit()} == expected
        minutely = expected & {"I1", "I3", "I4"} - ({"I1"} if "entry" in name else set())
        assert {finding.invariant for finding in await store.self_check()} == minutely


async def test_a_batch_in_which_some_are_at_fault_serves_the_others() -> None:
    """Settlements, extensions and holds, good and bad, in one call."""
    async with opened(ClockedStore(database(), NOW_MS)) as store:
        await furnish(store, 1_000_000)
        await furnish(store, 1_000, "poor")
        await furnish(store, 1_000, "rich")
        assert await store.account_create(AccountRow("empty", "wallet", 0, 0, 0, NOW_MS))
        for n in range(8):
            assert await took(store, a_hold(f"old{n}", 50_000))
        sent = []
        send = store._line._send

        async def seen(batch, lane):
            sent.append([move.hold for move in batch])
            return await send(batch, lane)

        store._line._send = seen
        answers = await asyncio.gather(
            store.settle(an_end(a_hold("old0", 50_000), Usage(output=10))),
            store.settle(an_end(a_hold("old1", 50_000), Usage(output=10), charge_nanos=50_001)),
            store.settle(an_end(a_hold("old2", 50_000), account="poor")),
            store.settle(an_end(a_hold("ghost", 1))),
            store.extend(Extension("old3", 1, 10_000, 2_000)),
            store.extend(Extension("old4", 1, 10**7, 2_000)),
            store.extend(Extension("old5", 7, 10_000, 2_000)),
            store.extend(Extension("ghost2", 1, 10_000, 2_000)),
            store.hold(a_hold("new0", 10, "rich")),
            store.hold(a_hold("new1", 10, "rich", price_version=99)),
            store.hold(a_hold("new2", 10, "empty")),
            store.hold(a_hold("new3", 5_000, "poor"), floor_nanos=100, unit_nanos=400),
            store.hold(a_hold("old6", 10, key="another's")),
            store.hold(a_hold("old7", 10)),
            store.hold(a_hold("nul\0", 10, "rich")),
            store.hold(a_hold("big", 2**63, "rich")),
            return_exceptions=True,
        )
        assert len(sent[0]) == 16
        kinds = [type(answer).__name__ for answer in answers]
        assert kinds == [
            "bool", "ValueError", "ValueError", "bool",
            "HoldRow", "HoldRow", "HoldRow", "NoneType",
            "HoldRow", "ValueError", "NotHeld", "HoldRow", "ValueError", "HoldRow",
            "ValueError", "ValueError",
        ]  # fmt: skip
        assert (answers[0], answers[3]) == (True, False)
        amounts = [answers[n].amount_nanos for n in (4, 6, 8, 11, 13)]
        assert amounts == [60_000, 50_000, 10, 900, 50_000]
        # One that wants all there is gets what is left, to the token.
        assert isinstance(answers[5], HoldRow)
        assert answers[5].amount_nanos % 2_000 == 0
        assert answers[10] == NotHeld("short")
        posted, held = await balance(store)
        assert posted == 980_000
        assert 0 <= posted - held < 2_000
        assert await store.audit() == []


async def test_faults_are_told_without_values() -> None:
    async with opened(ClockedStore(database(), NOW_MS)) as store:
        await furnish(store, 1_000)
        for row in (
            a_hold("secret-words", 10, price_version=99),
            a_hold("secret-words\0", 10),
            a_hold("secret-words", 10, lease_s=2**40),
        ):
            with pytest.raises(ValueError, match="the store refused this row") as error:
                await store.hold(row)
            assert "secret" not in str(error.value)
        assert not isinstance(error.value, ConfigurationError)
