"""Many who want the same money at once: exactly as many win as can be paid."""

import asyncio
from pathlib import Path

import pytest

from moongate.core.money import Usage
from moongate.core.rows import AccountRow
from moongate.store.sqlite import SqliteStore
from store_kit import (
    ENGINES,
    a_budget,
    a_hold,
    an_end,
    balance,
    furnish,
    in_threads,
    make_store,
    opened,
    took,
)

TRIES, AFFORDABLE, AMOUNT = 320, 10, 7


@pytest.mark.parametrize("engine", ENGINES)
async def test_tasks_race_for_ten_holds(engine: str, tmp_path: Path) -> None:
    rounds = 10
    async with opened(make_store(engine, tmp_path)) as store:
        for n in range(rounds):
            await furnish(store, AFFORDABLE * AMOUNT + AMOUNT - 1, f"a{n}")
            rows = [a_hold(f"{n}-{k}", AMOUNT, f"a{n}") for k in range(TRIES)]
            won = await asyncio.gather(*(took(store, row) for row in rows))
            assert sum(won) == AFFORDABLE
            assert len(won) == TRIES
            assert (await balance(store, f"a{n}"))[1] == AFFORDABLE * AMOUNT
        assert len(await store.open_holds()) == rounds * AFFORDABLE
        assert await store.audit() == []


@pytest.mark.parametrize("engine", ENGINES)
async def test_tasks_race_for_a_small_budget(engine: str, tmp_path: Path) -> None:
    """A budget has no constraint of the table behind its guard: the wallet has more than enough."""
    rounds = 10
    async with opened(make_store(engine, tmp_path)) as store:
        await furnish(store, 10**9)
        cap = AFFORDABLE * AMOUNT + AMOUNT - 1
        for n in range(rounds):
            budget = a_budget(cap, "life", subject=f"key_{n}", id=f"b{n}")
            await store.budget_set(budget)
            rows = [a_hold(f"{n}-{k}", AMOUNT, key=f"key_{n}") for k in range(64)]
            won = await asyncio.gather(*(took(store, row) for row in rows))
            assert sum(won) == AFFORDABLE
            assert await balance(store, f"b{n}/life") == (0, AFFORDABLE * AMOUNT)
        assert await store.audit() == []


def test_threads_and_connections_race_for_ten_holds(tmp_path: Path) -> None:
    """16 threads, each with an event loop; every fourth shares one of four stores on one file."""
    file = tmp_path / "moongate.db"
    rounds, threads = 10, 16

    async def prepare() -> None:
        async with opened(SqliteStore(file)) as store:
            for n in range(rounds):
                await furnish(store, AFFORDABLE * AMOUNT + AMOUNT - 1, f"a{n}")
            assert await store.account_create(AccountRow("cap", "budget", 0, 0, 10**6, 1))

    async def race(thread: int) -> list[int]:
        won = [0] * rounds
        async with opened(SqliteStore(file, lock=False)) as store:
            for n in range(rounds):
                for k in range(TRIES // threads // 4):
                    rows = [
                        a_hold(f"{n}-{thread}-{k}-{i}", AMOUNT, f"a{n}", legs=("cap",))
                        for i in range(4)
                    ]
                    won[n] += sum(await asyncio.gather(*(took(store, row) for row in rows)))
        return won

    async def look() -> None:
        async with opened(SqliteStore(file)) as store:
            assert len(await store.open_holds()) == rounds * AFFORDABLE
            assert await balance(store, "cap") == (0, rounds * AFFORDABLE * AMOUNT)
            assert await store.audit() == []

    asyncio.run(prepare())
    wins = in_threads(threads, race)
    assert [sum(column) for column in zip(*wins, strict=True)] == [AFFORDABLE] * rounds
    asyncio.run(look())


async def test_settle_and_expire_race_for_one_hold(tmp_path: Path) -> None:
    """Whoever comes first resolves it; the others change nothing."""
    async with opened(SqliteStore(tmp_path / "a.db")) as store:
        await furnish(store, 10**9)
        late = 10**13
        for n in range(60):
            hold = a_hold(f"h{n}", 50_000)
            assert await took(store, hold)
            ends = [an_end(hold, Usage(output=k)) for k in (1, 2)]
            moves = [store.settle(ends[0]), store.expire(late, 0), store.settle(ends[1])]
            if n % 2:
                moves.reverse()
            answers = await asyncio.gather(*moves)
            wins = [answer is True or answer == [hold.id] for answer in answers]
            assert sum(wins) == 1
            assert len(await store.usage()) == n + 1
        assert (await balance(store))[1] == 0
        assert await store.audit() == []
