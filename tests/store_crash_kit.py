"""Kills processes that hold and settle, and looks at what they left: run as a program.

``store_crash_kit.py kills PLACE COUNT SEED`` forks a child that books under load (budgets, slices,
renewals, Idempotency-Keys) and says on a pipe what was acknowledged to it, kills it with SIGKILL at
a random moment, opens the store and checks the invariants, every acknowledgement, and that what
was open can be given back. Only kills that met an open hold are counted.
``store_crash_kit.py steps PLACE COUNT`` ends the child at each statement and each write of every
move, of COUNT at a time. Both print one JSON object. A program of its own, because a fork wants a
process with one thread. PLACE is a folder, or the address of a PostgreSQL where databases may be
made.
"""

import asyncio
import json
import os
import random
import select
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from itertools import count, repeat
from pathlib import Path
from typing import Final

import apsw
import asyncpg

from moongate.core.errors import Refused
from moongate.core.money import Usage
from moongate.core.ports import SystemClock
from moongate.core.rows import BudgetRow, UsageRow
from moongate.core.store import Idem, Store
from moongate.ledger import book
from moongate.ledger.book import Book, Held, Payer, Told
from moongate.ledger.slices import Slices, Terms
from moongate.ledger.sweep import Sweep
from moongate.store.postgres import PostgresStore
from moongate.store.sqlite import SqliteStore
from store_kit import Disk, furnish, opened

TASKS, ROUNDS_A_FILE, START = 24, 20, 10**12
ACCOUNTS: Final = ("acme", "bert", "cleo")
SLICES: Final = Slices(first=20, step=30, low=5)
TIGHT_NANOS: Final = 2_000_000
CLIENT_KEYS: Final = 400
FAULTS: Final = (
    "findings", "holds_lost", "slices_lost", "settles_lost", "charged_twice", "over_budget",
    "recovery_wrong", "held_after",
)  # fmt: skip
FOREVER_MS: Final = 4 * 10**12

Work = Callable[[int], Awaitable[None]]


def on_postgres(place: str) -> bool:
    return place.startswith("postgresql:")


def store_at(place: str) -> Store:
    """The store at a place: a SQLite file, or the address of a database."""
    return PostgresStore(place, patience_s=20) if on_postgres(place) else SqliteStore(place)


def quiet(_name: str, /, **_fields: object) -> None:
    """A report that nobody reads."""


def budgets() -> list[BudgetRow]:
    """The budgets of every file: one that runs out, and one of each scope that does not."""
    rows = [
        ("key", "acme", "tight", "life", TIGHT_NANOS),
        ("key", "bert", "k", "day", START),
        ("project", "cleo", "cleo/web", "week", START),
        ("account", "acme", "acme", "life", START),
    ]
    return [
        BudgetRow(f"b{n}", account, scope, subject, per, cap, 1)
        for n, (scope, account, subject, per, cap) in enumerate(rows)
    ]


async def prepare(place: str) -> None:
    """Three wallets, a price and the budgets."""
    async with opened(store_at(place)) as store:
        for account in ACCOUNTS:
            await furnish(store, START, account)
        for row in budgets():
            await store.budget_set(row)


class Client:
    """Visits of one process, and the pipe on which it says what was acknowledged."""

    def __init__(self, store: Store, name: str, rng: random.Random, out: int) -> None:
        clock = SystemClock()
        self.store, self.name, self.rng, self.out = store, name, rng, out
        self.book = Book(store, clock, name, SLICES)
        self.sweep = Sweep(store, self.book, clock, quiet)

    def say(self, what: str, held: Held, nanos: int, number: int = 0) -> None:
        os.write(self.out, f"{what} {held.row.id} {nanos} {number}\n".encode())

    async def hold(self, id: str, number: int) -> Held:
        """A hold that a client asks for under its own key, which others use too."""
        rng = self.rng
        account, keyed = rng.choice(ACCOUNTS), rng.random() < 0.7
        mark = number.to_bytes(32, "big")
        (price, *_) = await self.store.prices()
        return await self.book.hold(
            id=f"{id}+{account}{number}" if keyed else id,
            payer=Payer(
                rng.choice(("k", "tight")) if account == "acme" else "k",
                account,
                "web" if account == "cleo" else "",
            ),
            model="kimi-k2.5",
            price=price,
            terms=Terms.of(price.price, rng.randrange(200), rng.choice((10, 60, 500))),
            idem=Idem(account, ((mark, mark),), FOREVER_MS) if keyed else None,
        )

    async def visit(self, id: str) -> None:
        """Hold, extend, settle or void; each acknowledgement is one line."""
        rng = self.rng
        try:
            held = await self.hold(id, rng.randrange(CLIENT_KEYS))
        except Refused:
            await asyncio.sleep(0.001)
            return
        self.say("H", held, held.row.amount_nanos)
        usage = Usage(rng.randrange(50), rng.randrange(50), 0)
        while held.terms.next(held.row.amount_nanos, SLICES) > 0 and rng.random() < 0.7:
            usage = Usage(usage.input, usage.cache_read, held.cover)
            held.used = lambda usage=usage: usage
            await self.book.extend(held)
            self.say("E", held, held.row.amount_nanos, held.row.slice_no)
            await asyncio.sleep(rng.random() * 0.003)
        told = Told("scripted", 1)
        if rng.random() < 0.2:
            await self.book.void(held, "upstream_error", usage, told)
            self.say("V", held, 0)
        else:
            bill = await self.book.settle(held, "done", usage, told)
            self.say("S", held, bill.cost_nanos)

    async def load(self) -> None:
        """Visits in many tasks and renewals beside them, for ever."""

        async def visits(task: int) -> None:
            for n in range(10**9):
                await self.visit(f"{self.name}-{task}-{n}")

        async def renewals() -> None:
            while True:
                await asyncio.sleep(0.004)
                await self.sweep.renew()

        await asyncio.gather(renewals(), *(visits(task) for task in range(TASKS)))


def fork(work: Callable[[int], Awaitable[None]]) -> tuple[int, int]:
    """Run ``work`` with the end of a pipe in a forked child; its id and the pipe's other end."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(ours)
            asyncio.run(work(theirs))
            os._exit(0)
        except BaseException as error:  # noqa: BLE001 - a forked child must not go on as its parent
            os.write(2, f"child: {error!r}\n".encode())
        finally:
            os._exit(1)
    os.close(theirs)
    return pid, ours


def ended(pid: int, ours: int, said: bytes = b"") -> tuple[list[str], int]:
    """What the child said in whole lines, and how it ended."""
    with os.fdopen(ours, "rb") as pipe:
        said += pipe.read()
    return said.decode().split("\n")[:-1], os.waitpid(pid, 0)[1]


def kill_one(place: str, name: str, rng: random.Random) -> list[str]:
    """Start a child, kill it, and return the acknowledgements that came out of it whole."""

    async def work(out: int) -> None:
        store = store_at(place)
        await store.open()
        client = Client(store, name, random.Random(seed), out)
        await client.sweep.recover()
        await client.load()

    seed = rng.random()
    pid, ours = fork(work)
    said = b""
    if rng.random() < 0.95:
        # Some acknowledgements, and a moment.
        wanted = rng.randrange(1, 60)
        while said.count(b"\n") < wanted and select.select([ours], [], [], 20)[0]:
            said += os.read(ours, 65_536)
        time.sleep(rng.random() * 0.01)
    else:
        time.sleep(rng.random() * 0.06)  # perhaps while it opens the store
    os.kill(pid, signal.SIGKILL)
    lines, status = ended(pid, ours, said)
    assert os.WIFSIGNALED(status), "the child ended by itself"
    return lines


async def look(place: str, name: str, said: list[str], total: Counter[str]) -> bool:
    """Check what the dead left; whether a hold was open."""
    if on_postgres(place):
        await parted(place)
    async with opened(store_at(place)) as store:
        total["findings"] += len(await store.audit())
        still_open = {row.id: row for row in await store.open_holds()}
        rows = await store.usage()
        used = {row.hold: row for row in rows}
        for line in said:
            what, id, nanos, number = line.split()
            row, hold = used.get(id), still_open.get(id)
            if what in "HE":
                total["holds_acknowledged" if what == "H" else "slices_acknowledged"] += 1
                total["holds_lost"] += hold is None and row is None
                if hold is not None:
                    total["slices_lost"] += (hold.amount_nanos, hold.slice_no) < (
                        int(nanos), int(number),
                    )  # fmt: skip
                continue
            total["settles_acknowledged"] += 1
            total["settles_lost"] += row is None or row.charge_nanos != int(nanos)
        total["charged_twice"] += twice(rows)
        total["over_budget"] += await over_budget(store, rows)
        total["holds_recovered"] += len(still_open)
        total["recovery_wrong"] += await recovered(place, store, name) != len(still_open)
        total["held_after"] += sum(row.held_nanos != 0 for row in await store.accounts())
        total["findings"] += len(await store.audit())
    return bool(still_open)


async def recovered(place: str, store: Store, name: str) -> int:
    """Give back what the dead held: at the next start, or when the leases have run out."""
    if on_postgres(place):
        return len(await store.expire(0, 0))
    clock = SystemClock()
    return await Sweep(store, Book(store, clock, f"after-{name}"), clock, quiet).recover()


async def parted(place: str) -> None:
    """Wait until the database has noticed the death: what it was told before, it may still do."""
    db = await asyncpg.connect(place)
    try:
        others = (
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' "
            "AND datname = current_database() AND pid <> pg_backend_pid()"
        )
        while await db.fetchval(others):
            await asyncio.sleep(0.002)
    finally:
        await db.close()


def twice(rows: list[UsageRow]) -> int:
    """Charges beyond the first under one client's key, which is the end of a hold's id."""
    done = Counter(row.hold.partition("+")[2] for row in rows if row.charge_nanos)
    return sum(count - 1 for key, count in done.items() if key)


async def over_budget(store: Store, rows: list[UsageRow]) -> int:
    """Budgets for all time that count something else than their charges, or more than the cap."""
    wrong = 0
    for budget in await store.budgets(None, FOREVER_MS):
        if budget.per == "life":
            name = "key" if budget.scope == "key" else "account"
            spent = sum(row.charge_nanos for row in rows if getattr(row, name) == budget.subject)
            wrong += budget.spent_nanos != spent or spent > budget.cap_nanos
    return wrong


async def fresh_database(server: str, number: int) -> str:
    """A new database with our tables, in place of the one before it."""
    db = await asyncpg.connect(server)
    try:
        name = f"crash_{os.getpid()}_{number}"
        await db.execute(f"CREATE DATABASE {name} TEMPLATE template_moongate")
        if number:
            await db.execute(f"DROP DATABASE crash_{os.getpid()}_{number - 1} WITH (FORCE)")
        return f"{server.rpartition('/')[0]}/{name}"
    finally:
        await db.close()


def places(where: str) -> Iterator[str]:
    """A prepared place for each kill; after so many a fresh one."""
    for number in count():
        if on_postgres(where):
            place = asyncio.run(fresh_database(where, number))
        else:
            place = f"{where}/crash-{number}.db"
        asyncio.run(prepare(place))
        yield from repeat(place, ROUNDS_A_FILE)


def kills(where: str, wanted: int, seed: int) -> Counter[str]:
    """Kill children until ``wanted`` of them had a hold open; returns what was counted."""
    rng = random.Random(seed)
    total = Counter(dict.fromkeys(FAULTS, 0))
    if on_postgres(where):
        book.LEASE_S = 0  # so that what the dead held can be given back at once
    for place in places(where):
        name = f"p{total['kills']}"
        said = kill_one(place, name, rng)
        total["met"] += asyncio.run(look(place, name, said, total))
        total["kills"] += 1
        if total["met"] == wanted:
            break
    return total


class Steps:
    """Counts what the writing connection does, and ends the process before number ``last``."""

    def __init__(self, last: int) -> None:
        self.last, self.seen, self.armed = last, 0, False

    def __call__(self) -> None:
        if self.armed:
            self.seen += 1
            if self.seen == self.last:
                os._exit(9)


def stepped(steps: Steps) -> Disk:
    """Have every statement of a store opened from now on counted, and every write of its disk."""
    from moongate.store import desk
    from moongate.store.opening import connect

    class StepDisk(Disk):
        def meet(self, trouble: object) -> None:
            steps()

    def traced(path: Path, vfs: str | None, *, reading: bool) -> apsw.Connection:
        db = connect(path, vfs, reading=reading)
        if not reading:
            db.exec_trace = lambda *_: steps() or True
        return db

    desk.connect = traced  # type: ignore[assignment]  # the same, watched
    return StepDisk("moongate-steps")


async def one_of_each(client: Client, n: int) -> None:
    """Every move once, each acknowledged: hold, extend, renew, settle, void, credit, expire."""
    held = await client.hold(f"s{n}", n)
    client.say("H", held, held.row.amount_nanos)
    held.used = lambda: Usage(3, 0, 9)
    await client.book.extend(held)
    client.say("E", held, held.row.amount_nanos, held.row.slice_no)
    await client.sweep.renew()
    bill = await client.book.settle(held, "done", Usage(3, 2, 500), Told("scripted", 1))
    client.say("S", held, bill.cost_nanos)
    held = await client.hold(f"v{n}", 10 + n)
    client.say("H", held, held.row.amount_nanos)
    await client.book.void(held, "upstream_error", Usage(3, 2, 1), Told("scripted", 1))
    client.say("V", held, 0)
    await client.store.credit("acme", 5, "topup", f"again-{n}", 1)
    held = await client.hold(f"x{n}", 20 + n)
    client.say("H", held, held.row.amount_nanos)
    await client.store.expire(FOREVER_MS, 0)


def steps(place: str, together: int) -> Counter[str]:
    """End a child at each step of every move, of so many at once; returns what was counted."""
    total = Counter(dict.fromkeys(FAULTS, 0))
    folder = Path(place)
    fresh = folder / "fresh.db"
    asyncio.run(prepare(str(fresh)))
    while True:
        counter = Steps(total["steps"] + 1)
        place = str(shutil.copy(fresh, folder / f"step-{counter.last}.db"))

        async def work(out: int, counter: Steps = counter, place: str = place) -> None:
            disk = stepped(counter)
            store = SqliteStore(place, vfs=disk.name)
            await store.open()
            client = Client(store, "p", random.Random(3), out)
            counter.armed = True
            await asyncio.gather(*(one_of_each(client, n) for n in range(together)))

        said, status = ended(*fork(work))
        total["met"] += asyncio.run(look(place, "p", said, total))
        if os.waitstatus_to_exitcode(status) == 0:
            assert counter.seen < counter.last
            return total
        assert os.waitstatus_to_exitcode(status) == 9, "the child ended by itself"
        total["steps"] += 1


if __name__ == "__main__":
    what, place, *numbers = sys.argv[1:]
    work = kills if what == "kills" else steps
    print(json.dumps(work(place, *map(int, numbers))))
