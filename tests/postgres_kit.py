"""One throw-away PostgreSQL for a run of the tests, and a fresh database for each of them.

The cluster lies in a temporary folder, listens on a free loopback port, belongs to a user that is
not root, keeps fsync on, and is gone at the end, however the run ends. Databases are copies of one
that was migrated once, used again and again; in it the clock of the database can be set.
"""

import atexit
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import asyncpg

from moongate.store.postgres import PostgresStore
from moongate.store.statements import read_migrations

NUMBERS, EMPTIES = count(1), count(1)
RING = 8
# What the functions of the database take for the time, where a test sets it; and how all tables
# began. Databases are used again and again, because each new one is hundreds of files to sync.
TEMPLATE = """
CREATE TABLE manual_clock (at_ms BIGINT);
CREATE OR REPLACE FUNCTION moongate_now() RETURNS BIGINT LANGUAGE sql VOLATILE AS
$$ SELECT coalesce(
    (SELECT at_ms FROM manual_clock),
    floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint
) $$;
CREATE SCHEMA seed;
DO $$
DECLARE
    name TEXT;
BEGIN
    FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP
        EXECUTE format('CREATE TABLE seed.%1$I AS TABLE public.%1$I', name);
    END LOOP;
END $$;
"""
AGAIN = """
SET session_replication_role = replica;
DO $$
DECLARE
    name TEXT;
BEGIN
    PERFORM pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid();
    FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'seed' LOOP
        EXECUTE format('DELETE FROM public.%I', name);
        EXECUTE format(
            'INSERT INTO public.%1$I OVERRIDING SYSTEM VALUE SELECT * FROM seed.%1$I', name
        );
    END LOOP;
    FOR name IN SELECT sequencename FROM pg_sequences WHERE schemaname = 'public' LOOP
        PERFORM setval(format('public.%I', name), 1, false);
    END LOOP;
END $$;
"""
# What a test may have changed beside rows.
SHAPE = """
SELECT (SELECT count(*) FROM pg_constraint), (SELECT count(*) FROM pg_trigger),
    (SELECT count(*) FROM pg_proc), (SELECT count(*) FROM pg_class WHERE relkind = 'r'),
    (SELECT count(*) FROM pg_db_role_setting
     WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database()));
"""


def binaries() -> Path:
    """The folder of the newest ``initdb``."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3])
    )
    own = shutil.which("initdb")
    if own is None and not found:
        raise AssertionError("no PostgreSQL here; scripts/test installs it")
    return Path(own).resolve().parent if own else found[-1].parent


class Cluster:
    """A running server: ``port``, ``folder``, ``pid``."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="moongate-pg-"))
        self._user = self._someone()
        if self._user is not None:
            os.chown(self.folder, self._user.pw_uid, self._user.pw_gid)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        who = ("-U", "moongate", "-A", "trust")
        # Not the order of bytes, as most have it: what relies on that must say so itself.
        how = ("-E", "UTF8", "--locale=C", "--locale-provider=icu", "--icu-locale=en-US")
        self._run("initdb", "-D", self.data, *who, *how, "--no-sync")
        self.start()

    @staticmethod
    def _someone() -> pwd.struct_passwd | None:
        """Whom to be instead of root."""
        if os.geteuid() != 0:
            return None
        names = {entry.pw_name: entry for entry in pwd.getpwall()}
        return names.get("postgres") or names["nobody"]

    @property
    def data(self) -> str:
        return str(self.folder / "data")

    def _run(self, program: str, *words: str) -> None:
        done = subprocess.run(
            [binaries() / program, *words],
            capture_output=True,
            text=True,
            cwd=self.folder,
            **self._as_user(),
        )
        assert done.returncode == 0, done.stderr

    def _as_user(self) -> dict[str, Any]:
        user = self._user
        return (
            {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        )

    def start(self) -> None:
        """Start, and wait until it answers."""
        settings = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": self.folder,
            "max_connections": 200,
            "shared_buffers": "128MB",
            "max_wal_size": "4GB",
            "log_statement": "none",
        }
        words = [f"-c{name}={value}" for name, value in settings.items()]
        with (self.folder / "log").open("a") as log:
            self._process = subprocess.Popen(
                [binaries() / "postgres", "-D", self.data, *words],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
                **self._as_user(),
            )
        deadline = time.monotonic() + 90  # after a crash it reads its log again
        while True:
            ready = subprocess.run(
                [binaries() / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port),
                 "-U", "moongate", "-d", "postgres"]
            )  # fmt: skip
            if ready.returncode == 0:
                return
            assert self._process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.05)

    def stop(self, how: int = signal.SIGINT) -> None:
        """End the server: SIGINT fast, SIGQUIT as in a crash."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(how)
            self._process.wait(30)

    def signal(self, what: int) -> None:
        """Send a signal to every process of the server."""
        os.killpg(self._process.pid, what)
        for child in _children(self._process.pid):
            os.kill(child, what)

    def remove(self) -> None:
        """Stop, and leave nothing behind."""
        self.signal(signal.SIGCONT) if self._process.poll() is None else None
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, database: str, port: int | None = None) -> str:
        return f"postgresql://moongate@127.0.0.1:{port or self.port}/{database}"

    def psql(self, database: str, script: str) -> str:
        """What ``psql`` prints for ``script``."""
        done = subprocess.run(
            [binaries() / "psql", "-X", "-q", "-At", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1",
             "-p", str(self.port), "-U", "moongate", database],
            input=script, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


def _children(pid: int) -> Iterator[int]:
    """The processes that a process started, which may have sessions of their own."""
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = entry.read_text()
        except OSError:
            continue  # gone meanwhile
        if int(text.rpartition(")")[2].split()[1]) == pid:
            yield int(entry.parent.name)


@cache
def cluster() -> Cluster:
    """The cluster of this run, with a migrated database ``template_moongate``."""
    it = Cluster()
    atexit.register(it.remove)
    it.psql("postgres", "CREATE DATABASE template_moongate;")
    scripts = read_migrations("postgres")
    note = f"INSERT INTO note VALUES ('schema', '{max(scripts)}');"
    it.psql("template_moongate", "\n".join([*scripts.values(), note, TEMPLATE]))
    return it


@cache
def shape() -> str:
    """How a database looks that no test has changed."""
    return cluster().psql("template_moongate", SHAPE)


def database(*, empty: bool = False) -> str:
    """The address of a database as it was migrated; with ``empty``, of one without tables.

    The last few that were given out stay as they are, older ones are emptied and used again.
    """
    it = cluster()
    if empty:
        name = f"empty{next(EMPTIES)}"
        it.psql("postgres", f"CREATE DATABASE {name} TEMPLATE template1;")
        return it.url(name)
    number = next(NUMBERS)
    name = f"t{number % RING}"
    if number > RING:
        try:
            if it.psql(name, SHAPE + AGAIN) == shape():
                return it.url(name)
        except AssertionError:
            pass  # it is not there, or was left in a state that cannot be mended
    it.psql("postgres", f"DROP DATABASE IF EXISTS {name} WITH (FORCE);")
    it.psql("postgres", f"CREATE DATABASE {name} TEMPLATE template_moongate;")
    return it.url(name)


class ClockedStore(PostgresStore):
    """A PostgreSQL store whose database's clock stands where it is told."""

    def __init__(self, url: str, at_ms: int, **patience: float) -> None:
        super().__init__(url, **{"patience_s": 10.0, **patience})
        self._at_ms = at_ms

    async def open(self) -> None:
        await super().open()
        await self.the_time_is(self._at_ms)

    async def the_time_is(self, at_ms: int) -> None:
        await self.sql(f"TRUNCATE manual_clock; INSERT INTO manual_clock VALUES ({at_ms})")

    async def sql(self, text: str) -> None:
        """Run a script as the database's owner."""
        db = await asyncpg.connect(self._url)
        try:
            await db.execute(text)
        finally:
            await db.close()
