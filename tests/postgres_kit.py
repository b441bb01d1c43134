"""One throw-away PostgreSQL for a run of the tests, and a fresh database for each of them.

The cluster lies in a temporary folder, listens on a free loopback port, belongs to a user that is
not root, keeps fsync on, and is gone at the end, however the run ends. Databases are copies of one
that was migrated once; in it the clock of the database can be set.
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

NUMBERS = count(1)
KEPT, BUNCH = 8, 32
# What the functions of the database take for the time, where a test sets it.
CLOCK = """
CREATE TABLE manual_clock (at_ms BIGINT);
CREATE OR REPLACE FUNCTION moongate_now() RETURNS BIGINT LANGUAGE sql VOLATILE AS
$$ SELECT coalesce(
    (SELECT at_ms FROM manual_clock),
    floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint
) $$;
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
        deadline = time.monotonic() + 30
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
    it.psql("template_moongate", "\n".join([*scripts.values(), note, CLOCK]))
    return it


def database(*, empty: bool = False) -> str:
    """The address of a fresh database; old ones are removed in bunches, the last few stay."""
    number = next(NUMBERS)
    if number % BUNCH == 0:
        # Each first removal waits for the disk, those that follow at once do not.
        olds = range(max(1, number - BUNCH - KEPT), number - KEPT)
        cluster().psql("postgres", "".join(f"DROP DATABASE t{n} WITH (FORCE);\n" for n in olds))
    name = f"t{number}"
    template = "template1" if empty else "template_moongate"
    cluster().psql("postgres", f"CREATE DATABASE {name} TEMPLATE {template};")
    return cluster().url(name)


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
