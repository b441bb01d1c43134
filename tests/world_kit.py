"""A simulated world: one gateway after another on one store, clients, upstreams and troubles.

Everything that happens is chosen by the seed. :meth:`World.live` plays it; what was heard and what
the books say is then held against each other in :meth:`World.complaints`.
"""

import asyncio
import hashlib
import io
import json
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from moongate.app.application import Application
from moongate.app.repricing import keep_prices
from moongate.core.money import Price
from moongate.core.rows import BudgetRow, PriceRow, Quota, UsageRow
from moongate.home import Home
from moongate.log import Log
from moongate.settings import load
from moongate.store.memory import MemoryStore
from moongate.visit import Admit, Visit
from moongate.wire.chat import ChatCodec
from sim_kit import START_MS, FakeUpstream, Mortal, SimClock, SimLoop, SimReply

CONFIG: Final = """
[[upstreams]]
name = "moonshot"
kind = "moonshot"
base_url = "http://127.0.0.1:9/v1"

[[upstreams]]
name = "second"
kind = "vllm"
base_url = "http://127.0.0.1:9/v1"

[[models]]
id = "kimi-k2.5"
targets = [
  { upstream = "moonshot", model = "kimi-k2.5" },
  { upstream = "second", model = "kimi-k2.5" },
]
price = { input = "0.48", cached = "0.10", output = "2.00", search = "0.005" }

[ledger]
hold_first = 20
hold_step = 30
hold_low = 5
"""
ACCOUNTS: Final = ("acme", "bert", "cleo")
EVERY_S: Final = 1.0
"""On average a request comes so often."""


class Try:
    """One request that reached a gateway: who asked, what was heard, how it ended."""

    def __init__(self, id: str, account: str, name: str | None, reply: SimReply) -> None:
        self.id, self.account, self.name, self.reply = id, account, name, reply
        self.end = "heard"


class World:
    """One seed's world."""

    def __init__(self, seed: int, requests: int, folder: Path) -> None:
        self.seed, self.requests, self.folder = seed, requests, folder
        self.dice = random.Random(seed)
        self.store = MemoryStore()
        self.ups = {name: FakeUpstream(name, seed) for name in ("moonshot", "second")}
        self.app: Application | None = None
        self.mortals: list[Mortal] = []
        self.graveyard: list[Mortal] = []
        self.lives = 0
        self.tries: list[Try] = []
        self.secrets: dict[str, str] = {}
        self.credited: Counter[str] = Counter()
        self.events: list[str] = []
        self.log = io.StringIO()

    def note(self, what: str) -> None:
        self.events.append(f"{self.loop.time():.6f} {what}")

    @property
    def digest(self) -> str:
        """The hash of everything that happened."""
        return hashlib.sha256("\n".join(self.events).encode()).hexdigest()

    def play(self) -> None:
        """Live, in a loop of this seed."""
        loops: list[SimLoop] = []

        def make() -> SimLoop:
            loops.append(SimLoop(self.seed))
            return loops[0]

        with asyncio.Runner(loop_factory=make) as runner:
            runner.run(self.live())
        self.troubles = loops[0].troubles

    async def live(self) -> None:
        """Play everything, and let it come to rest."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimLoop)
        self.loop, self.clock = loop, SimClock(loop)
        await self.be_born()
        await self.furnish()
        span_s = self.requests * EVERY_S
        fates = [self.fate(span_s), self.trade(span_s)]
        async with asyncio.TaskGroup() as group:
            for fate in fates:
                group.create_task(fate)
            for n in range(self.requests):
                group.create_task(self.client(n, self.dice.random() * span_s))
        self.store.trouble = None
        await asyncio.sleep(400)  # leases and grace of the dead run out
        await self.end()
        for row in await self.store.usage():
            self.note(f"{row.hold} {row.outcome} {row.charge_nanos} {row.forgiven_nanos}")

    async def end(self) -> None:
        """Nothing runs on, not even what the dead left waiting."""
        app = self.app
        assert app is not None
        for chore in app._chores:
            chore.cancel()
        await asyncio.gather(*app._chores, return_exceptions=True)
        await app.gateway.limits.close()
        await app.book.drain()
        app.journal.close()
        for mortal in self.graveyard:
            mortal.bury()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            _, left = await asyncio.wait(others, timeout=600)
            assert not left, left

    async def be_born(self) -> None:
        """A gateway on what the last one left. It has no sockets."""
        self.lives += 1
        file = self.folder / "moongate.toml"
        file.write_text(CONFIG)
        store = Mortal(self.store)
        app = Application(
            load(file, {}),
            Home(self.folder / "home").open(),
            store=store,  # type: ignore[arg-type]  # a store that a process can lose
            upstreams=self.ups,
            clock=self.clock,
            log=Log(self.log, as_json=True),
        )
        app.journal.open()
        journal = Mortal(app.journal)
        app.book.journal = journal  # type: ignore[assignment]  # likewise
        await app.sweep.recover()
        if self.lives == 1:
            price = app.settings.prices()["kimi-k2.5"]
            await self.store.price_add(PriceRow(0, "kimi-k2.5", price, START_MS))
        app.catalog.reprice(await self.store.prices())
        app._chores = [
            asyncio.create_task(app.sweep.run()),
            asyncio.create_task(keep_prices(store, app.catalog, app.clock)),  # type: ignore[arg-type]  # likewise
            asyncio.create_task(app.gateway.passage.pulse.run()),
            asyncio.create_task(app.gateway.limits.run()),
        ]
        self.mortals = [store, journal]
        self.death = asyncio.Event()
        self.app = app
        self.note("a gateway is born")

    async def furnish(self) -> None:
        """Accounts with much money and little, a key each, a budget; the last key has rates."""
        assert self.app is not None
        for n, account in enumerate(ACCOUNTS):
            quota = Quota(rpm=30, tpm=20_000, concurrency=4) if n == 2 else Quota()
            row, self.secrets[account] = await self.app.keys.create(
                account=account, name=account, quota=quota
            )
            await self.credit(account, (20_000_000, 10_000_000, 1_500_000)[n])
            if n == 1:
                self.budget = BudgetRow("b", account, "key", row.id, "day", 5_000_000, START_MS)
                await self.store.budget_set(self.budget)

    async def credit(self, account: str, nanos: int) -> None:
        """A top-up whose webhook comes twice."""
        tx = f"t{sum(self.credited.values())}-{account}"
        both = [self.store.credit(account, nanos, "topup", tx, self.clock.now_ms()) for _ in "12"]
        assert sorted(await asyncio.gather(*both)) == [False, True]
        self.credited[account] += nanos

    async def fate(self, span_s: float) -> None:
        """The store fails for a while, the gateway is killed, again and again."""
        dice = random.Random(f"{self.seed}/fate")
        while self.loop.time() < span_s:
            await asyncio.sleep(dice.random() * 40)
            if dice.random() < 0.5:
                self.store.trouble = "gone"
                await asyncio.sleep(dice.choice((0.05, 1.0, 8.0)))
                self.store.trouble = None
            else:
                self.kill()
                await asyncio.sleep(dice.random() * 2)
                await self.be_born()

    def kill(self) -> None:
        """kill -9: nothing of the gateway runs on, its connections break, its files are free."""
        app, self.app = self.app, None
        assert app is not None
        self.note("it is killed")
        for mortal in self.mortals:
            mortal.dead = True
        self.graveyard += self.mortals
        for chore in app._chores:
            chore.cancel()
        app.journal.close()
        self.death.set()

    async def trade(self, span_s: float) -> None:
        """Top-ups, other prices, another cap."""
        dice = random.Random(f"{self.seed}/trade")
        while self.loop.time() < span_s:
            await asyncio.sleep(dice.random() * 20)
            with suppress(Exception):  # the store may be in trouble: then it did not happen
                match dice.randrange(3):
                    case 0:
                        await self.credit(dice.choice(ACCOUNTS), dice.randrange(1, 300_000))
                    case 1:
                        price = Price(*(dice.randrange(3_000) for _ in range(3)))
                        row = PriceRow(0, "kimi-k2.5", price, self.clock.now_ms())
                        await self.store.price_add(row)
                    case _:
                        self.budget = BudgetRow(
                            "b", self.budget.account, "key", self.budget.subject, "day",
                            self.budget.cap_nanos + dice.randrange(1_000_000), START_MS,
                        )  # fmt: skip
                        await self.store.budget_set(self.budget)

    async def client(self, n: int, at_s: float) -> None:
        """One request, and again where it was told or found that it may be."""
        dice = random.Random(f"{self.seed}/client/{n}")
        account = dice.choice(ACCOUNTS)
        name = f"order-{dice.randrange(self.requests // 4)}" if dice.random() < 0.4 else None
        about = random.Random(name) if name else dice
        body = {
            "model": "kimi-k2.5",
            "messages": [{"role": "user", "content": name or "x" * dice.randrange(1, 200)}],
            "stream": about.random() < 0.5,
            "max_completion_tokens": about.choice((10, 60, 300, 5_000)),
        }
        await asyncio.sleep(at_s)
        for attempt in range(3):
            id = f"req_{n:08x}{attempt:024x}"
            one = await self.ask(id, account, name, json.dumps(body).encode(), dice)
            if one is not None and one.end == "left":
                return
            if one is not None and one.end == "heard" and one.reply.status not in {409, 502, 503}:
                return
            await asyncio.sleep(dice.random() * 5)

    async def ask(
        self, id: str, account: str, name: str | None, body: bytes, dice: random.Random
    ) -> Try | None:
        """One request to the gateway that there is; ``None``: nobody listens."""
        app = self.app
        if app is None:
            return None
        reply = SimReply(dice.choice((0.0, 0.0, 0.0, 0.2)))

        async def read(admit: Admit) -> bytes:
            await asyncio.sleep(dice.random() * 0.1)
            await admit(len(body))
            return body

        one = Try(id, account, name, reply)
        self.tries.append(one)
        visit = Visit(id, self.secrets[account], read, reply, name)
        work = asyncio.create_task(app.gateway.handle(ChatCodec(), visit))
        dead = asyncio.create_task(self.death.wait())
        patience_s = dice.random() * 12 if dice.random() < 0.25 else None
        await asyncio.wait({work, dead}, timeout=patience_s, return_when="FIRST_COMPLETED")
        if self.app is not app:
            reply.gone, one.end = True, "broken"
        elif not work.done():
            reply.gone, one.end = True, "left"
            work.cancel()
            await asyncio.wait({work, dead}, return_when="FIRST_COMPLETED")
        dead.cancel()
        self.note(f"{id} {one.end} {reply.status} {reply.cost} {len(reply.data)}")
        return one

    async def rows(self) -> dict[str, UsageRow]:
        return {row.hold: row for row in await self.store.usage()}

    def complaints(self) -> Iterator[str]:
        """What the books and what was heard say against each other."""
        tables = self.store.tables
        yield from self.troubles
        if '"fault"' in self.log.getvalue():
            yield "a fault of ours"
        for one in self.tries:
            yield from self._about(one, tables.usage.get(one.id))
        for row in tables.accounts.values():
            if row.held_nanos:
                yield f"{row.id} holds {row.held_nanos}"
        for account in ACCOUNTS:
            spent = sum(r.charge_nanos for r in tables.usage.values() if r.account == account)
            if tables.accounts[account].posted_nanos != self.credited[account] - spent:
                yield f"{account} did not fall by its charges"
            purse = 0
            for entry in tables.entries:
                purse += entry.amount_nanos if entry.account == account else 0
                if purse < 0:
                    yield f"{account} was overdrawn at {entry.tx}"
        charged = Counter(
            (one.account, one.name)
            for one in self.tries
            if one.name and one.id in tables.usage and tables.usage[one.id].charge_nanos
        )
        yield from (f"{key} was charged {n} times" for key, n in charged.items() if n > 1)

    def _about(self, one: Try, row: UsageRow | None) -> Iterator[str]:
        charge = 0 if row is None else row.charge_nanos
        status, cost = one.reply.status, one.reply.cost
        if one.end == "heard" and not one.reply.over:
            yield f"{one.id} was let down"
        if cost is not None and (row is None or charge != cost):
            yield f"{one.id} was told {cost}, the books say {charge}"
        if one.end == "heard" and cost is None and charge:
            yield f"{one.id} heard {status} and paid {charge}"
        if row is not None and row.outcome == "client_left" and charge:
            sent = max(up.sent[one.id] for up in self.ups.values())
            if not sent - 1 <= row.usage.output <= sent:
                yield f"{one.id} left, {sent} tokens were sent and {row.usage.output} billed"

    def seen(self) -> dict[str, Any]:
        """What came to pass, in figures."""
        outcomes = Counter(row.outcome for row in self.store.tables.usage.values())
        statuses = Counter(one.reply.status for one in self.tries if one.end == "heard")
        ends = Counter(one.end for one in self.tries)
        return {"lives": self.lives, **outcomes, **{str(k): v for k, v in statuses.items()}, **ends}
