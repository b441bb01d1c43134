"""What a server does beside its requests goes on after a fault that nobody thought of."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moongate.access.limits import Limits
from moongate.app import application, chores
from moongate.app.chores import lasting
from moongate.app.repricing import keep_prices
from moongate.core.money import Price
from moongate.core.ports import SystemClock
from moongate.core.rows import PriceRow
from moongate.delivery import Pulse
from moongate.ledger.sweep import Sweep
from moongate.payments.alerts import Alerts
from moongate.route.catalog import Catalog
from moongate.store.memory import MemoryStore
from moongate.upstream.replay import Replay
from serving_kit import ONE_UPSTREAM, Served, serve

CONFIG = (
    ONE_UPSTREAM.format(kind="openai", base_url="http://127.0.0.1:9/v1")
    + """
[alerts]
webhook_url = "http://127.0.0.1:9/hook"
webhook_secret_env = "HOOK"
"""
)
RUNS = {"sweep": Sweep, "pulse": Pulse, "replay": Replay, "limits": Limits, "alerts": Alerts}


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chores, "PAUSE_S", 0.01)


def faults(served: Served) -> list[tuple[str, str]]:
    events = map(json.loads, served.log.getvalue().splitlines())
    return [(event["kind"], event["error"]) for event in events if event["event"] == "fault"]


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.01)


async def test_every_chore_of_a_server_begins_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: Counter[str] = Counter()

    def stumbling(name: str) -> Any:
        async def run(*_: Any) -> None:
            begun[name] += 1
            if begun[name] == 1:
                raise KeyError("secret words")
            await asyncio.Event().wait()

        return run

    for name, part in RUNS.items():
        monkeypatch.setattr(part, "run", stumbling(name))
    monkeypatch.setattr(application, "keep_prices", stumbling("prices"))
    monkeypatch.setattr(application, "look", stumbling("look"))
    monkeypatch.setattr(application, "look_again", stumbling("looking"))
    monkeypatch.setattr(application.memory, "tend", stumbling("memory"))
    names = {*RUNS, "prices", "look", "looking", "memory"}
    async with serve(tmp_path, CONFIG, store=MemoryStore(), env={"HOOK": "s3cret"}) as served:
        await until(lambda: begun == dict.fromkeys(names, 2))
        assert len(served.app._chores) == len(names)
        assert sorted(faults(served)) == sorted((name, "KeyError") for name in names)
        assert "secret" not in served.log.getvalue()
    assert begun == dict.fromkeys(names, 2)


async def test_a_price_is_read_after_a_fault_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keep_prices, "__defaults__", (0.01,))
    store, real, faulty = MemoryStore(), Catalog.reprice, [False]

    def reprice(self: Catalog, rows: list[PriceRow]) -> None:
        if faulty and faulty.pop():
            raise ZeroDivisionError
        real(self, rows)

    monkeypatch.setattr(Catalog, "reprice", reprice)
    async with serve(tmp_path, CONFIG, store=store, env={"HOOK": "s3cret"}) as served:
        faulty[:] = [True]
        await until(lambda: not faulty)
        newer = Price(1, 1, 1, 1)
        await store.price_add(PriceRow(0, "kimi-k2.5", newer, SystemClock().now_ms()))

        def priced() -> bool:
            row = served.app.catalog.price("kimi-k2.5")
            return row is not None and row.price == newer

        await until(priced)
        assert faults(served) == [("prices", "ZeroDivisionError")]


async def test_a_chore_that_is_done_is_done_and_one_that_is_cancelled_ends() -> None:
    told: list[str] = []

    async def done() -> None:
        told.append("done")

    await lasting("look", done, lambda *_, **__: told.append("fault"))
    assert told == ["done"]
    task = asyncio.create_task(
        lasting("sweep", asyncio.Event().wait, lambda *_, **__: told.append("fault"))
    )
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert told == ["done"]


async def test_a_stream_that_cannot_be_kept_open_does_not_stop_the_pulse_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("moongate.delivery._PULSE_S", 0.01)
    beats: Counter[int] = Counter()

    class Stream:
        def __init__(self, number: int) -> None:
            self.number = number

        async def beat(self) -> None:
            beats[self.number] += 1
            if self.number % 2:
                raise RuntimeError

    pulse = Pulse()
    for number in range(6):
        pulse.add(Stream(number))  # type: ignore[arg-type]  # as far as a pulse knows
    task = asyncio.create_task(lasting("pulse", pulse.run, lambda *_, **__: None))
    await until(lambda: all(beats[even] > 2 for even in (0, 2, 4)))
    assert [beats[odd] for odd in (1, 3, 5)] == [1, 1, 1]
    task.cancel()
