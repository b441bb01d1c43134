"""Kills processes that hold and settle, and looks at what they left: run as a program.

``store_crash_kit.py FOLDER KILLS SEED`` forks a child that books under load and says on a pipe
what was acknowledged to it, kills it with SIGKILL at a random moment, opens the store and checks
the invariants, every acknowledgement, and that what was open can be given back. It prints one
JSON object. A program of its own, because a fork wants a process with one thread.
"""

import asyncio
import json
import os
import random
import select
import signal
import sys
import time
from pathlib import Path

from moongate.core.money import Usage
from moongate.core.ports import SystemClock
from moongate.core.rows import PriceRow
from moongate.ledger.book import Book, Told
from moongate.ledger.sweep import Sweep
from moongate.store.sqlite import SqliteStore
from store_kit import balance, furnish, opened

TASKS, ROUNDS_A_FILE, START = 32, 25, 10**12
ACCOUNTS = ("acme", "bert", "cleo")


async def _prepare(file: Path) -> None:
    async with opened(SqliteStore(file)) as store:
        for account in ACCOUNTS:
            await furnish(store, START, account)


async def _load(file: Path, name: str, rng: random.Random, out: int) -> None:
    """Hold, work for a moment, settle or void, for ever; each acknowledgement is one line."""
    clock = SystemClock()
    store = SqliteStore(file)
    await store.open()
    book = Book(store, clock, name)
    await Sweep(store, book, clock, lambda _name, **_: None).recover()
    price: PriceRow = (await store.prices())[0]

    async def visits(task: int) -> None:
        for n in range(10**9):
            id, told = f"{name}-{task}-{n}", Told("scripted", clock.now_ms())
            hold = await book.hold(
                id=id, key="k", account=rng.choice(ACCOUNTS), model="kimi-k2.5",
                amount_nanos=rng.choice((20_000, 400_000)), price=price,
            )  # fmt: skip
            os.write(out, f"H {id} 0\n".encode())
            await asyncio.sleep(rng.random() * 0.01)
            usage = Usage(rng.randrange(50), rng.randrange(50), rng.randrange(50))
            if rng.random() < 0.2:
                await book.void(hold, price, "upstream_error", usage, told)
                os.write(out, f"V {id} 0\n".encode())
            else:
                bill = await book.settle(hold, price, "done", usage, told)
                os.write(out, f"S {id} {bill.cost_nanos}\n".encode())

    await asyncio.gather(*(visits(task) for task in range(TASKS)))


def _kill_one(file: Path, name: str, rng: random.Random) -> list[str]:
    """Start a child, kill it, and return the acknowledgements that came out of it whole."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(ours)
            asyncio.run(_load(file, name, rng, theirs))
        except BaseException as error:  # noqa: BLE001 - a forked child must not go on as its parent
            os.write(2, f"child: {error!r}\n".encode())
        finally:
            os._exit(1)
    os.close(theirs)
    if rng.random() < 0.9:
        select.select([ours], [], [], 10)  # the first acknowledgement
        time.sleep(rng.random() * 0.02)
    else:
        time.sleep(rng.random() * 0.06)  # perhaps while it opens the store
    os.kill(pid, signal.SIGKILL)
    with os.fdopen(ours, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status), "the child ended by itself"
    return said.decode().split("\n")[:-1]


async def _look(file: Path, name: str, said: list[str], total: dict[str, int]) -> None:
    async with opened(SqliteStore(file)) as store:
        total["findings"] += len(await store.audit())
        still_open = {row.id for row in await store.open_holds()}
        used = {row.hold: row for row in await store.usage() if row.hold.startswith(name)}
        for line in said:
            kind, id, nanos = line.split()
            if kind == "H":
                total["holds_acknowledged"] += 1
                total["holds_lost"] += id not in still_open and id not in used
                continue
            row = used.get(id)
            total["settles_acknowledged"] += 1
            total["settles_lost"] += row is None or row.charge_nanos != int(nanos)
        total["kills_with_open_holds"] += bool(still_open)
        total["holds_recovered"] += len(still_open)
        clock = SystemClock()
        sweep = Sweep(store, Book(store, clock, "looker"), clock, lambda _name, **_: None)
        total["recovery_wrong"] += await sweep.recover() != len(still_open)
        for account in ACCOUNTS:
            total["held_after"] += (await balance(store, account))[1]
        total["findings"] += len(await store.audit())


def main(folder: Path, kills: int, seed: int) -> dict[str, int]:
    """Kill ``kills`` children; returns what was counted."""
    rng = random.Random(seed)
    total = dict.fromkeys(
        (
            "kills", "kills_with_open_holds", "holds_acknowledged", "settles_acknowledged",
            "holds_recovered", "findings", "holds_lost", "settles_lost", "recovery_wrong",
            "held_after",
        ),
        0,
    )  # fmt: skip
    for n in range(kills):
        file = folder / f"crash-{n // ROUNDS_A_FILE}.db"
        if not file.exists():
            asyncio.run(_prepare(file))
        name = f"p{n}"
        said = _kill_one(file, name, random.Random(rng.random()))
        asyncio.run(_look(file, f"{name}-", said, total))
        total["kills"] += 1
    return total


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
