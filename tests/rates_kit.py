"""A slow reference for counting rates, and random schedules to hold a counter against it.

The reference is GCRA as its papers state it: a theoretical arrival time for each rate, in exact
fractions. It shares no line with the product.
"""

import secrets
from dataclasses import dataclass, field
from fractions import Fraction

import asyncpg
import msgspec
from hypothesis import strategies as st
from redis.asyncio import Redis

from moongate.access.counter import LocalCounter
from moongate.access.redis_counter import SCRIPT, RedisCounter
from moongate.core.ports import ManualClock
from moongate.core.rates import Answer, Ask, Counter, Rate, Room
from moongate.store.postgres_rates import PostgresCounter

MINUTE_MS = 60_000
LEASE_MS = 30_000


@dataclass
class Reference:
    """Counts as the papers say. ``now`` is in milliseconds."""

    now: int = 0
    tat: dict[str, Fraction] = field(default_factory=dict)  # when nothing will be owed
    places: dict[str, dict[str, int]] = field(default_factory=dict)

    def debt_ms(self, rate: Rate) -> Fraction:
        """How long what is owed takes to drain; two minutes at most."""
        return min(
            max(Fraction(0), self.tat.get(rate.name, Fraction(0)) - self.now),
            Fraction(2 * MINUTE_MS),
        )

    def ask(self, ask: Ask) -> tuple[bool, int, list[int]]:
        """(passed, wait in ms, milliseconds until each rate owes nothing)."""
        for room in ask.rooms:
            held = self.places.setdefault(room.name, {})
            self.places[room.name] = {id: end for id, end in held.items() if end > self.now}
        if ask.kind == "take":
            waits = [0]
            for rate in ask.rates:
                step = Fraction(min(rate.amount, rate.limit) * MINUTE_MS, rate.limit)
                late = self.debt_ms(rate) + step - MINUTE_MS
                waits.append(max(0, -(-late.numerator // late.denominator)))
            waits += [1000 for r in ask.rooms if len(self.places[r.name]) >= r.limit]
            if max(waits):
                return False, max(waits), self.resets(ask)
        for rate in ask.rates:
            step = Fraction(rate.amount * MINUTE_MS, rate.limit)
            owed = min(max(Fraction(0), self.debt_ms(rate) + step), Fraction(2 * MINUTE_MS))
            self.tat[rate.name] = self.now + owed
        for room in ask.rooms:
            for id in ask.ids:
                self.places[room.name].pop(id, None)
                if ask.kind != "drop":
                    self.places[room.name][id] = self.now + LEASE_MS
        return True, 0, self.resets(ask)

    def resets(self, ask: Ask) -> list[int]:
        debts = [self.debt_ms(rate) for rate in ask.rates]
        return [-(-debt.numerator // debt.denominator) for debt in debts]


class Timed:
    """A counter whose time the test moves, and a fresh account on it."""

    counter: Counter

    def __init__(self) -> None:
        self.account = secrets.token_hex(8)

    async def advance(self, ms: int) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        await self.counter.close()

    async def count(self, ask: Ask) -> Answer:
        """Ask it of an account of this test's own."""
        account = f"{self.account}-{ask.account}"
        return await self.counter.ask(msgspec.structs.replace(ask, account=account))


class TimedLocal(Timed):
    """The counter of one process on a manual clock."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.counter = LocalCounter(self.clock, LEASE_MS)

    async def advance(self, ms: int) -> None:
        self.clock.advance(ms / 1000)


class TimedRedis(Timed):
    """The script of the product, reading its time from a key that the test sets."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.now_ms, self.set_ms = 1_800_000_000_000, 0
        self.clock = Redis.from_url(url, protocol=2)
        script = SCRIPT.replace("redis.call('TIME')", "redis.call('LRANGE', 'test-clock', 0, 1)")
        assert script != SCRIPT
        # Keys would be forgotten by the server's own clock, which stands still for the test.
        script = script.replace("'PX', FORGOTTEN", "'PX', 3600000")
        script = script.replace("'PEXPIRE', KEYS[i], lease", "'PEXPIRE', KEYS[i], 3600000")
        self.counter = RedisCounter(url, lease_ms=LEASE_MS, timeout_s=10, script=script)

    async def advance(self, ms: int) -> None:
        self.now_ms += ms

    async def count(self, ask: Ask) -> Answer:
        await self._set()
        return await super().count(ask)

    async def close(self) -> None:
        await super().close()
        await self.clock.aclose()

    async def _set(self) -> None:
        if self.set_ms == self.now_ms:
            return
        self.set_ms = self.now_ms
        seconds, ms = divmod(self.now_ms, 1000)
        async with self.clock.pipeline(transaction=True) as pipe:
            pipe.delete("test-clock")
            pipe.rpush("test-clock", str(seconds), str(ms * 1000))
            await pipe.execute()


class TimedPostgres(Timed):
    """The function of the product, in a database whose clock the test sets."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url, self.now_ms, self.set_ms = url, 1_800_000_000_000, 0
        self.clock: asyncpg.Connection | None = None
        self.counter = PostgresCounter(url, lease_ms=LEASE_MS, patience_s=10)

    async def advance(self, ms: int) -> None:
        self.now_ms += ms

    async def count(self, ask: Ask) -> Answer:
        if self.clock is None:
            self.clock = await asyncpg.connect(self.url)
            await self.clock.execute("INSERT INTO manual_clock VALUES (0)")
            await self.clock.execute("SET synchronous_commit = off")
        if self.set_ms != self.now_ms:
            await self.clock.execute("UPDATE manual_clock SET at_ms = $1", self.now_ms)
            self.set_ms = self.now_ms
        return await super().count(ask)

    async def close(self) -> None:
        await super().close()
        if self.clock is not None:
            await self.clock.close()


# A step of a schedule: what to ask, and how long to wait before.
LIMITS = {
    "k:requests": 7,
    "k:tokens": 1000,
    "account:requests": 11,
    "account:tokens": 1_000_000_000,
}
ROOMS = {"k:answers": 2, "account:answers": 3}
STEPS = st.tuples(
    st.integers(0, 45_000) | st.sampled_from([0, 1, 59_999, 60_000, 120_000, 200_000]),
    st.sampled_from(["take", "take", "take", "keep", "drop"]),
    st.sampled_from(["a", "b", "c", "d", "e"]),
    st.sets(st.sampled_from(sorted(LIMITS))),
    st.sets(st.sampled_from(sorted(ROOMS))),
    st.integers(0, 2500),
    st.booleans(),
)
SCHEDULES = st.lists(STEPS, min_size=5, max_size=40)


def asked(step: tuple) -> Ask:
    """The step's ask: a request, tokens, and places for one id."""
    _, kind, id, names, rooms, tokens, back = step
    rates = []
    for name in sorted(names):
        amount = 1 if name.endswith("requests") else tokens
        rates.append(Rate(name, LIMITS[name], -amount if back and kind != "take" else amount))
    return Ask("acc", kind, (id,), tuple(rates), tuple(Room(n, ROOMS[n]) for n in sorted(rooms)))


async def agree(timed: Timed, schedule: list[tuple]) -> int:
    """Run ``schedule`` on the counter and on the reference; returns how many were refused."""
    timed.account = secrets.token_hex(8)
    reference = Reference()
    refused = 0
    for step in schedule:
        reference.now += step[0]
        await timed.advance(step[0])
        ask = asked(step)
        answer = await timed.count(ask)
        passed, wait, resets = reference.ask(ask)
        assert (answer.refused < 0) == passed, (ask, answer)
        assert answer.wait_ms == wait, (ask, answer)
        assert [-(-o // r.limit) for o, r in zip(answer.owed, ask.rates, strict=True)] == resets
        refused += not passed
    return refused


def take(id: str, *rates: Rate, rooms: tuple[Room, ...] = (), account: str = "acc") -> Ask:
    return Ask(account, "take", (id,), rates, rooms)


def passed(answers: list[Answer]) -> int:
    return sum(answer.refused < 0 for answer in answers)
