"""Opening a PostgreSQL database: its tables, its migrations, and what is refused with a remedy."""

import asyncio
import re
import sys
from collections.abc import Callable
from pathlib import Path

import apsw
import asyncpg
import pytest

from docs_kit import ROOT
from moongate.app.parts import make_store
from moongate.core.errors import ConfigurationError
from moongate.home import Home
from moongate.store.opening import prepare as prepare_sqlite
from moongate.store.postgres import PostgresStore
from moongate.store.statements import read_migrations
from postgres_kit import cluster, database
from settings_kit import MODEL, UP, read
from store_kit import a_hold, an_end, furnish, opened, took

pytestmark = pytest.mark.postgres
KINDS = {
    "INTEGER": {"bigint", "integer", "boolean"},
    "TEXT": {"text"},
    "BLOB": {"bytea"},
}


async def ask(url: str, sql: str) -> list[tuple[object, ...]]:
    db = await asyncpg.connect(url)
    try:
        return [tuple(row) for row in await db.fetch(sql)]
    finally:
        await db.close()


async def test_the_tables_are_those_of_sqlite(tmp_path: Path) -> None:
    """Same tables, columns, kinds and NOT NULL; ``n`` stands for SQLite's rowid.

    Rates are counted here only: a process that is alone with its store counts them itself.
    """
    prepare_sqlite(tmp_path / "a.db")
    db = apsw.Connection(str(tmp_path / "a.db"))
    small = {
        (table, column): (kind, bool(required or key))
        for (table,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
        if not table.startswith("sqlite_")
        for _, column, kind, required, _, key in db.execute(
            f"PRAGMA table_info({table})"
        ).fetchall()
    }
    db.close()
    url = database(empty=True)
    async with opened(PostgresStore(url)):
        found = await ask(
            url,
            "SELECT table_name, column_name, data_type, is_nullable FROM information_schema.columns"
            " WHERE table_schema = 'public' AND table_name NOT LIKE 'rate%'",
        )
    large = {(table, column): (kind, null == "NO") for table, column, kind, null in found}
    rowids = {(table, "n") for table in ("api_key", "usage")}
    assert large.keys() - rowids == small.keys()
    for place, (kind, required) in small.items():
        assert large[place][0] in KINDS[kind], place
        assert large[place][1] == required, place


async def test_of_several_that_start_at_once_one_migrates() -> None:
    url = database(empty=True)
    stores = [PostgresStore(url) for _ in range(6)]
    await asyncio.gather(*(store.open() for store in stores))
    try:
        await furnish(stores[0], 1_000)
        assert await took(stores[1], a_hold("h1", 400))
        assert not await took(stores[2], a_hold("h2", 601))
        assert await stores[3].settle(an_end(a_hold("h1", 400), void=True))
        assert await stores[4].audit() == []
    finally:
        await asyncio.gather(*(store.close() for store in stores))
    assert await ask(url, "SELECT value FROM note WHERE name = 'schema'") == [
        (str(max(read_migrations("postgres"))),)
    ]


async def refused(url: str) -> str:
    """Why ``url`` cannot be opened; it never shows a password."""
    with pytest.raises(ConfigurationError) as error:
        await PostgresStore(url).open()
    assert "hush" not in str(error.value)
    # Nor does what it came of, which would be shown with it.
    assert error.value.__cause__ is None
    assert error.value.__context__ is None or error.value.__suppress_context__
    return str(error.value)


async def test_a_newer_version_is_left_alone() -> None:
    url = database()
    await ask(url, "UPDATE note SET value = '99' WHERE name = 'schema'")
    assert "has version 99; this Moongate knows versions up to" in await refused(url)


async def test_tables_of_another_program_are_left_alone() -> None:
    url = database(empty=True)
    await ask(url, "CREATE TABLE note (name TEXT)")
    assert "tables of another program" in await refused(url)
    assert await ask(url, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(1,)]


async def test_addresses_that_lead_nowhere() -> None:
    port = cluster().port
    await ask(cluster().url("postgres"), "SELECT 1")
    assert "There is no database" in await refused(
        f"postgresql://moongate:hush@127.0.0.1:{port}/nothing"
    )
    assert "No PostgreSQL answers at 127.0.0.1:1/x" in await refused(
        "postgresql://moongate:hush@127.0.0.1:1/x"
    )
    assert "refuses the user stranger" in await refused(
        f"postgresql://stranger:hush@127.0.0.1:{port}/postgres"
    )
    for odd in ("postgresql://u:hush@127.0.0.1:port/x", "postgresql://u:hush@[::1/x"):
        assert "is no PostgreSQL address" in await refused(odd)


async def test_a_read_only_database_and_an_odd_encoding() -> None:
    url = database(empty=True)
    name = url.rpartition("/")[2]
    await ask(url, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    assert "is read-only" in await refused(url)
    cluster().psql(
        "postgres",
        "CREATE DATABASE latin TEMPLATE template0"
        " ENCODING 'LATIN1' LOCALE_PROVIDER libc LOCALE 'C'",
    )
    try:
        assert "has the encoding LATIN1" in await refused(cluster().url("latin"))
    finally:
        cluster().psql("postgres", "DROP DATABASE latin")


def test_the_settings_name_it_and_the_extra_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = read(tmp_path, '[store]\nurl = "postgresql://u:hush@127.0.0.1/x"\n' + UP + MODEL)

    def make() -> object:
        return make_store(settings, Home(tmp_path))

    monkeypatch.setitem(sys.modules, "asyncpg", None)
    for module in [name for name in sys.modules if name.startswith("moongate.store.postgres")]:
        monkeypatch.delitem(sys.modules, module)
    with pytest.raises(ConfigurationError, match=r"pip install moongate\[scale\]"):
        make()
    monkeypatch.undo()
    assert isinstance(asyncio.run(_made(make)), PostgresStore)


async def _made(make: Callable[[], object]) -> object:
    return make()


def the_grants() -> str:
    """What the page has the tables' owner run."""
    text = (ROOT / "docs" / "decisions" / "postgres.md").read_text()
    block = re.search(r"```sql[^\n]*\n(.*?)```", text, re.DOTALL)
    assert block is not None
    return block[1]


async def test_a_role_without_the_right_to_define_serves() -> None:
    url = database(empty=True)
    name, port = url.rpartition("/")[2], cluster().port
    role = f"server_{name}"
    narrow = f"postgresql://{role}@127.0.0.1:{port}/{name}"
    await ask(url, f"CREATE ROLE {role} LOGIN")
    try:
        assert f"{role} may not make tables" in await refused(narrow)
        async with opened(PostgresStore(url)):
            pass
        said = await refused(narrow)
        assert f"{role} lacks rights" in said
        assert "INSERT on entry" in said
        for grant in the_grants().replace(" TO moongate;", f" TO {role};").splitlines():
            await ask(url, grant)
        async with opened(PostgresStore(narrow)) as store:
            await furnish(store, 1_000_000)
            assert await took(store, a_hold("h1", 400))
            assert await store.settle(an_end(a_hold("h1", 400), void=True))
            for move in ("UPDATE entry SET amount_nanos = 1", "DELETE FROM entry"):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await ask(narrow, move)
            assert await store.audit() == []
    finally:
        await ask(url, f"DROP OWNED BY {role}")
        await ask(url, f"DROP ROLE {role}")
