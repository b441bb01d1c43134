"""A soak: streams, leaves, faults and deaths at random; afterwards every figure must agree.

Three workers on one PostgreSQL are killed at random and started again while clients ask, read a
part, leave, or read to the end, and the upstream stalls its frames, cuts them and fails.
"""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from live_kit import environment, scripted_process, short_folder
from moongate.cli.line import Unanswered
from postgres_kit import database
from test_workers_postgres import admin, hasty
from workers_kit import CONFIG, Crew, crew, until

pytestmark = pytest.mark.postgres
TURNS = [
    "think Moons.\n" + "text Io, \n" * 12 + "usage prompt=50 cached=20 completion=14",
    "text a\ndelay 0.05\n" * 4 + "usage prompt=40 completion=4 at=every",
    "text a\ncut",
    "error 500 server_error Broken",
    "text b\nerror-in-stream server_error Oops",
    'tool find {"a":1}\nusage prompt=30 completion=9\nfinish tool_calls',
    "hangup",
    "text a\nno-done",
    "text c\ndelay 0.2\ntext d",
]
CLIENTS = 24
ASK = {
    "model": "kimi-k2.5",
    "messages": [{"role": "user", "content": "Name three moons."}],
    "stream": True,
    "stream_options": {"include_usage": True},
    "tools": [
        {
            "type": "function",
            "function": {"name": "find", "parameters": {"type": "object", "properties": {}}},
        }
    ],
}


@dataclass
class Seen:
    """What clients saw: request ids whose answers came whole, with their cost; and statuses."""

    whole: dict[str, int] = field(default_factory=dict)
    statuses: Counter[int] = field(default_factory=Counter)
    left: int = 0
    broken: int = 0


async def one(http: aiohttp.ClientSession, it: Crew, dice: random.Random, seen: Seen) -> None:
    """Ask once; leave after some bytes, or read to the end."""
    leave = dice.randrange(200, 2_500) if dice.random() < 0.3 else None
    try:
        async with http.post(f"http://127.0.0.1:{it.port}/v1/chat/completions", json=ASK) as reply:
            seen.statuses[reply.status] += 1
            text = b""
            async for piece in reply.content.iter_any():
                text += piece
                if leave is not None and len(text) > leave:
                    seen.left += 1
                    return
            if reply.status == 200 and text.endswith(b"data: [DONE]\n\n"):
                cost = int(text.rpartition(b'"cost_nanos":')[2].split(b"}")[0].split(b",")[0])
                seen.whole[reply.headers["x-request-id"]] = cost
    except aiohttp.ClientError:
        seen.broken += 1


async def load(it: Crew, requests: int, dice: random.Random) -> tuple[Seen, int]:
    """So many requests from ``CLIENTS`` at once, and a death now and then."""
    seen, kills = Seen(), 0
    todo = iter(range(requests))
    head = {"authorization": f"Bearer {it.key}"}
    connector = aiohttp.TCPConnector(force_close=True)

    async with aiohttp.ClientSession(headers=head, connector=connector) as http:

        async def client() -> None:
            for _ in todo:
                await one(http, it, dice, seen)

        async def death() -> None:
            nonlocal kills
            while True:
                await asyncio.sleep(dice.uniform(1.0, 2.5))
                pids = it.pids()
                if len(pids) == 3:  # a worker that is on its way up is let be
                    os.kill(dice.choice(pids), signal.SIGKILL)
                    kills += 1

        reaper = asyncio.create_task(death())
        await asyncio.gather(*(client() for _ in range(CLIENTS)))
        reaper.cancel()
    return seen, kills


def settled(it: Crew) -> bool:
    """Whether nothing is held any more, and all workers are there."""
    try:
        return len(it.pids()) == 3 and admin(it, "GET", "/accounts/default")["held_nanos"] == 0
    except Unanswered:  # whoever took this call was killed over it
        return False


def moongate(it: Crew, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "moongate", *words],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment(MOONGATE_HOME=str(it.home)),
    )


def receipts(it: Crew, rows: list[dict[str, Any]]) -> int:
    """The sum over the receipts of all charged requests, each fetched over HTTP."""
    total = 0
    for row in rows:
        if row["charge_nanos"]:
            receipt = admin(it, "GET", f"/receipts/{row['request']}")
            assert receipt["charge_nanos"] == row["charge_nanos"]
            total += receipt["charge_nanos"]
    return total


def soak(folder: Path, requests: int) -> None:
    seed = random.SystemRandom().randrange(2**32)
    dice = random.Random(seed)
    script = folder / "script"
    # The last turn of a script repeats: there are more than will be asked for.
    turns = [dice.choice(TURNS) for _ in range(2 * requests)]
    script.write_text("\n---\n".join(turns))
    with scripted_process(script) as upstream:
        store = database(empty=True)
        config = CONFIG.format(workers=3, drain_s=5, store=store, upstream=upstream)
        with crew(folder, config, hasty) as it:
            admin(it, "POST", "/accounts/default/credit", {"usd": "100", "kind": "topup"})
            before = admin(it, "GET", "/accounts/default")["posted_nanos"]
            began = time.monotonic()
            seen, kills = asyncio.run(load(it, requests, dice))
            passed_s = time.monotonic() - began
            until(lambda: settled(it), "wallet without holds", 60)
            fall = before - admin(it, "GET", "/accounts/default")["posted_nanos"]
            rows = admin(it, "GET", "/statement?each=1")
            print(
                f"seed {seed}: {requests} requests in {passed_s:.0f} s, {kills} kills, "
                f"{len(seen.whole)} answered whole, {seen.left} left, {seen.broken} broken, "
                f"statuses {dict(seen.statuses)}, outcomes "
                f"{dict(Counter(row['outcome'] for row in rows['data']))}"
            )
            audit = moongate(it, "audit", "ledger")
            assert audit.returncode == 0, f"seed {seed}: {audit.stdout}{audit.stderr}"
            by_id = Counter(row["request"] for row in rows["data"])
            assert set(by_id.values()) == {1}
            charges = {row["request"]: row["charge_nanos"] for row in rows["data"]}
            for id, cost in seen.whole.items():
                assert charges[id] == cost, f"seed {seed}: {id} saw another cost than its row"
            assert receipts(it, rows["data"]) == sum(charges.values()) == fall, f"seed {seed}"
            assert kills > 0
            assert len(seen.whole) > requests / 10


def test_two_thousand_streams_with_deaths() -> None:
    with short_folder() as folder:
        soak(folder, 2_000)


@pytest.mark.full
def test_twenty_thousand_streams_with_deaths() -> None:
    with short_folder() as folder:
        soak(folder, 20_000)
