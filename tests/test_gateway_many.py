"""Several servers on one store: one charge a client's key, one budget, one wallet, one clock."""

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from matrix_kit import Stepped
from moongate.core.errors import ConfigurationError
from moongate.core.money import Price
from moongate.core.rows import BudgetRow, PriceRow
from moongate.core.windows import window
from moongate.store.memory import MemoryStore
from moongate.store.sqlite import SqliteStore
from moongate.upstream.scripted import ScriptedServer
from postgres_kit import cluster
from replicas_kit import first_key, replicas
from serving_kit import ONE_UPSTREAM, Served, ask, serve

ANSWER = "text a\ndelay 0.3\ntext b\nusage prompt=50 completion=2"
QUICK = "text a\ntext b\nusage prompt=50 completion=2"
COST = 50 * 480 + 2 * 2_000
HOUR_MS = 3_600_000


def posts(scripted: ScriptedServer) -> int:
    return sum(seen.method == "POST" for seen in scripted.requests)


async def fifty_times(servers: list[Served], scripted: ScriptedServer) -> None:
    """One Idempotency-Key, asked of all of them at once, and again: one hold, one charge."""
    before, _ = await servers[0].wallet()
    name = {"idempotency-key": "order-17"}

    async def one(n: int) -> tuple[int, str]:
        reply = await servers[n % len(servers)].post(ask(), **name)
        return reply.status, await reply.text()

    answers = await asyncio.gather(*(one(n) for n in range(50)))
    answers += [await one(n) for n in range(len(servers))]
    statuses = [status for status, _ in answers]
    assert statuses.count(200) == 1
    assert statuses.count(409) == len(answers) - 1
    assert all("idempotency_completed" in text for _, text in answers[50:])
    assert posts(scripted) == 1
    (row,) = await servers[0].usage()
    assert row.charge_nanos == COST
    assert await servers[0].wallet() == (before - COST, 0)
    await servers[0].sound()


@pytest.mark.postgres
async def test_one_key_fifty_times_at_four_servers_is_one_charge(tmp_path: Path) -> None:
    async with replicas(tmp_path, 4, ANSWER) as (servers, scripted):
        await fifty_times(servers, scripted)


async def test_one_key_fifty_times_at_one_server_is_one_charge(tmp_path: Path) -> None:
    async with (
        ScriptedServer(ANSWER) as scripted,
        serve(tmp_path, ONE_UPSTREAM.format(kind="moonshot", base_url=scripted.base_url)) as served,
    ):
        await fifty_times([served], scripted)


@pytest.mark.postgres
@pytest.mark.parametrize("stream", [False, True])
async def test_sixty_requests_at_three_servers_on_one_cent(tmp_path: Path, stream: bool) -> None:
    cent = 10_000_000
    async with replicas(tmp_path, 3, ANSWER) as (servers, _):
        await servers[0].leave_in_wallet(cent)
        body = ask(stream=stream, max_completion_tokens=400)
        asked = [servers[n % 3].post(body) for n in range(60)]
        replies = await asyncio.gather(*asked)
        for reply in replies:
            await reply.read()
        assert {reply.status for reply in replies} == {200, 402}
        paid = sum(row.charge_nanos for row in await servers[0].usage())
        assert paid == COST * sum(reply.status == 200 for reply in replies) <= cent
        assert await servers[0].wallet() == (cent - paid, 0)
        await servers[0].sound()


async def budget(served: Served, cap_nanos: int, per: Any = "day") -> None:
    key = await first_key(served)
    await served.app.store.budget_set(
        BudgetRow("bud_1", "default", "key", key, per, cap_nanos, served.app.clock.now_ms())
    )


async def statuses(servers: list[Served], **body: Any) -> set[int]:
    """What each server says to one small request."""
    found = set()
    for served in servers:
        reply = await served.post(ask(max_completion_tokens=10, **body))
        await reply.read()
        found.add(reply.status)
    return found


async def budgets_follow_the_key(servers: list[Served]) -> None:
    one = servers[0]
    await budget(one, 10**9)
    assert await statuses(servers) == {200}
    spent = COST * len(servers)
    # Another secret, the same key: what it spent stays.
    secret = await one.app.keys.rotate(await first_key(one), 0)
    assert secret is not None
    for served in servers:
        served.key = secret
    (row,) = await one.app.store.budgets(None, one.app.clock.now_ms())
    assert (row.spent_nanos, row.held_nanos) == (spent, 0)
    # A changed cap holds at once everywhere, up and down; what runs goes on.
    await budget(one, spent)
    assert await statuses(servers) == {402}
    await budget(one, spent + 10**9)
    assert await statuses(servers) == {200}
    running = asyncio.create_task(servers[-1].post(ask(max_completion_tokens=10)))
    while not await one.app.store.open_holds():
        await asyncio.sleep(0.005)
    await budget(one, 0)
    assert await statuses(servers) == {402}
    assert (await running).status == 200
    # A removed one stops nobody.
    assert await one.app.store.budget_remove("key", await first_key(one), "day")
    assert await statuses(servers) == {200}
    assert await one.app.store.budgets(None, one.app.clock.now_ms()) == []
    await one.sound()


@pytest.mark.postgres
async def test_a_budget_hangs_on_the_key_and_its_cap_changes_at_once_on_three_servers(
    tmp_path: Path,
) -> None:
    async with replicas(tmp_path, 3, ANSWER) as (servers, _):
        await budgets_follow_the_key(servers)


async def test_a_budget_hangs_on_the_key_and_its_cap_changes_at_once(tmp_path: Path) -> None:
    async with (
        ScriptedServer(ANSWER) as scripted,
        serve(tmp_path, ONE_UPSTREAM.format(kind="moonshot", base_url=scripted.base_url)) as served,
    ):
        await budgets_follow_the_key([served])


async def test_a_budget_that_is_nearly_used_up_ends_the_answer_with_length(
    tmp_path: Path,
) -> None:
    script = "\n".join([*["text w "] * 60, "usage prompt=50 completion=60"])
    config = ONE_UPSTREAM + "\n[ledger]\nhold_first = 20\nhold_step = 30\nhold_low = 5\n"
    async with (
        ScriptedServer(script) as scripted,
        serve(tmp_path, config.format(kind="moonshot", base_url=scripted.base_url)) as served,
    ):
        await budget(served, 200_000)
        reply = await served.post(ask(max_completion_tokens=1_000))
        answer = await reply.json()
        assert answer["choices"][0]["finish_reason"] == "length"
        (row,) = await served.usage()
        assert (row.outcome, row.charge_nanos) == ("credit_stop", answer["usage"]["cost_nanos"])
        (left,) = await served.app.store.budgets(None, served.app.clock.now_ms())
        assert left.spent_nanos == row.charge_nanos <= 200_000
        await served.sound()


async def test_a_store_that_goes_away_during_the_start_is_told_in_a_sentence(
    tmp_path: Path,
) -> None:
    store = MemoryStore()
    store.trouble = "silent"
    config = ONE_UPSTREAM.format(kind="moonshot", base_url="http://127.0.0.1:9/v1")
    with pytest.raises(ConfigurationError, match=r"during the start \(silent\)"):
        async with serve(tmp_path, config, store=store):
            raise AssertionError("it started")


# Clocks.


@pytest.fixture
def off() -> list[Stepped]:
    """Three clocks: right, an hour ahead, an hour behind."""
    clocks = [Stepped(), Stepped(), Stepped()]
    clocks[1].off_ms, clocks[2].off_ms = HOUR_MS, -HOUR_MS
    return clocks


def database_at(url: str, day_ms: int) -> None:
    """Set the database's clock."""
    script = f"TRUNCATE manual_clock; INSERT INTO manual_clock VALUES ({day_ms});"
    cluster().psql(url.rpartition("/")[2], script)


@pytest.mark.postgres
async def test_servers_an_hour_off_charge_the_right_window_price_and_time(
    tmp_path: Path, off: list[Stepped]
) -> None:
    async with replicas(tmp_path, 3, QUICK, clocks=off) as (servers, _):
        url = servers[0].app.store._url  # type: ignore[attr-defined]  # which database
        late = Stepped()
        late.off_ms = -(late.now_ms() % (24 * HOUR_MS)) + 24 * HOUR_MS - 60_000  # 23:59 today
        database_at(url, late.now_ms())
        for served in servers:
            await served.app.clock.follow(served.app.store)
            assert abs(served.app.clock.now_ms() - late.now_ms()) < 5_000
        await budget(servers[0], 10**9)
        now_ms = servers[0].app.clock.now_ms()
        row = PriceRow(0, "kimi-k2.5", Price(1, 1, 1), now_ms + HOUR_MS // 2)
        await servers[0].app.store.price_add(row)
        for served in servers:
            served.app.catalog.reprice(await served.app.store.prices())
        _, short = await servers[0].app.keys.create(
            account="default", name="short", expires_ms=now_ms + HOUR_MS // 2
        )
        assert await statuses(servers) == {200}
        for served in servers:
            assert (await served.post(ask(), authorization=f"Bearer {short}")).status == 200
            assert await served.app.sweep.expire() == 0
        rows = await servers[0].usage()
        assert {row.price_version for row in rows} == {1}
        assert all(abs(row.ended_ms - late.now_ms()) < 60_000 for row in rows)
        names = {account.id for account in await servers[0].app.store.accounts("budget")}
        assert names == {f"bud_1/{window('day', late.now_ms())}"}
        await servers[0].sound()


@pytest.mark.postgres
async def test_clocks_that_jump_under_load_expire_nothing_early(
    tmp_path: Path, off: list[Stepped]
) -> None:
    seed = random.SystemRandom().randrange(2**32)
    dice = random.Random(seed)
    asked, steps = 0, 0
    async with replicas(tmp_path, 3, ANSWER, clocks=off) as (servers, _):
        await budget(servers[0], 10**10)

        async def jump() -> None:
            nonlocal steps
            while True:
                dice.choice(off).off_ms = dice.randrange(-HOUR_MS, HOUR_MS)
                steps += 1
                for served in servers:
                    assert await served.app.sweep.expire() == 0
                    assert await served.app.sweep.renew() >= 0
                await asyncio.sleep(0.02)

        jumping = asyncio.create_task(jump())
        while steps < 20:
            replies = await asyncio.gather(*(servers[n % 3].post(ask()) for n in range(60)))
            assert {reply.status for reply in replies} == {200}
            asked += len(replies)
        jumping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await jumping
        rows = await servers[0].usage()
        print(f"seed {seed}: {steps} clock steps under {asked} requests, 0 early expiries")
        assert [row.outcome for row in rows] == ["done"] * asked
        assert all(0 <= row.duration_ms < 30_000 for row in rows)
        days = {window("day", row.created_ms) for row in rows}
        names = {account.id for account in await servers[0].app.store.accounts("budget")}
        assert names == {f"bud_1/{day}" for day in days}
        assert len(days) <= 2
        await servers[0].sound()


async def test_a_clock_that_jumps_on_one_machine_expires_nothing_early(tmp_path: Path) -> None:
    clock = Stepped()
    async with (
        ScriptedServer(ANSWER) as scripted,
        serve(
            tmp_path,
            ONE_UPSTREAM.format(kind="moonshot", base_url=scripted.base_url),
            store=SqliteStore(tmp_path / "a.db"),
            clock=clock,
        ) as served,
    ):
        for step_ms in (HOUR_MS, -2 * HOUR_MS, HOUR_MS):
            running = [asyncio.create_task(served.post(ask())) for _ in range(20)]
            await scripted.until(lambda: scripted.streams_open == 20)
            clock.off_ms += step_ms
            assert await served.app.sweep.expire() == 0
            assert {reply.status for reply in await asyncio.gather(*running)} == {200}
        rows = await served.usage()
        assert [row.outcome for row in rows] == ["done"] * 60
        assert all(0 <= row.duration_ms < 30_000 for row in rows)
        await served.sound()
