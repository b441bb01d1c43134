"""Opening a PostgreSQL database: the checks that change nothing, then the migrations.

Several processes may start at once: one migrates, the others wait for it. When the tables are
current nothing is defined anew, so the role that serves needs no right to. Every refusal is a
ConfigurationError that says what was found and what to do about it; none shows a password.
"""

import asyncio
from contextlib import suppress
from typing import Final
from urllib.parse import urlsplit

import asyncpg

from moongate.core.errors import ConfigurationError
from moongate.store.postgres_pool import SETTINGS, TROUBLE, Connection
from moongate.store.statements import POSTGRES, read_migrations

VERSION_MIN: Final = 14
CONNECT_S: Final = 10.0
MIGRATE_S: Final = 120.0


async def prepare(url: str) -> None:
    """Check the database at ``url``, make or migrate its tables. Raises ConfigurationError."""
    db = await _connected(url)
    try:
        async with asyncio.timeout(MIGRATE_S):
            await _check_server(db, url)
            newest = max(read_migrations("postgres"))
            version = await _version(db, url)
            if version > newest:
                raise ConfigurationError(
                    f"The database {_name(url)} has version {version}; this Moongate knows "
                    f"versions up to {newest}. Nothing in it was changed. Install the newer "
                    "Moongate that wrote it, or name another database."
                )
            if version < newest:
                await _migrate(db, url)
            await _check_rights(db, url)
    except TROUBLE as error:
        raise ConfigurationError(
            f"The database {_name(url)} cannot be used ({_word(error)}). Look into its log."
        ) from None
    finally:
        with suppress(*TROUBLE):
            await db.close(timeout=1)


def _name(url: str) -> str:
    """The address without user and password."""
    parts = urlsplit(url)
    return f"{parts.netloc.rpartition('@')[2] or 'localhost'}{parts.path}"


def _word(error: BaseException) -> str:
    """What happened, in a word and a code: the database's own texts may show values."""
    code = error.sqlstate if isinstance(error, asyncpg.PostgresError) else None
    return f"{type(error).__name__} {code}" if code else type(error).__name__


def _user(url: str) -> str:
    return urlsplit(url).username or "of this process"


async def _connected(url: str) -> Connection:
    try:
        user = _user(url)
        return await asyncpg.connect(url, timeout=CONNECT_S, server_settings=SETTINGS)
    except (asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError):
        raise ConfigurationError(
            f"The database {_name(url)} refuses the user {user}. Check user and password in "
            "store.url, and the server's pg_hba.conf."
        ) from None
    except asyncpg.InvalidCatalogNameError:
        raise ConfigurationError(
            f"There is no database {_name(url)}. Make it (createdb), or correct store.url."
        ) from None
    except asyncpg.TooManyConnectionsError:
        raise ConfigurationError(
            f"The server of {_name(url)} has no connection left. Raise its max_connections "
            "(each Moongate process takes up to 12), or stop what else uses it."
        ) from None
    except (ValueError, asyncpg.ClientConfigurationError):
        # The library's own text may repeat the address, password included.
        raise ConfigurationError(
            "store.url is no PostgreSQL address. Write it like postgresql://user:pass@host/db, "
            "with %-escapes for special characters in the password."
        ) from None
    except TROUBLE as error:
        raise ConfigurationError(
            f"No PostgreSQL answers at {_name(url)} ({_word(error)}). Start it, or correct "
            "store.url."
        ) from None


async def _check_server(db: Connection, url: str) -> None:
    version = db.get_server_version()
    if version.major < VERSION_MIN:
        raise ConfigurationError(
            f"The server of {_name(url)} is PostgreSQL {version.major}; Moongate needs "
            f"{VERSION_MIN} or newer."
        )
    encoding, read_only = await db.fetchrow(POSTGRES["server"]) or ("", "")
    if encoding != "UTF8":
        raise ConfigurationError(
            f"The database {_name(url)} has the encoding {encoding}. Make one with UTF8 "
            "(createdb --encoding UTF8 --template template0)."
        )
    if read_only == "on":
        raise ConfigurationError(
            f"The database {_name(url)} is read-only: a standby? Name the primary in store.url."
        )


async def _version(db: Connection, url: str) -> int:
    """The version of the tables; 0 where there are none."""
    if not await db.fetchval(POSTGRES["tables"]):
        return 0
    try:
        version = await db.fetchval(POSTGRES["version"])
    except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError):
        version = None
    except asyncpg.InsufficientPrivilegeError:
        await _check_rights(db, url)
        raise
    if version is None:
        raise ConfigurationError(
            f"The database {_name(url)} has tables of another program. Nothing in it was "
            "changed. Name an empty database."
        )
    return int(version)


async def _migrate(db: Connection, url: str) -> None:
    try:
        async with db.transaction():
            await db.execute(POSTGRES["alone"])
            version = await _version(db, url)  # another process may have been quicker
            for number, text in read_migrations("postgres").items():
                if number > version:
                    await db.execute(text)
                    await db.execute(POSTGRES["version_set"], str(number))
    except asyncpg.InsufficientPrivilegeError:
        user = _user(url)
        raise ConfigurationError(
            f"The user {user} may not make tables in {_name(url)}. Grant it (GRANT CREATE ON "
            "SCHEMA public TO the user), or start Moongate once as the database's owner."
        ) from None


async def _check_rights(db: Connection, url: str) -> None:
    lacking = await db.fetchval(POSTGRES["lacking"])
    if lacking:
        user = _user(url)
        raise ConfigurationError(
            f"The user {user} lacks rights in {_name(url)}: {lacking}. As the tables' owner, run "
            "what docs/decisions/postgres.md grants."
        ) from None
