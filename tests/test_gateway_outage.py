"""The database goes away under streams: new work hears of it at once, what runs is booked."""

import asyncio
import signal
import statistics
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from chaos_kit import Chaos, chaos
from leaving_kit import Visitor
from moongate.store.postgres import PostgresStore
from moongate.store.postgres_pool import PATIENCE_S
from moongate.upstream.scripted import ScriptedServer
from postgres_kit import NUMBERS, Cluster
from serving_kit import ONE_UPSTREAM, Served, ask, serve

pytestmark = pytest.mark.postgres
STREAMS, PIECES = 6, 50
SLOW: Final = "\n".join(
    [*[f"text w{n},\ndelay 0.06" for n in range(PIECES)], f"usage prompt=50 completion={PIECES}"]
)
COST: Final = 50 * 480 + PIECES * 2_000
SLICES: Final = "[ledger]\nhold_first = 20\nhold_step = 10\nhold_low = 5\n"
GONE_S: Final = 0.25
LEEWAY_S: Final = 0.1
"""What a busy test machine may add to the worst of all, beside its own hiccups."""


@dataclass
class Site:
    """A server, and all that lies between it and its rows."""

    served: Served
    proxy: Chaos
    own: Cluster


@pytest.fixture(scope="module")
def own() -> Iterator[Cluster]:
    """A cluster that may be hurt."""
    it = Cluster()
    try:
        yield it
    finally:
        it.remove()


@asynccontextmanager
async def site(folder: Path, own: Cluster) -> AsyncIterator[Site]:
    name = f"t{next(NUMBERS)}"
    own.psql("postgres", f"CREATE DATABASE {name};")
    async with ScriptedServer(SLOW) as scripted, chaos(own.port) as proxy:
        url = own.url(name, proxy.port)
        config = ONE_UPSTREAM.format(kind="moonshot", base_url=scripted.base_url)
        config += f'\n[store]\nurl = "{url}"\n{SLICES}'
        async with serve(folder, config, store=PostgresStore(url, patience_s=10)) as served:
            yield Site(served, proxy, own)


def silent(it: Site) -> Callable[[], None]:
    it.proxy.blackhole = True
    return it.proxy.mend


def refusing(it: Site) -> Callable[[], None]:
    it.proxy.refuse = True
    it.proxy.reset()
    return it.proxy.mend


def stopped_by_a_signal(it: Site) -> Callable[[], None]:
    it.own.signal(signal.SIGSTOP)
    return lambda: it.own.signal(signal.SIGCONT)


def crashed(it: Site) -> Callable[[], None]:
    it.own.stop(signal.SIGQUIT)
    return it.own.start


TROUBLES: Final = {
    "silent": silent,
    "refusing": refusing,
    "SIGSTOP": stopped_by_a_signal,
    "crashed, then started again": crashed,
}


def patient(served: Served, patience_s: float) -> None:
    """How long the server's store waits for a silent database."""
    served.app.store._pool._patience_s = patience_s  # type: ignore[attr-defined]  # PostgreSQL's


async def hiccups(worst_s: list[float]) -> None:
    """Note the longest time for which this machine did nothing of ours."""
    while True:
        began = time.monotonic()
        await asyncio.sleep(0.005)
        worst_s[0] = max(worst_s[0], time.monotonic() - began - 0.005)


async def refused_at_once(served: Served, count: int) -> list[float]:
    """Ask for new work again and again; how long each answer took (seconds), sorted."""
    times = []
    for _ in range(count):
        began = time.monotonic()
        reply = await served.post(ask())
        text = await reply.text()
        times.append(time.monotonic() - began)
        assert (reply.status, "ledger_unavailable" in text) == (503, True), text
        assert reply.headers["retry-after"]
        await asyncio.sleep(0.05)
    return sorted(times)


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_the_database_goes_away_under_streams(
    tmp_path: Path, own: Cluster, trouble: str
) -> None:
    async with site(tmp_path, own) as it:
        served = it.served
        before, _ = await served.wallet()
        streams = [
            await Visitor.call(served, ask(f"{n}", stream=True, max_completion_tokens=100))
            for n in range(STREAMS)
        ]
        for stream in streams:
            await stream.read_chunks(3)
        patient(served, PATIENCE_S)  # as it is; before, a busy machine is not what is tested
        mend, lag_s = TROUBLES[trouble](it), [0.0]
        watching = asyncio.create_task(hiccups(lag_s))
        try:
            times = await refused_at_once(served, 12)
            watching.cancel()
            texts = [await stream.read_all() for stream in streams]
            pending = len(served.app.journal.pending)
        finally:
            mend()
            patient(served, 10)
        for stream in streams:
            stream.drop()
        print(
            f"{trouble}: 503 after {statistics.median(times) * 1e3:.0f} ms (median), "
            f"{times[-1] * 1e3:.0f} ms (worst of {len(times)}); {STREAMS} streams ended, "
            f"{pending} bookings in the journal"
        )
        assert all(text.count(b'"content":"w') == PIECES for text in texts)
        assert all(b"data: [DONE]" in text for text in texts)
        assert statistics.median(times) <= GONE_S
        assert times[-1] <= GONE_S + LEEWAY_S + 2 * lag_s[0]
        await back(it)
        rows = [row for row in await served.usage() if row.outcome == "done"]
        assert len(rows) == STREAMS
        shown = [int(text.rsplit(b'"cost_nanos":', 1)[1].split(b"}")[0]) for text in texts]
        assert sorted(row.charge_nanos for row in rows) == sorted(shown)
        assert all(row.charge_nanos + row.forgiven_nanos == COST for row in rows)
        assert await served.wallet() == (before - sum(shown), 0)
        await served.sound()


async def back(it: Site) -> None:
    """Wait until the server serves again, and everything is booked."""
    served = it.served
    ready = served.url.removesuffix("/v1") + "/readyz"
    async with asyncio.timeout(60):
        while served.app.journal.pending or (await served.http.get(ready)).status != 200:
            await asyncio.sleep(0.2)
    await served.quiet()
