"""Three workers on one PostgreSQL: what one changes all see, what one leaves is put right."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import pytest

from live_kit import environment, scripted_process, short_folder
from moongate.app import application
from moongate.cli.line import Line
from moongate.core.errors import LedgerUnavailable
from moongate.ledger import book, sweep
from moongate.store.postgres import PostgresStore
from postgres_kit import database
from workers_kit import CONFIG, Crew, children, crew, gone, nothing, own_metrics, until

pytestmark = pytest.mark.postgres
SHORT = "text Io.\nusage prompt=50 completion=4\n"
LONG = "think Moons.\n" + "text Io \ndelay 0.1\n" * 25 + "usage prompt=50 completion=30\n"
COST = 50 * 480 + 4 * 2000
LEASE_S, GRACE_S, RENEW_S = 2, 1, 0.3
DRAIN_S = 5
ASK = {"model": "kimi-k2.5", "messages": [{"role": "user", "content": "Name three moons."}]}


def hasty() -> None:
    """Leases and turns as short as a test needs them."""
    book.LEASE_S = LEASE_S
    turns = sweep.Turns(renew_s=RENEW_S, expire_s=RENEW_S)
    application.Sweep = partial(sweep.Sweep, grace_s=GRACE_S, turns=turns)


def forgetful(trouble: Path) -> None:
    """The store takes no settlement while the file ``trouble`` is there."""
    settle = PostgresStore.settle

    async def unless(self: PostgresStore, settlement: Any) -> bool:
        if trouble.exists():
            raise LedgerUnavailable("test")
        return await settle(self, settlement)

    PostgresStore.settle = unless


@contextlib.contextmanager
def three(script: str, change: Callable[[], None] = nothing) -> Iterator[Crew]:
    with short_folder() as folder:
        file = folder / "script"
        file.write_text(script)
        with scripted_process(file) as upstream:
            config = CONFIG.format(
                workers=3, drain_s=DRAIN_S, store=database(empty=True), upstream=upstream
            )
            with crew(folder, config, change) as it:
                yield it


def admin(it: Crew, verb: str, path: str, body: Any = None) -> Any:
    return Line(it.home / "admin.sock").call(verb, f"/admin/v1{path}", body=body)


def chat(it: Crew, key: str = "") -> tuple[int, bytes]:
    return it.ask("/v1/chat/completions", ASK, key=key)


def sound(it: Crew) -> None:
    audit = admin(it, "GET", "/ledger/audit")
    assert audit["ok"], audit
    assert admin(it, "GET", "/accounts/default")["held_nanos"] == 0


def test_a_key_that_is_revoked_is_refused_by_every_worker_within_a_second():
    with three(SHORT) as it:
        made = admin(it, "POST", "/keys", {"name": "ci"})
        assert it.everyone(lambda: chat(it, made["key"])) == {200}
        admin(it, "POST", f"/keys/{made['id']}/revoke")
        time.sleep(1)
        assert it.everyone(lambda: chat(it, made["key"])) == {401}
        assert it.everyone(lambda: chat(it)) == {200}


def test_rates_prices_and_budgets_are_seen_by_every_worker_within_a_second():
    with three(SHORT) as it:
        made = admin(it, "POST", "/keys", {"name": "ci", "account": "default"})
        seen: set[tuple[bool, bool]] = set()

        def asked() -> tuple[int, bytes]:
            """Ask, and note whether the rate and the price were the new ones."""
            status, text = chat(it, made["key"])
            rate = it.headers.get("x-ratelimit-limit-requests") == "600"
            seen.add((rate, f'"cost_nanos":{2 * COST}'.encode() in text))
            return status, text

        assert it.everyone(asked) == {200}
        assert seen == {(False, False)}
        admin(it, "POST", f"/keys/{made['id']}/limit", {"rpm": 600})
        price = {"model": "kimi-k2.5", "input": "0.96", "cached": "0.20", "output": "4.00"}
        admin(it, "POST", "/prices", price)
        time.sleep(1)
        seen.clear()
        assert it.everyone(asked) == {200}
        assert seen == {(True, True)}
        budget = {"key": made["id"], "usd": "0.0000001", "per": "day"}
        admin(it, "POST", "/budgets", budget)
        assert it.everyone(asked) <= {402, 429}
        sound(it)


class Stream(threading.Thread):
    """One streamed answer over a connection of its own.

    ``begun`` when its first piece came, ``whole`` when its end did.
    """

    def __init__(self, it: Crew) -> None:
        super().__init__(daemon=True)
        self.it, self.begun, self.whole, self.status = it, False, False, 0
        self.start()

    def run(self) -> None:
        head = {"authorization": f"Bearer {self.it.key}", "content-type": "application/json"}
        body = json.dumps(ASK | {"stream": True})
        line = HTTPConnection("127.0.0.1", self.it.port, timeout=30)
        with contextlib.suppress(OSError, HTTPException), contextlib.closing(line):
            line.request("POST", "/v1/chat/completions", body, head)
            answer = line.getresponse()
            self.status = answer.status
            for piece in answer:
                self.begun = True
                self.whole = self.whole or piece == b"data: [DONE]\n"


def running(it: Crew) -> dict[int, int]:
    """Requests in flight of each worker, by its number."""
    found = {}
    for path in it.home.glob("worker-*.sock"):
        with contextlib.suppress(OSError):
            text = own_metrics(path).decode()
            (line,) = [x for x in text.splitlines() if x.startswith("moongate_requests_running ")]
            found[int(path.stem.split("-")[1])] = int(float(line.split()[1]))
    return found


def test_a_worker_killed_under_streams_harms_no_other_and_its_holds_end():
    with three(LONG, hasty) as it:
        pids = it.pids()
        streams = [Stream(it) for _ in range(12)]
        until(lambda: all(stream.begun for stream in streams), "12 streams")
        number, lost = max(running(it).items(), key=lambda item: item[1])
        os.kill(pids[number - 1], signal.SIGKILL)
        killed_s = time.monotonic()
        assert it.everyone(lambda: it.ask("/v1/chat/completions", {})) == {400}
        for stream in streams:
            stream.join(20)
        assert sum(not stream.whole for stream in streams) == lost > 0
        until(lambda: not held(it), "end of every hold", LEASE_S + GRACE_S + 5)
        assert time.monotonic() - killed_s > LEASE_S + GRACE_S - 2 * RENEW_S
        total = admin(it, "GET", "/statement")["total"]
        assert total["requests"] == 12
        assert total["charge_nanos"] == (12 - lost) * (50 * 480 + 30 * 2000)
        sound(it)


def held(it: Crew) -> int:
    return int(admin(it, "GET", "/accounts/default")["held_nanos"])


def test_what_a_killed_worker_could_not_book_its_successor_books(tmp_path):
    trouble = tmp_path / "trouble"
    with three(SHORT, partial(forgetful, trouble)) as it:
        trouble.touch()
        assert chat(it)[0] == 200
        assert held(it) > 0
        pids = it.pids()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        until(lambda: all(gone(pid) for pid in pids), "end of the workers")
        trouble.unlink()
        until(lambda: (it.home / "admin.sock").exists() and len(running(it)) == 3, "new workers")
        until(lambda: not held(it), "the booking", 10)
        assert admin(it, "GET", "/statement")["total"]["charge_nanos"] == COST
        sound(it)


class Kept(threading.Thread):
    """Small requests over one connection for as long as it is kept; counts those that fail."""

    def __init__(self, it: Crew, over: threading.Event) -> None:
        super().__init__(daemon=True)
        self.it, self.over, self.good, self.bad = it, over, 0, 0
        self.start()

    def run(self) -> None:
        line = HTTPConnection("127.0.0.1", self.it.port, timeout=10)
        head = {"authorization": f"Bearer {self.it.key}"}
        while not self.over.is_set():
            try:
                line.request("GET", "/v1/models", headers=head)
                answer = line.getresponse()
                answer.read()
                self.good += answer.status == 200
            except (OSError, HTTPException):
                self.bad += 1
                line.close()
            time.sleep(0.02)
        line.close()


def test_workers_drained_one_after_another_break_no_stream_and_refuse_nobody():
    with three(LONG) as it:
        admin(it, "POST", f"/keys/{it.told('key')[0]['id']}/limit", {"concurrency": 600})
        streams: list[Stream] = []
        over = threading.Event()

        def keep_asking() -> None:
            while not over.is_set():
                streams.append(Stream(it))
                time.sleep(0.1)

        asking = threading.Thread(target=keep_asking)
        asking.start()
        kept = [Kept(it, over) for _ in range(9)]
        try:
            for pid in it.pids():
                time.sleep(1)
                os.kill(pid, signal.SIGTERM)
                until(partial(renewed, it, pid), "new worker")
        finally:
            over.set()
            for thread in (asking, *kept):
                thread.join()
        assert all(client.good > 50 and not client.bad for client in kept)
        with half_sent(it):
            began_s = time.monotonic()
            assert it.stop(20) == 0
            assert time.monotonic() - began_s < DRAIN_S + 5
        for stream in streams:
            stream.join(20)
        assert len(streams) > 30
        assert [stream.status for stream in streams if not stream.whole] == []
        assert it.told("draining")[0]["running"] > 0


def renewed(it: Crew, pid: int) -> bool:
    """Whether the worker ``pid`` is gone and three serve again."""
    return gone(pid) and len(running(it)) == 3


@contextlib.contextmanager
def half_sent(it: Crew) -> Iterator[None]:
    """Somebody has sent half a request's body and says no more."""
    with socket.create_connection(("127.0.0.1", it.port)) as line:
        head = f"authorization: Bearer {it.key}\r\ncontent-type: application/json\r\n"
        line.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 500\r\n"
            + head.encode()
            + b'\r\n{"model":'
        )
        yield


def examined(it: Crew) -> dict[str, tuple[str, str]]:
    """What `doctor` finds, by the name of the look."""
    home, config = it.home, it.home.parent / "moongate.toml"
    words = ["doctor", "--json", "--home", str(home), "--config", str(config)]
    done = subprocess.run(
        [sys.executable, "-m", "moongate", *words],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=60,
    )
    return {one["name"]: (one["state"], one["detail"]) for one in json.loads(done.stdout)["checks"]}


def test_the_doctor_looks_at_a_shared_store_beside_a_server_and_without_one():
    with three(SHORT) as it:
        beside = examined(it)
        assert f"process {it.process.pid}" in beside["server"][1]
        assert it.stop() == 0
        without = examined(it)
        for found in (beside, without):
            assert found["store"][1].startswith("PostgreSQL 1")
            assert found["ledger"] == ("ok", "every invariant holds")
            assert found["pepper"][0] == "ok"
            assert found["rates"] == ("ok", "counted in PostgreSQL for all replicas")
        assert beside["replicas"] == ("ok", "3 processes served lately")
        (it.home / "secrets" / "pepper").write_bytes(bytes(32))
        state, detail = examined(it)["store"]
        assert state == "broken"
        assert "was set up with another pepper than" in detail


def test_a_replica_with_another_pepper_is_refused():
    with three(SHORT) as it, short_folder() as folder:
        url = (it.home.parent / "moongate.toml").read_text()
        with crew(folder, url, ready=False) as other:
            other.process.join(20)
            assert other.process.exitcode == 1
            assert "was set up with another pepper than" in (folder / "log").read_text()
        (folder / "home" / "secrets" / "pepper").write_bytes(
            (it.home / "secrets" / "pepper").read_bytes()
        )
        with crew(folder, url) as other:
            other.key = it.key
            assert chat(other)[0] == 200
            assert len(list(children(other.process.pid or 0))) == 3
