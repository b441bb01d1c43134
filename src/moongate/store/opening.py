"""Opening a SQLite file: the lock, the checks that change nothing, then the migrations.

Every refusal is a ConfigurationError that says what was found and what to do about it; until all
checks have passed, nothing in the file is changed.
"""

import fcntl
import os
import sys
from pathlib import Path
from typing import Final

import apsw

from moongate.core.errors import ConfigurationError
from moongate.core.rows import EntryRow
from moongate.store.mapping import as_json
from moongate.store.moves import Head, chained
from moongate.store.statements import read_migrations, run

APPLICATION_ID: Final = 0x4D4F4F4E  # "MOON" in a SQLite header's application id
BUSY_TIMEOUT_MS: Final = 2_000
CHECK_BYTES_MAX: Final = 256 << 20
"""Larger files are not read through at start; ``audit`` does that."""
WAL_BYTES_MAX: Final = 64 << 20
CHAINS_FROM: Final = 2
"""The migration after which entries that exist get their chain."""
WAL_RESET_FIXED: Final = (3, 51, 3)
"""Older SQLite libraries can corrupt a WAL database that two connections have open."""


class Lock:
    """The right to serve a file, held by one process: an flock on ``<file>.lock``."""

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(path.name + ".lock")
        self._store = path
        self._fd: int | None = None

    def take(self) -> None:
        """Raises ConfigurationError with the holder's pid, or when no file can be made here."""
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise ConfigurationError(
                f"The store's folder {self._path.parent} cannot be written ({error.strerror}). "
                "Make it writable for this user, or name another place for the store."
            ) from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            pid = os.read(fd, 20).decode("ascii", "replace").strip() or "unknown"
            os.close(fd)
            raise ConfigurationError(
                f"Another Moongate (process {pid}) has the store {self._store} open. "
                "Stop it first, or name another store."
            ) from None
        os.ftruncate(fd, 0)
        os.write(fd, f"{os.getpid()}\n".encode())
        self._fd = fd

    def release(self) -> None:
        """Give the right back; harmless when it is not held."""
        if self._fd is not None:
            os.ftruncate(self._fd, 0)
            os.close(self._fd)
            self._fd = None


def connect(path: Path, vfs: str | None = None, *, reading: bool = False) -> apsw.Connection:
    """A connection with our pragmas, to a file that :func:`prepare` has seen. Raises apsw.Error."""
    db = apsw.Connection(str(path), apsw.SQLITE_OPEN_READWRITE, vfs)
    try:
        db.set_busy_timeout(BUSY_TIMEOUT_MS)
        db.pragma("synchronous", "FULL")
        db.pragma("foreign_keys", "ON")
        db.pragma("secure_delete", "ON")
        db.pragma("temp_store", "MEMORY")
        db.pragma("journal_size_limit", WAL_BYTES_MAX)
        if sys.platform == "darwin":
            # There, a plain fsync leaves data in the drive's cache.
            db.pragma("fullfsync", "ON")
            db.pragma("checkpoint_fullfsync", "ON")
        if reading:
            db.pragma("query_only", "ON")
    except apsw.Error:
        db.close()
        raise
    return db


def prepare(path: Path, vfs: str | None = None) -> None:
    """Check the file at ``path``, make or migrate it. Raises ConfigurationError."""
    if tuple(int(part) for part in apsw.sqlite_lib_version().split(".")) < WAL_RESET_FIXED:
        raise ConfigurationError(
            f"SQLite {apsw.sqlite_lib_version()} can damage a store that is read while it is "
            "written. Install the apsw wheel, which carries a mended one."
        )
    try:
        # Made here for its mode: SQLite gives its companions the same.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise ConfigurationError(
            f"The store {path} cannot be written ({error.strerror}). "
            "Make it writable for this user, or name another place for the store."
        ) from None
    try:
        db = apsw.Connection(str(path), apsw.SQLITE_OPEN_READWRITE, vfs)
        try:
            # Closing folds no log in: a file that is refused stays as it was found.
            db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            _check(db, path)
            if _migrate(db):
                _sync_folder(path.parent)
        finally:
            db.close()
    except (apsw.NotADBError, apsw.CorruptError):
        raise _damaged(path) from None
    except apsw.Error as error:
        raise ConfigurationError(
            f"The store {path} cannot be used ({type(error).__name__}: {error}). "
            "See whether its disk is full, read-only or failing."
        ) from None


def _damaged(path: Path) -> ConfigurationError:
    return ConfigurationError(
        f"The store {path} is damaged or is not a SQLite file. Nothing in it was changed. "
        "Restore it from a backup, or move it away (with its -wal file) to begin an empty one."
    )


def _check(db: apsw.Connection, path: Path) -> None:
    """Look, and change nothing."""
    db.set_busy_timeout(BUSY_TIMEOUT_MS)
    if db.readonly("main"):
        raise ConfigurationError(
            f"The store {path} is read-only. Make it writable for this user, or name another."
        )
    known = max(read_migrations("sqlite"))
    version = db.pragma("user_version")
    if version > known:
        raise ConfigurationError(
            f"The store {path} has version {version}; this Moongate knows versions up to {known}. "
            "Nothing in it was changed. Install the newer Moongate that wrote it, or name another "
            "store."
        )
    tables = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if tables != (0,) and db.pragma("application_id") != APPLICATION_ID:
        raise ConfigurationError(
            f"The file {path} is a database of another program. Nothing in it was changed. "
            "Name another store."
        )
    small = path.stat().st_size <= CHECK_BYTES_MAX
    if small and db.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
        raise _damaged(path)


def _migrate(db: apsw.Connection) -> bool:
    """Bring the file up to the newest version; False when it was."""
    db.pragma("journal_mode", "WAL")
    db.pragma("synchronous", "FULL")
    version = db.pragma("user_version")
    pending = {
        number: text for number, text in read_migrations("sqlite").items() if number > version
    }
    if not pending:
        return False
    db.execute("BEGIN IMMEDIATE")
    for number, text in pending.items():
        db.execute(text)
        if number == CHAINS_FROM:
            _chain_wallets(db)
    db.pragma("application_id", APPLICATION_ID)
    db.pragma("user_version", max(pending))
    db.execute("COMMIT")
    return True


def _chain_wallets(db: apsw.Connection) -> None:
    """Link the entries that wallets have, oldest first, a page at a time."""
    heads: dict[str, Head] = {}
    after = -1
    while page := run(db, "unchained", after=after):
        links = []
        for n, *fields in page:
            entry = EntryRow(*fields)
            head = heads.get(entry.account, ("wallet", 0, b""))
            entry, heads[entry.account] = chained(entry, head)
            links.append((n, entry.chain_no, (entry.chain or b"").hex()))
            after = n
        run(db, "chain_set", rows=as_json(links))
    ends = [(id, 0, 0, number, chain.hex()) for id, (_, number, chain) in heads.items()]
    run(db, "account_move", rows=as_json(ends))


def fold(path: Path, vfs: str | None = None) -> None:
    """Fold the log into the file and empty it: no page as it was before is left in it.

    Where others are busy it stays for the next time. Raises apsw.Error.
    """
    db = connect(path, vfs)
    try:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    finally:
        db.close()


def _sync_folder(folder: Path) -> None:
    """Make the file's own name durable."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
