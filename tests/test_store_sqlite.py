"""What the embedded engine promises beyond the seam: few statements a batch, secrets that go."""

import asyncio
import threading
from pathlib import Path
from typing import Self

import apsw

from moongate.core.money import Usage
from moongate.core.rows import BudgetRow, HoldRow
from moongate.core.store import Extension, Idem
from moongate.store.sqlite import SqliteStore
from store_kit import NOW_MS, a_hold, an_end, furnish, opened

MANY = 400
STATEMENTS_MAX = 40
"""Of one batch that holds, extends and settles, whatever its size."""


class Trace:
    """Holds the writer back until all is queued, then counts the statements of that batch."""

    def __init__(self, store: SqliteStore) -> None:
        self.store = store
        self.gate = threading.Event()
        self.count = 0

    async def __aenter__(self) -> Self:
        def wait(db: apsw.Connection) -> None:
            self.gate.wait(10)
            db.exec_trace = self._note

        self.waiting = asyncio.create_task(self.store._move(wait))
        await asyncio.sleep(0.05)  # the writer has taken it, and nothing else, as its batch
        return self

    def _note(self, *_args: object) -> bool:
        self.count += 1
        return True

    async def __aexit__(self, *_exc: object) -> None:
        await self.waiting
        await self.store._move(lambda db: setattr(db, "exec_trace", None))


async def test_a_batch_is_a_handful_of_statements_however_many_moves_it_has(tmp_path: Path) -> None:
    async with opened(SqliteStore(tmp_path / "a.db")) as store:
        accounts = [f"a{n}" for n in range(50)]
        for account in accounts:
            await furnish(store, 10**12, account)
            await store.budget_set(
                BudgetRow(f"b-{account}", account, "account", account, "day", 10**12, NOW_MS)
            )
        first = [a_hold(f"f{n}", 50_000, accounts[n % 50]) for n in range(MANY)]
        for row in await asyncio.gather(*map(store.hold, first)):
            assert isinstance(row, HoldRow)
        async with Trace(store) as trace:
            third = MANY // 3
            moves = [
                store.settle(an_end(h, Usage(output=20, input=n)))
                for n, h in enumerate(first[:third])
            ]
            moves += [
                store.extend(Extension(h.id, 1, 4_000, 2_000)) for h in first[third : 2 * third]
            ]
            moves += [
                store.hold(
                    a_hold(f"s{n}", 50_000, accounts[n % 50]),
                    idem=Idem(accounts[n % 50], ((b"k%d" % n, b"b"),), NOW_MS + 9),
                )
                for n in range(third)
            ]
            asking = asyncio.gather(*moves)
            await asyncio.sleep(0)
            trace.gate.set()
            assert all(await asking)
        print(f"{len(moves)} moves of 50 accounts with budgets: {trace.count} statements")
        assert 10 <= trace.count <= STATEMENTS_MAX
        assert await store.audit() == []


async def test_a_few_who_cannot_pay_hold_nobody_up(tmp_path: Path) -> None:
    """Who touches an empty wallet is served alone; the others stay one batch."""
    async with opened(SqliteStore(tmp_path / "a.db")) as store:
        await furnish(store, 10**12, "rich")
        await furnish(store, 25, "poor")
        async with Trace(store) as trace:
            moves = [store.hold(a_hold(f"r{n}", 10, "rich")) for n in range(MANY)]
            moves += [store.hold(a_hold(f"p{n}", 10, "poor")) for n in range(4)]
            asking = asyncio.gather(*moves)
            await asyncio.sleep(0)
            trace.gate.set()
            made = [isinstance(answer, HoldRow) for answer in await asking]
        assert made == [True] * (MANY + 2) + [False] * 2
        print(f"{MANY} holds and 4 on a poor wallet: {trace.count} statements")
        assert trace.count <= 80


async def test_a_destroyed_secret_is_in_no_file(tmp_path: Path) -> None:
    day = 86_400_000
    pieces = [b"%d-Qx7vR2mK9pLw4tZs8nBd3fYh6jGc" % n for n in range(4)]
    # Each secret is shorter than the one before, so that it does not just lie over it.
    secrets = [piece * (8 - n) for n, piece in enumerate(pieces)]

    def lying_about() -> list[int]:
        files = [path.read_bytes() for path in tmp_path.iterdir()]
        return [n for n, piece in enumerate(pieces) if any(piece in data for data in files)]

    async with opened(SqliteStore(tmp_path / "a.db")) as store:
        for n, secret in enumerate(secrets):
            at_ms = NOW_MS + n * (day + 1)
            alive = await store.rotate_secret("idem", secret, at_ms, day)
            assert alive == secrets[max(0, n - 1) : n + 1][::-1]
            assert lying_about() == list(range(max(0, n - 1), n + 1))
