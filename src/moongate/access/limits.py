"""The gate of every paid request: it enters, holds a lease, and leaves whatever happens.

Entering takes one of the process's own places and costs nothing that is shared. Once the request
is read, ``admit`` asks the counter for everything at once: one request and the tokens that it may
need of its key and of its account, and a place among the answers of each; all is taken, or nothing
is and the caller is told when to ask again. ``debit`` takes more as the answer grows and is never
refused; ``close`` puts what was really used in place of what was taken.

    with limits.enter(principal) as lease:
        body = await visit.body(lease.bytes)    # Refused: 503 when the process is full
        await lease.admit(visit.id, tokens)     # Refused: 429 with its headers
        headers.update(lease.headers())
        ...
        await lease.debit(slice)
        await lease.close(used)                 # before the client sees the end

The gate knows neither who counts nor what a request says.
"""

import asyncio
from collections import Counter as Counts
from collections import defaultdict
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final, Literal

from moongate.access.bodies import Bodies
from moongate.access.keys import Principal
from moongate.access.ladder import Ladder
from moongate.core.errors import Refused
from moongate.core.rates import LEASE_MS, Answer, Ask, Counter, Rate, Room, left, reset_ms

REQUESTS_MAX: Final = 2_000
"""Requests in flight in one process; more are told to come back."""
CONCURRENCY: Final = 100
"""Answers at once of a key that has no figure of its own.

Above what a client asks at once who tries how far a small wallet goes: that one is to hear of money
(402), not of a rate.
"""

_DIMENSIONS: Final = {
    "requests": "requests per minute",
    "tokens": "tokens per minute",
    "answers": "concurrent requests",
}


class RateLimited(Refused):
    """A refusal for a rate, with the headers that tell how the rates stand."""

    def __init__(self, dimension: str, wait_ms: int, standing: dict[str, str]) -> None:
        super().__init__("rate_limit_exceeded", retry_after_s=wait_ms / 1000, dimension=dimension)
        self._standing = standing

    def headers(self) -> dict[str, str]:
        return {**self._standing, **super().headers()}


class Lease:
    """One request inside the gate. Nothing is counted before :meth:`admit` or after the end."""

    def __init__(self, limits: "Limits", principal: Principal) -> None:
        self._limits = limits
        self.principal = principal
        self.size = 0
        self.id = ""
        self._tokens: tuple[Rate, ...] = ()
        self._taken: list[int] = []
        self._headers: dict[str, str] = {}

    async def bytes(self, count: int) -> None:
        """Admit so many bytes more of the request. Raises Refused (503) for want of room."""
        await self._limits.bodies.take(count, self.principal.account)
        self.size += count

    async def admit(self, id: str, tokens: int) -> None:
        """Take one request of ``tokens`` and a place for ``id``. Raises Refused (429).

        ``tokens`` is the most that the prompt and the first slice of output can be. What exceeds a
        whole minute's worth counts as that much, so that a large request passes when nothing is
        owed. A second call takes the tokens alone: the request and the place are taken.
        """
        first, rates = not self.id, _rates(self.principal, tokens)
        rooms = _rooms(self.principal) if first else ()
        self._tokens = tuple(rate for rate in rates if rate.name.endswith(":tokens"))
        self._taken = [rate.amount for rate in self._tokens]
        if not first and not (rates := self._tokens):
            return
        self.id = id  # from here on, whatever was taken is given back
        answer = await self._limits.ask(Ask(self.principal.account, "take", (id,), rates, rooms))
        self._headers |= _standing(rates, answer)
        if answer.refused >= 0:
            self.id, self._taken = "" if first else id, [0] * len(self._taken)
            name = [*(rate.name for rate in rates), *(room.name for room in rooms)][answer.refused]
            dimension = _DIMENSIONS[name.partition(":")[2]]
            raise RateLimited(dimension, answer.wait_ms, self.headers())
        self._limits.leases.add(self)

    async def debit(self, tokens: int) -> None:
        """Take more tokens for an answer that goes on; never refused."""
        if self.id and self._tokens:
            self._taken = [taken + tokens for taken in self._taken]
            amounts = [tokens] * len(self._tokens)
            await self._limits.ask(self._after("keep", amounts))

    async def close(self, used_tokens: int | None = None) -> None:
        """Give the place back, and what was taken beyond ``used_tokens`` (prompt and output).

        ``None``: what was taken stays. Only the first call counts; a caller that is cancelled
        meanwhile loses nothing.
        """
        task = self.leave(used_tokens)
        if task is not None:
            await asyncio.shield(task)

    def leave(self, used_tokens: int | None = None) -> asyncio.Task[Any] | None:
        """Begin what :meth:`close` does; ``None`` when there is nothing to give back."""
        if not self.id:
            return None
        spare = [0 if used_tokens is None else used_tokens - taken for taken in self._taken]
        ask = self._after("drop", spare)
        self.id = ""
        self._limits.leases.discard(self)
        return self._limits.spawn(self._limits.ask(ask))

    def headers(self) -> dict[str, str]:
        """How the rates stood at the admission; of key and account, the one with less left."""
        return dict(self._headers)

    def _after(self, kind: Literal["keep", "drop"], amounts: list[int]) -> Ask:
        rates = tuple(
            Rate(rate.name, rate.limit, amount)
            for rate, amount in zip(self._tokens, amounts, strict=True)
        )
        return Ask(self.principal.account, kind, (self.id,), rates, _rooms(self.principal))


class Limits:
    """The gate. ``running`` is how many requests are inside, ``leases`` those that were admitted.

    :meth:`run` renews the leases' places; nothing else of it is needed where one process counts.
    """

    def __init__(
        self,
        counter: Counter,
        *,
        requests_max: int = REQUESTS_MAX,
        bodies: Bodies | None = None,
        lease_ms: int = LEASE_MS,
    ) -> None:
        self._counter, self._max = counter, requests_max
        self.bodies = bodies or Bodies()
        self._renew_s = lease_ms / 3000
        self.running = 0
        self._inside: Counts[str] = Counts()
        self.leases: set[Lease] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def degraded(self) -> bool:
        """Whether the shared counter is gone, and this process keeps to its share."""
        return isinstance(self._counter, Ladder) and self._counter.degraded

    async def start(self) -> None:
        """Make the counter ready."""
        await self._counter.start()

    async def idle(self, patience_s: float) -> bool:
        """Wait until nobody is inside; False when that took longer than ``patience_s``."""
        try:
            async with asyncio.timeout(patience_s):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True

    @contextmanager
    def enter(self, principal: Principal) -> Iterator[Lease]:
        """Let ``principal`` in. Raises Refused: 503 when the process is full, 429 for a crowd.

        A key has twice as many here as it may have answers: a body that comes slowly takes a place
        too, and nobody is to take all of them so.
        """
        if self.running >= self._max:
            raise Refused("overloaded", retry_after_s=1)
        own = principal.quota.concurrency
        if self._inside[principal.key] >= 2 * (CONCURRENCY if own is None else own):
            raise RateLimited(_DIMENSIONS["answers"], 1000, {})
        self._inside[principal.key] += 1
        self.running += 1
        self._empty.clear()
        lease = Lease(self, principal)
        try:
            yield lease
        finally:
            lease.leave()
            self.bodies.give(lease.size, principal.account)
            self._inside[principal.key] -= 1
            if not self._inside[principal.key]:
                del self._inside[principal.key]
            self.running -= 1
            if not self.running:
                self._empty.set()

    async def request(self, principal: Principal) -> dict[str, str]:
        """Take one request of the rates and nothing else, for a look that generates nothing.

        Returns the headers that tell how these rates stand. Raises Refused (429).
        """
        rates = tuple(rate for rate in _rates(principal, 0) if rate.name.endswith(":requests"))
        if not rates:
            return {}
        answer = await self.ask(Ask(principal.account, "take", (), rates))
        standing = _standing(rates, answer)
        if answer.refused >= 0:
            raise RateLimited(_DIMENSIONS["requests"], answer.wait_ms, standing)
        return standing

    async def ask(self, ask: Ask) -> Answer:
        """One step of counting."""
        return await self._counter.ask(ask)

    async def run(self) -> None:
        """Renew the places of what runs until cancelled."""
        while True:
            await asyncio.sleep(self._renew_s)
            await self.renew()

    async def renew(self) -> None:
        """Renew every place once, one step for each key."""
        ids: dict[tuple[str, tuple[Room, ...]], list[str]] = defaultdict(list)
        for lease in self.leases:
            ids[lease.principal.account, _rooms(lease.principal)].append(lease.id)
        for (account, rooms), held in ids.items():
            await self._counter.ask(Ask(account, "keep", tuple(held), (), rooms))

    async def close(self) -> None:
        """Wait for what was being given back."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._counter.close()

    def spawn(self, work: Coroutine[Any, Any, Answer]) -> asyncio.Task[Any]:
        """Do ``work`` whatever happens to the request that began it."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _rates(principal: Principal, tokens: int) -> tuple[Rate, ...]:
    """One request of ``tokens``, of the key's rates and of the account's."""
    rates = []
    for scope, quota in ((principal.key, principal.quota), ("account", principal.account_quota)):
        if quota.rpm is not None:
            rates.append(Rate(f"{scope}:requests", quota.rpm, 1))
        if quota.tpm is not None:
            rates.append(Rate(f"{scope}:tokens", quota.tpm, min(tokens, quota.tpm)))
    return tuple(rates)


def _rooms(principal: Principal) -> tuple[Room, ...]:
    own = principal.quota.concurrency
    rooms = [Room(f"{principal.key}:answers", CONCURRENCY if own is None else own)]
    if principal.account_quota.concurrency is not None:
        rooms.append(Room("account:answers", principal.account_quota.concurrency))
    return tuple(rooms)


def _standing(rates: tuple[Rate, ...], answer: Answer) -> dict[str, str]:
    """The headers: of each dimension, the rate with least left, else longest to be whole again."""
    tightest: dict[str, tuple[int, int, int]] = {}
    for rate, owed, limit in zip(rates, answer.owed, answer.limits, strict=True):
        dimension = rate.name.partition(":")[2]
        found = (left(owed, limit), -reset_ms(owed, limit), rate.limit)
        tightest[dimension] = min(found, tightest.get(dimension, found))
    headers = {}
    for dimension, (remaining, reset, limit) in tightest.items():
        headers[f"x-ratelimit-limit-{dimension}"] = str(limit)
        headers[f"x-ratelimit-remaining-{dimension}"] = str(remaining)
        headers[f"x-ratelimit-reset-{dimension}"] = duration(-reset)
    return headers


def duration(ms: int) -> str:
    """Milliseconds as OpenAI's headers spell them: ``17ms``, ``8.64s``, ``6m0s``, ``1h2m0s``."""
    if 0 < ms < 1000:
        return f"{ms}ms"
    minutes, rest = divmod(ms, 60_000)
    hours, minutes = divmod(minutes, 60)
    seconds, part = divmod(rest, 1000)
    fraction = f".{part:03d}".rstrip("0").rstrip(".")
    text = f"{seconds}{fraction}s"
    if minutes or hours:
        text = f"{minutes}m{text}"
    return f"{hours}h{text}" if hours else text
