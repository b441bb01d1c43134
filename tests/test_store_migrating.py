"""A store of an older version is brought up to date at start, whole or not at all."""

from pathlib import Path

import apsw
import pytest

from moongate.core.chain import breaks
from moongate.core.errors import ConfigurationError
from moongate.core.money import Usage
from moongate.store import opening
from moongate.store.opening import APPLICATION_ID
from moongate.store.sqlite import SqliteStore
from moongate.store.statements import read_migrations
from store_kit import a_hold, an_end, balance, opened

ROWS = """
INSERT INTO account VALUES ('acme', 'wallet', 880000, 70000, 0, 1), ('bert', 'wallet', 5, 0, 0, 2),
    ('idle', 'wallet', 0, 0, 0, 3);
UPDATE account SET posted_nanos = -1000005 WHERE id = 'cash';
UPDATE account SET posted_nanos = 120000 WHERE id = 'revenue';
INSERT INTO api_key VALUES ('key_1', 'acme', 'n', x'01', '1234', 1, 0, '[]', 'standard', 0, NULL, NULL);
INSERT INTO price VALUES (1, 'kimi-k2.5', 480, 100, 2000, 0, 1);
INSERT INTO hold VALUES ('h1', 'key_1', 'acme', 'kimi-k2.5', 120000, 0, 1, 1, 'us', 60, 1, 1, 2),
    ('h2', 'key_1', 'acme', 'kimi-k2.5', 9000, 0, 2, 1, 'us', 60, 1, 1, 2),
    ('h3', 'key_1', 'acme', 'kimi-k2.5', 70000, 0, 0, 1, 'us', 60, 1, 1, NULL);
INSERT INTO hold_leg VALUES ('h1', 'acme'), ('h2', 'acme'), ('h3', 'acme');
INSERT INTO entry VALUES (1, 't1', 0, 'acme', 1000000, 'topup', 1), (2, 't1', 1, 'cash', -1000000, 'topup', 1),
    (3, 't2', 0, 'bert', 5, 'topup', 1), (4, 't2', 1, 'cash', -5, 'topup', 1),
    (5, 'h1', 0, 'acme', -120000, 'charge', 2), (6, 'h1', 1, 'revenue', 120000, 'charge', 2);
INSERT INTO usage VALUES
    ('h1', 'key_1', 'acme', 'kimi-k2.5', 'u', 'done', 0, 0, 65, 0, NULL, 0, 1, 120000, 10000, 1, 2, 0,
     200, NULL, 1, NULL, NULL, NULL),
    ('h2', 'key_1', 'acme', 'kimi-k2.5', 'u', 'upstream_error', 0, 0, 2, 0, NULL, 0, 1, 0, 4000, 1, 2,
     0, 502, NULL, 1, NULL, NULL, NULL);
"""  # noqa: E501 - rows are read by column


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A store as the first version left it: money paid, forgiven, and held."""
    file = tmp_path / "moongate.db"
    db = apsw.Connection(str(file))
    db.pragma("journal_mode", "WAL")
    db.execute(read_migrations("sqlite")[1])
    db.execute(ROWS)
    db.pragma("application_id", APPLICATION_ID)
    db.pragma("user_version", 1)
    db.close()
    return file


async def test_a_store_of_the_first_version_goes_on(old: Path) -> None:
    async with opened(SqliteStore(old)) as store:
        assert await store.audit() == []
        assert await balance(store) == (880_000, 70_000)
        assert await balance(store, "forgiven") == (14_000, 0)
        assert await balance(store, "contra") == (-14_000, 0)
        assert [row.id for row in await store.open_holds()] == ["h3"]
        end = an_end(a_hold("h3", 70_000), Usage(output=1))
        assert await store.settle(end)
        assert await store.audit() == []
        for wallet, links in (("acme", 3), ("bert", 1), ("idle", 0)):
            row = await store.account(wallet)
            assert row is not None
            assert row.chain_no == links
            entries = await store.entries(wallet)
            assert list(breaks(entries, links, row.chain)) == []
        key = await store.key_by_mac(b"\x01")
        assert key is not None
        assert (key.project, key.quota.rpm, key.old_mac) == ("", None, None)
    db = apsw.Connection(str(old))
    assert db.pragma("user_version") == max(read_migrations("sqlite"))
    assert db.execute("SELECT n, tx, seq FROM entry WHERE n <= 6 ORDER BY n").fetchall() == [
        (1, "t1", 0), (2, "t1", 1), (3, "t2", 0), (4, "t2", 1), (5, "h1", 0), (6, "h1", 1),
    ]  # fmt: skip
    db.close()


async def test_an_old_store_has_the_same_tables_as_a_new_one(old: Path, tmp_path: Path) -> None:
    fresh = tmp_path / "fresh.db"
    for file in (old, fresh):
        async with opened(SqliteStore(file)):
            pass
    schemas = []
    for file in (old, fresh):
        db = apsw.Connection(str(file))
        schemas.append(
            db.execute("SELECT type, name, sql FROM sqlite_schema ORDER BY 1, 2").fetchall()
        )
        db.close()
    assert schemas[0] == schemas[1]


async def test_a_migration_that_fails_midway_leaves_the_old_store(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _dump(old)

    def torn(db: apsw.Connection) -> None:
        raise apsw.FullError("no space")

    monkeypatch.setattr(opening, "_chain_wallets", torn)
    with pytest.raises(ConfigurationError, match=r"cannot be used.*disk is full"):
        await SqliteStore(old).open()
    assert _dump(old) == before
    monkeypatch.undo()
    async with opened(SqliteStore(old)) as store:
        assert await store.audit() == []


async def test_many_entries_are_chained_a_page_at_a_time(old: Path) -> None:
    count = 2_500
    db = apsw.Connection(str(old))
    for n in range(count):
        db.execute("INSERT INTO entry VALUES (NULL, ?, 0, 'bert', 1, 'topup', 1)", (f"x{n}",))
        db.execute("INSERT INTO entry VALUES (NULL, ?, 1, 'cash', -1, 'topup', 1)", (f"x{n}",))
    for id, nanos in (("bert", count), ("cash", -count)):
        db.execute("UPDATE account SET posted_nanos = posted_nanos + ? WHERE id = ?", (nanos, id))
    db.close()
    async with opened(SqliteStore(old)) as store:
        row = await store.account("bert")
        assert row is not None
        assert row.chain_no == count + 1
        assert await store.audit() == []


def _dump(file: Path) -> list[object]:
    db = apsw.Connection(str(file))
    try:
        found: list[object] = [db.pragma("user_version")]
        for (table,) in db.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name"
        ).fetchall():
            found.append((table, db.execute(f'SELECT * FROM "{table}"').fetchall()))
        return found
    finally:
        db.close()
