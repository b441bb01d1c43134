"""The ledger's speed: durable hold + settle pairs a second, and what they add to a request.

    .venv/bin/python bench/ledger.py                    SQLite, and PostgreSQL where it is here
    .venv/bin/python bench/ledger.py --postgres URL     an empty database of yours

Pairs: 256 tasks each hold and settle in turn for a few seconds, on one hot account and on 1,000,
beside an event loop that is kept half busy. The unbatched rate is one task alone: each of its pairs
waits for two commits of its own. Added: requests come at 200 a second, at even intervals, to a
gateway on SQLite and to the same gateway on the store in memory, round about; the difference of
their medians is what the ledger adds (bound: 1 ms + 2 x the fsync of the same run).
"""

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path
from statistics import median

import uvloop

import servers
from moongate.core.money import Price, Usage
from moongate.core.ports import Settlement, Store
from moongate.core.rows import AccountRow, HoldRow, PriceRow, UsageRow
from moongate.store.sqlite import SqliteStore

TASKS = 256
PRICE = Price(480, 100, 2000, 0)
BUSY_S = 0.001
RATE_PER_S = 200


async def furnish(store: Store, accounts: int) -> None:
    """Wallets with money enough, and a price."""
    for n in range(accounts):
        await store.account_create(AccountRow(f"a{n}", "wallet", 0, 0, 0, 1))
        await store.credit(f"a{n}", 10**15, "topup", f"credit-{n}", 1)
    if not await store.prices():
        await store.price_add(PriceRow(0, "m", PRICE, 1))


async def pairs(store: Store, accounts: int, seconds: float, tasks: int) -> float:
    """Hold and settle for ``seconds`` with ``tasks`` at once; pairs a second."""
    until = time.monotonic() + seconds
    done = 0

    async def one(task: int) -> None:
        nonlocal done
        number = 0
        while time.monotonic() < until:
            id = f"{accounts}-{tasks}-{task}-{number}-{time.monotonic_ns()}"
            account = f"a{(task + number * tasks) % accounts}"
            row = HoldRow(id, "key", account, "m", 10**7, 1, "bench", 60, 1)
            assert isinstance(await store.hold(row), HoldRow)
            usage = Usage(input=1000, output=200)
            end = UsageRow(
                id, "key", account, "m", "up", "done", usage, 1, 880_000, 0, 1, 2
            )  # fmt: skip
            assert await store.settle(Settlement(end))
            number += 1
            done += 1

    async def busy() -> None:
        """Keep the loop half busy, as requests do."""
        while True:
            spin = time.perf_counter() + BUSY_S
            while time.perf_counter() < spin:
                pass
            await asyncio.sleep(BUSY_S)

    load = asyncio.create_task(busy())
    began = time.monotonic()
    await asyncio.gather(*(one(task) for task in range(tasks)))
    passed = time.monotonic() - began
    load.cancel()
    return done / passed


async def measure(store: Store, seconds: float) -> dict[str, float]:
    """The three rates of one store."""
    await store.open()
    try:
        await furnish(store, 1000)
        alone = await pairs(store, 1, seconds / 2, 1)
        hot = await pairs(store, 1, seconds, TASKS)
        many = await pairs(store, 1000, seconds, TASKS)
        assert await store.self_check() == []
    finally:
        await store.close()
    return {"unbatched": round(alone), "hot": round(hot), "many": round(many)}


def postgres() -> str | None:
    """The address of an empty database in a cluster that ends with this process, if it can be."""
    sys.path.insert(0, str(servers.BENCH.parent / "tests"))
    try:
        from postgres_kit import database  # noqa: PLC0415 - only where PostgreSQL is installed

        return database()
    except (ImportError, OSError, AssertionError):
        return None


class Asker(asyncio.Protocol):
    """One connection, one request after another; the time from sending to the whole answer."""

    def __init__(self) -> None:
        self.buffer = b""
        self.answered: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Keep the transport."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Look for the answer's end."""
        self.buffer += data
        head, found, body = self.buffer.partition(b"\r\n\r\n")
        if found and b"content-length: " in head.lower():
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            if len(body) >= length and self.answered is not None:
                if not head.startswith(b"HTTP/1.1 200"):
                    sys.exit(f"refused: {body.decode()}")
                self.buffer = b""
                self.answered.set_result(None)

    async def ask(self, payload: bytes) -> float:
        """Send one; seconds until it was answered."""
        self.answered = asyncio.get_running_loop().create_future()
        began = time.perf_counter()
        self.transport.write(payload)
        await self.answered
        return time.perf_counter() - began


async def paced(server: servers.Server, seconds: float) -> list[float]:
    """``RATE_PER_S`` requests a second at even intervals; seconds that each took."""
    loop = asyncio.get_running_loop()
    port = int(server.url.split(":")[2].split("/")[0])
    body = json.dumps(
        {"model": "small", "messages": [{"role": "user", "content": "hi"}],
         "max_completion_tokens": 16}
    ).encode()  # fmt: skip
    payload = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {server.key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    ).encode() + body
    idle = [(await loop.create_connection(Asker, "127.0.0.1", port))[1] for _ in range(32)]
    took: list[float] = []
    running: set[asyncio.Task[None]] = set()

    async def one() -> None:
        asker = idle.pop() if idle else (await loop.create_connection(Asker, "127.0.0.1", port))[1]
        took.append(await asker.ask(payload))
        idle.append(asker)

    began = loop.time()
    for n in range(int(seconds * RATE_PER_S)):
        await asyncio.sleep(max(0.0, began + n / RATE_PER_S - loop.time()))
        task = asyncio.create_task(one())
        running.add(task)
        task.add_done_callback(running.discard)
    await asyncio.gather(*running)
    for asker in idle:
        asker.transport.close()
    return took[RATE_PER_S // 2 :]


def added(scratch: Path, rounds: int, seconds: float) -> dict[str, float]:
    """Median request times over SQLite and over memory, and how far apart they are (ms)."""
    took: dict[str, list[float]] = {"sqlite": [], "memory": []}
    with servers.origin() as origin:
        config = servers.CONFIG.format(origin=origin.url.split(":")[2].split("/")[0])
        config += servers.MODEL.format(id="small")
        gates = {}
        for kind in took:
            (scratch / kind).mkdir()
            gates[kind] = servers.gate(scratch / kind, config, kind)
        with gates["sqlite"] as sqlite, gates["memory"] as memory:
            for _ in range(rounds):
                for kind, server in (("sqlite", sqlite), ("memory", memory)):
                    took[kind] += uvloop.run(paced(server, seconds))
    figures = {f"{kind}_p50_ms": round(median(times) * 1e3, 3) for kind, times in took.items()}
    return {
        **figures,
        "added_p50_ms": round(figures["sqlite_p50_ms"] - figures["memory_p50_ms"], 3),
    }


async def rates(scratch: Path, url: str | None, seconds: float) -> dict[str, dict[str, float]]:
    """The pairs of each store that is here."""
    found = {"sqlite": await measure(SqliteStore(scratch / "ledger.db"), seconds)}
    address = url or postgres()
    if address is not None:
        from moongate.store.postgres import PostgresStore  # noqa: PLC0415 - an extra

        found["postgres"] = await measure(PostgresStore(address), seconds)
    return found


def main() -> None:
    """Measure, print a table, write the figures."""
    parser = argparse.ArgumentParser(description="Measures the ledger.")
    parser.add_argument("--postgres", metavar="URL", help="an empty database")
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    sys.setswitchinterval(0.002)  # as the server does
    with servers.folder() as scratch:
        fsync_ms = servers.fsync_us(scratch) / 1000
        found = uvloop.run(rates(scratch, options.postgres, options.seconds))
        extra = added(scratch, options.rounds, options.seconds)
        again_ms = servers.fsync_us(scratch) / 1000
    print(f"fsync here: {fsync_ms:.3f} ms before, {again_ms:.3f} ms after (median of 50)")
    print(f"{'pairs a second':16}{'one task':>10}{'hot account':>13}{'1,000':>10}{'hot/one':>9}")
    for name, row in found.items():
        ratio = row["hot"] / row["unbatched"]
        print(f"{name:16}{row['unbatched']:>10}{row['hot']:>13}{row['many']:>10}{ratio:>9.1f}")
    bound = 1 + 2 * max(fsync_ms, again_ms)
    print(
        f"a request at {RATE_PER_S}/s: {extra['sqlite_p50_ms']} ms with SQLite, "
        f"{extra['memory_p50_ms']} ms with the store in memory: {extra['added_p50_ms']} ms added "
        f"(bound {bound:.2f})"
    )
    figures = {"fsync_ms": fsync_ms, "pairs": found, "request": extra}
    (servers.RESULTS / "ledger.json").write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
