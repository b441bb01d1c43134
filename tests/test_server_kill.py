"""kill -9 of a whole server at random moments under load: the books hold, no settle is lost."""

import asyncio
import contextlib
import io
import json
import multiprocessing
import random
import sqlite3
import sys
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

from live_kit import scripted_process, short_folder, start, stop
from moongate.app import run
from moongate.core.rows import Finding
from moongate.home import Home
from moongate.settings import load
from moongate.store.sqlite import SqliteStore
from serving_kit import ONE_UPSTREAM

KILLS = 200
CLIENTS = 6
SCRIPT = "think a\ntext b\ndelay 0.01\ntext c\ndelay 0.01\ntext d\nusage prompt=50 completion=4\n"


class Load(threading.Thread):
    """One client that asks again and again, and remembers the ends that it saw.

    ``seen``: request id -> cost in nano-dollars, noted when ``[DONE]`` or the whole body came.
    """

    def __init__(self, port: int, key: str, *, stream: bool) -> None:
        super().__init__(daemon=True)
        self.port, self.key, self.stream = port, key, stream
        self.seen: dict[str, int] = {}
        self.over = threading.Event()

    def run(self) -> None:
        from http.client import HTTPConnection, HTTPException

        body = {"model": "kimi-k2.5", "messages": [{"role": "user", "content": "x" * 50}]}
        payload = json.dumps(body | {"stream": self.stream})
        headers = {"authorization": f"Bearer {self.key}", "content-type": "application/json"}
        while not self.over.is_set():
            connection = HTTPConnection("127.0.0.1", self.port, timeout=5)
            with contextlib.suppress(OSError, HTTPException):
                while not self.over.is_set():
                    connection.request("POST", "/v1/chat/completions", payload, headers)
                    reply = connection.getresponse()
                    text = reply.read()
                    if reply.status == 200 and (not self.stream or b"[DONE]" in text):
                        self.seen[reply.headers["x-request-id"]] = cost(text)
            connection.close()
            time.sleep(0.005)


def cost(text: bytes) -> int:
    return int(text.rsplit(b'"cost_nanos":', 1)[1].split(b"}")[0].split(b",")[0])


def books(file: Path) -> tuple[int, dict[str, int], int]:
    """Open holds, charges by request, and what the wallet holds, read from a dead server's store.

    Another program's SQLite reads it: the test does not trust our own.
    """
    with contextlib.closing(sqlite3.connect(file)) as db:
        (count,) = db.execute("select count(*) from hold where state = 0").fetchone()
        charges = dict(db.execute("select hold, charge_nanos from usage").fetchall())
        (held,) = db.execute("select held_nanos from account where id = 'default'").fetchone()
    return count, charges, held


def serve_here(home: Path, config: Path, events: Connection) -> None:
    """A whole server in this forked process, telling its events through a pipe."""
    sys.stderr = io.StringIO()
    run(load(config, {}), Home(home).open(), events.send)


def ready(events: Connection) -> tuple[int, str]:
    """Port and, on the first start, the key."""
    key = ""
    while True:
        event = events.recv()
        if event["event"] == "key":
            key = event["key"]
        if event["event"] == "ready":
            return int(event["api"].rsplit(":", 1)[1].split("/")[0]), key


async def audit(file: Path) -> list[Finding]:
    """The invariants of a dead server's books, as our own audit sees them."""
    store = SqliteStore(file)
    await store.open()
    try:
        return await store.audit()
    finally:
        await store.close()


def kills(folder: Path, config: Path, count: int, seed: int) -> tuple[int, int]:
    """Kill ``count`` servers on one home; returns how many met an open hold, settles seen."""
    dice = random.Random(seed)
    home, key, met = folder / "home", "", 0
    seen: dict[str, int] = {}
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(["moongate.app"])
    for _ in range(count):
        ours, theirs = forks.Pipe(duplex=False)
        server = forks.Process(target=serve_here, args=(home, config, theirs))
        server.start()
        theirs.close()
        port, first = ready(ours)
        key = key or first
        clients = [Load(port, key, stream=i % 2 == 0) for i in range(CLIENTS)]
        for client in clients:
            client.start()
        time.sleep(0.03 + dice.random() * 0.15)
        server.kill()
        server.join()
        ours.close()
        for client in clients:
            client.over.set()
        for client in clients:
            client.join(10)
            seen |= client.seen
        open_holds, charges, held = books(home / "moongate.db")
        met += open_holds > 0
        assert (held > 0) == (open_holds > 0)
        assert asyncio.run(audit(home / "moongate.db")) == []
        lost = {id for id, nanos in seen.items() if charges.get(id) != nanos}
        assert not lost, f"settles that a client saw are not in the ledger: {len(lost)}"
    return met, len(seen)


def check_after(folder: Path, config: Path) -> None:
    """The next server finds the books in order and nothing held."""
    live = start(folder / "home", config=config)
    try:
        wallet = live.json("credit", "show", "default")
        total = live.json("statement")["total"]["charge_nanos"]
        assert wallet["held_nanos"] == 0
        assert wallet["posted_nanos"] == 5_000_000_000 - total
    finally:
        stop(live)
    assert asyncio.run(audit(folder / "home" / "moongate.db")) == []


def test_two_hundred_kills_at_random_moments_under_load(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(2**32)
    script = tmp_path / "script"
    script.write_text(SCRIPT)
    config = tmp_path / "moongate.toml"
    with scripted_process(script) as address, short_folder() as folder:
        config.write_text(ONE_UPSTREAM.format(kind="moonshot", base_url=address))
        met, seen = kills(folder, config, KILLS, seed)
        print(f"seed {seed}: {KILLS} kills, {met} met an open hold, {seen} answers seen")
        assert met >= KILLS * 0.8
        assert seen > 0
        check_after(folder, config)
