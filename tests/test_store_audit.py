"""The audit names each broken invariant: every one is broken by hand in a store, and found."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest

from moongate.core.money import Usage
from moongate.core.ports import Store
from moongate.core.rows import EntryRow, HoldState
from moongate.store.memory import MemoryStore
from moongate.store.sqlite import SqliteStore
from store_kit import a_hold, an_end, furnish, opened, took


async def _lived_in(store: Store) -> None:
    """One settled, one void and one open hold."""
    await furnish(store, 1_000_000)
    for id in ("settled", "void", "open"):
        assert await took(store, a_hold(id, 100_000))
    assert await store.settle(an_end(a_hold("settled", 100_000), Usage(output=10)))
    assert await store.settle(an_end(a_hold("void", 100_000), Usage(output=1), void=True))
    assert await store.audit() == []


BREAKS: dict[str, tuple[set[str], list[str]]] = {
    "an entry too much": (
        {"I1", "I2", "chain"},
        ["INSERT INTO entry VALUES (NULL, 'x', 0, 'acme', 5, 'topup', 1, NULL, NULL)"],
    ),
    "an entry is gone": (
        {"I1", "I2", "I5", "chain"},
        ["DELETE FROM entry WHERE tx = 'settled' AND seq = 0"],
    ),
    "charged twice": (
        {"I5", "chain"},
        [
            "INSERT INTO entry VALUES (NULL, 'settled', 2, 'acme', -20, 'charge', 1, NULL, NULL)",
            "INSERT INTO entry VALUES (NULL, 'settled', 3, 'revenue', 20, 'charge', 1, NULL, NULL)",
            "UPDATE account SET posted_nanos = posted_nanos - 20 WHERE id = 'acme'",
            "UPDATE account SET posted_nanos = posted_nanos + 20 WHERE id = 'revenue'",
        ],
    ),
    "charged without a request": (
        {"I5", "chain"},
        [
            "INSERT INTO entry VALUES (NULL, 'stray', 0, 'acme', -5, 'charge', 1, NULL, NULL)",
            "INSERT INTO entry VALUES (NULL, 'stray', 1, 'revenue', 5, 'charge', 1, NULL, NULL)",
            "UPDATE account SET posted_nanos = posted_nanos - 5 WHERE id = 'acme'",
            "UPDATE account SET posted_nanos = posted_nanos + 5 WHERE id = 'revenue'",
        ],
    ),
    "posted is off": (
        {"I2"},
        ["UPDATE account SET posted_nanos = posted_nanos + 1 WHERE id = 'acme'"],
    ),
    "held is off": ({"I3"}, ["UPDATE account SET held_nanos = 0 WHERE id = 'acme'"]),
    "a leg is gone": ({"I3", "I8"}, ["DELETE FROM hold_leg WHERE hold = 'open'"]),
    "overdrawn": (
        {"I2", "I4"},
        ["UPDATE account SET posted_nanos = 99999 WHERE id = 'acme'"],
    ),
    "charged more than held": (
        {"I6"},
        ["UPDATE hold SET amount_nanos = 19999 WHERE id = 'settled'"],
    ),
    "another usage than was priced": (
        {"I7"},
        ["UPDATE usage SET output = 11 WHERE hold = 'settled'"],
    ),
    "a void that forgives too little": (
        {"I7"},
        ["UPDATE usage SET forgiven_nanos = 1 WHERE hold = 'void'"],
    ),
    "an attempt that was not forgiven": (
        {"I7"},
        [
            "PRAGMA ignore_check_constraints = ON",
            "UPDATE usage SET spoiled_nanos = 1 WHERE hold = 'settled'",
        ],
    ),
    "a resolved hold without usage": ({"I7", "I8"}, ["DELETE FROM usage WHERE hold = 'void'"]),
    "usage of an open hold": (
        {"I8", "I3"},
        ["UPDATE hold SET state = 0, resolved_ms = NULL WHERE id = 'void'"],
    ),
    "an entry's time is another": (
        {"chain"},
        ["UPDATE entry SET created_ms = created_ms + 1 WHERE tx = 'settled' AND seq = 0"],
    ),
    "two entries changed places": (
        {"chain"},
        [
            "UPDATE entry SET chain_no = 9 WHERE chain_no = 1",
            "UPDATE entry SET chain_no = 1 WHERE chain_no = 2",
            "UPDATE entry SET chain_no = 2 WHERE chain_no = 9",
        ],
    ),
    "a chain that was cut and begun anew": (
        {"chain"},
        ["UPDATE account SET chain_no = 1 WHERE id = 'acme'"],
    ),
    "what was forgiven is not posted": (
        {"I1", "I2", "I7"},
        [
            "DELETE FROM entry WHERE kind = 'forgiven' AND seq = 100",
            "UPDATE account SET posted_nanos = 0 WHERE id = 'contra'",
            "UPDATE account SET posted_nanos = 0 WHERE id = 'forgiven'",
        ],
    ),
    "usage of another account": (
        {"I8"},
        ["UPDATE usage SET account = 'cash' WHERE hold = 'void'"],
    ),
}


def _harm(file: Path, statements: list[str]) -> None:
    """Do what the database itself refuses, with its guards taken away."""
    db = apsw.Connection(str(file))
    db.pragma("ignore_check_constraints", "ON")
    for trigger in db.execute("SELECT name FROM sqlite_schema WHERE type='trigger'").fetchall():
        db.execute(f"DROP TRIGGER {trigger[0]}")
    for statement in statements:
        db.execute(statement)
    db.close()


@pytest.mark.parametrize("name", BREAKS)
async def test_sqlite_audit_finds(name: str, tmp_path: Path) -> None:
    expected, statements = BREAKS[name]
    async with opened(SqliteStore(tmp_path / "a.db")) as store:
        await _lived_in(store)
        _harm(tmp_path / "a.db", statements)
        # Where a figure breaks a CHECK of the table, the file's own check says so too.
        assert {finding.invariant for finding in await store.audit()} - {"file"} == expected


@pytest.mark.parametrize(
    ("name", "found"),
    [("posted is off", {"I1"}), ("held is off", {"I3"}), ("overdrawn", {"I1", "I4"})],
)
async def test_the_check_of_each_minute_finds(name: str, found: set[str], tmp_path: Path) -> None:
    async with opened(SqliteStore(tmp_path / "a.db")) as store:
        await _lived_in(store)
        assert await store.self_check() == []
        _harm(tmp_path / "a.db", BREAKS[name][1])
        assert {finding.invariant for finding in await store.self_check()} == found


def _entry(store: MemoryStore, tx: str, seq: int, account: str, nanos: int, kind: str) -> None:
    store.tables.entries.append(EntryRow(tx, seq, account, nanos, kind, 1))
    posted = store.tables.accounts[account].posted_nanos + nanos
    store.tables.alter_account(account, posted_nanos=posted)


def _alter(rows: dict[str, Any], id: str, **fields: Any) -> None:
    rows[id] = msgspec.structs.replace(rows[id], **fields)


MEMORY_BREAKS: dict[str, tuple[set[str], Callable[[MemoryStore], object]]] = {
    "an entry too much": ({"I1", "chain"}, lambda s: _entry(s, "x", 0, "acme", 5, "topup")),
    "an entry is gone": ({"I1", "I2"}, lambda s: s.tables.entries.pop()),
    "charged twice": (
        {"I1", "I5", "chain"},
        lambda s: _entry(s, "settled", 0, "acme", -5, "charge"),
    ),
    "held is off": ({"I3"}, lambda s: _alter(s.tables.accounts, "acme", held_nanos=0)),
    "overdrawn": (
        {"I1", "I2", "I4"},
        lambda s: _alter(s.tables.accounts, "acme", posted_nanos=99_999),
    ),
    "a leg is gone": ({"I3", "I8"}, lambda s: _alter(s.tables.holds, "open", legs=())),
    "more than held": ({"I6"}, lambda s: _alter(s.tables.holds, "settled", amount_nanos=19_999)),
    "another usage": ({"I7"}, lambda s: _alter(s.tables.usage, "settled", usage=Usage(output=11))),
    "another attempt": ({"I7"}, lambda s: _alter(s.tables.usage, "settled", spoiled_nanos=1)),
    "no usage": ({"I7", "I8"}, lambda s: s.tables.usage.pop("void")),
    "forgiven and not posted": (
        {"I1", "I2", "I7"},
        lambda s: s.tables.alter_account("forgiven", posted_nanos=0),
    ),
    "another amount under an old hash": (
        {"I1", "I2", "chain"},
        lambda s: s.tables.entries.__setitem__(
            0, msgspec.structs.replace(s.tables.entries[0], amount_nanos=7)
        ),
    ),
    "another end of the chain": (
        {"chain"},
        lambda s: s.tables.alter_account("acme", chain=bytes(32)),
    ),
    "open again": ({"I3", "I8"}, lambda s: _alter(s.tables.holds, "void", state=HoldState.OPEN)),
    "another account": ({"I8"}, lambda s: _alter(s.tables.usage, "void", account="cash")),
}


@pytest.mark.parametrize("name", MEMORY_BREAKS)
async def test_memory_audit_finds(name: str) -> None:
    expected, harm = MEMORY_BREAKS[name]
    store = MemoryStore()
    await _lived_in(store)
    harm(store)
    assert {finding.invariant for finding in await store.audit()} == expected


GUARDED = {
    "UPDATE entry SET amount_nanos = amount_nanos + 1": "append-only",
    "DELETE FROM entry": "append-only",
    "UPDATE price SET input_nanos = 0": "append-only",
    "DELETE FROM price": "append-only",
    "UPDATE usage SET charge_nanos = 0": "append-only",
    "DELETE FROM usage": "append-only",
    "DELETE FROM hold": "holds are kept",
    "UPDATE hold SET state = 0, resolved_ms = NULL WHERE state = 1": "resolved once",
    "UPDATE account SET held_nanos = posted_nanos + 1 WHERE id = 'acme'": "no_overdraft",
    "UPDATE account SET held_nanos = -1 WHERE id = 'cash'": "CHECK",
    "UPDATE account SET posted_nanos = 4000000000000000001 WHERE id = 'acme'": "CHECK",
    "INSERT INTO usage SELECT 'open', key, account, model, upstream, outcome, 0, 0, 0, 0, NULL, 0,"
    " price_version, 0, 0, 1, 1, 0, 200, NULL, 0, NULL, NULL, NULL, 1, 0 FROM usage"
    " LIMIT 1": "its hold",
}


@pytest.mark.parametrize("statement", GUARDED)
async def test_the_database_itself_refuses(statement: str, tmp_path: Path) -> None:
    async with opened(SqliteStore(tmp_path / "a.db")) as store:
        await _lived_in(store)
        db = apsw.Connection(str(tmp_path / "a.db"))
        with pytest.raises(apsw.ConstraintError, match=GUARDED[statement]):
            db.execute(statement)
        db.close()
        assert await store.audit() == []
