"""Kills processes that hold and settle, and looks at what they left: run as a program.

``store_crash_kit.py FOLDER KILLS SEED`` forks a child that books under load and says on a pipe
what was acknowledged to it, kills it with SIGKILL at a random moment, opens the store and checks
the invariants, every acknowledgement, and that what was open can be given back.
``store_crash_kit.py FOLDER steps SEED`` instead ends a child of its own accord before each
statement and each write, one child a step, until one comes through. It prints one JSON object. A
program of its own, because a fork wants a process with one thread.
"""

import asyncio
import json
import os
import random
import select
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

from moongate.core.money import Usage
from moongate.core.ports import SystemClock
from moongate.core.rows import BudgetRow, PriceRow
from moongate.ledger.book import Book, Payer, Told
from moongate.ledger.slices import Terms
from moongate.ledger.sweep import Sweep
from moongate.store.sqlite import SqliteStore
from store_kit import Disk, balance, furnish, opened

TASKS, ROUNDS_A_FILE, START = 32, 25, 10**12
ACCOUNTS = ("acme", "bert", "cleo")
STOPPED = 9  # the exit code of a child that ended at its step


async def _prepare(file: Path) -> None:
    async with opened(SqliteStore(file)) as store:
        for account in ACCOUNTS:
            await furnish(store, START, account)
        await store.budget_set(BudgetRow("cap", "acme", "account", "acme", "day", START, 1))


async def _load(
    store: SqliteStore, name: str, rng: random.Random, out: int, tasks: int, rounds: int
) -> None:
    """Hold, extend, work for a moment, settle or void; each acknowledgement is one line."""
    clock = SystemClock()
    book = Book(store, clock, name)
    await Sweep(store, book, clock, lambda _name, **_: None).recover()
    price: PriceRow = (await store.prices())[0]

    async def visits(task: int) -> None:
        for n in range(rounds):
            id, told = f"{name}-{task}-{n}", Told("scripted", clock.now_ms())
            hold = await book.hold(
                id=id, payer=Payer("k", rng.choice(ACCOUNTS)), model="kimi-k2.5", price=price,
                terms=Terms.of(price.price, rng.choice((40, 400)), 9_000),
            )  # fmt: skip
            os.write(out, f"H {id} 0\n".encode())
            await asyncio.sleep(rng.random() * 0.01)
            if rng.random() < 0.3:
                assert await book.extend(hold) > 0
            usage = Usage(rng.randrange(50), rng.randrange(50), rng.randrange(50))
            if rng.random() < 0.2:
                await book.void(hold, "upstream_error", usage, told)
                os.write(out, f"V {id} 0\n".encode())
            else:
                bill = await book.settle(hold, "done", usage, told)
                os.write(out, f"S {id} {bill.cost_nanos}\n".encode())

    await asyncio.gather(*(visits(task) for task in range(tasks)))


async def _load_for_ever(file: Path, name: str, rng: random.Random, out: int) -> None:
    store = SqliteStore(file)
    await store.open()
    await _load(store, name, rng, out, TASKS, 10**9)


async def _load_until(file: Path, name: str, rng: random.Random, out: int, *, step: int) -> None:
    """One round of a few, ended before statement or write ``step`` of the writer."""
    left = step

    def count(*_: object) -> bool:
        nonlocal left
        left -= 1
        if left < 0:
            os._exit(STOPPED)
        return True

    disk = Disk("moongate-steps")
    store = SqliteStore(file, vfs=disk.name)
    await store.open()
    if file.stem == "statements":
        await store._move(lambda db: setattr(db, "exec_trace", count))
    else:
        disk.meet = lambda trouble: count() and None
    await _load(store, name, rng, out, 8, 1)
    os._exit(0)


def _fork(work: Callable[[int], Coroutine[Any, Any, None]]) -> tuple[int, int]:
    """A child that does ``work`` with the writing end of a pipe: its id, and the reading end."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(ours)
            asyncio.run(work(theirs))
        except BaseException as error:  # noqa: BLE001 - a forked child must not go on as its parent
            os.write(2, f"child: {error!r}\n".encode())
        finally:
            os._exit(1)
    os.close(theirs)
    return pid, ours


def _end(pid: int, pipe: int) -> tuple[list[str], int]:
    """What a child said in whole lines, and how it ended."""
    with os.fdopen(pipe, "rb") as out:
        said = out.read()
    _, status = os.waitpid(pid, 0)
    return said.decode().split("\n")[:-1], status


def _kill_one(file: Path, name: str, rng: random.Random) -> list[str]:
    """Start a child, kill it, and return the acknowledgements that came out of it whole."""
    pid, pipe = _fork(lambda out: _load_for_ever(file, name, rng, out))
    if rng.random() < 0.9:
        select.select([pipe], [], [], 10)  # the first acknowledgement
        time.sleep(rng.random() * 0.02)
    else:
        time.sleep(rng.random() * 0.06)  # perhaps while it opens the store
    os.kill(pid, signal.SIGKILL)
    said, status = _end(pid, pipe)
    assert os.WIFSIGNALED(status), "the child ended by itself"
    return said


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


COUNTED = (
    "kills", "kills_with_open_holds", "holds_acknowledged", "settles_acknowledged",
    "holds_recovered", "findings", "holds_lost", "settles_lost", "recovery_wrong", "held_after",
)  # fmt: skip


def main(folder: Path, kills: int, seed: int) -> dict[str, int]:
    """Kill ``kills`` children; returns what was counted."""
    rng = random.Random(seed)
    total = dict.fromkeys(COUNTED, 0)
    for n in range(kills):
        file = folder / f"crash-{n // ROUNDS_A_FILE}.db"
        if not file.exists():
            asyncio.run(_prepare(file))
        name = f"p{n}"
        said = _kill_one(file, name, random.Random(rng.random()))
        asyncio.run(_look(file, f"{name}-", said, total))
        total["kills"] += 1
    return total


def steps(folder: Path, seed: int) -> dict[str, int]:
    """End a child before each step of one round of bookings; returns what was counted."""
    total = dict.fromkeys((*COUNTED, "statements", "writes"), 0)
    for kind in ("statements", "writes"):
        file = folder / f"{kind}.db"
        asyncio.run(_prepare(file))
        for n in range(10**6):
            name, rng = f"{kind}{n}", random.Random(seed)
            pid, pipe = _fork(partial(_load_until, file, name, rng, step=n))
            said, status = _end(pid, pipe)
            asyncio.run(_look(file, f"{name}-", said, total))
            if os.waitstatus_to_exitcode(status) == 0:
                break
            assert os.waitstatus_to_exitcode(status) == STOPPED
            total["kills"] += 1
            total[kind] += 1
    return total


if __name__ == "__main__":
    place, what, seed = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    print(json.dumps(steps(place, seed) if what == "steps" else main(place, int(what), seed)))
