"""Who may use which of the engine's slots: a slot's prompt cache never serves two organisations.

There are more slots than answers at once: those at rest are the prompt cache. A slot belongs to
the tenant that used it last and is erased before another one gets it; among its own a tenant gets
the one that holds most of its prompt. What has rested longest is erased first, as soon as all that
rests is more than may be kept, or in the way of what is at work. For that the table keeps counts
and keyed digests of prompt prefixes, whose key lives and dies with the process; it keeps no token
and no text.
"""

import asyncio
import hashlib
import secrets
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

from moongate.core.errors import UpstreamDown, UpstreamOverloaded

BLOCK_TOKENS: Final = 64
CACHED_TOKENS_MIN: Final = 256
"""Kimi caches a prompt that has more tokens than this; fewer in common are no hit."""
RESTING: Final = 12
"""Slots beyond the answers at once; each costs next to nothing, what it holds costs memory."""
LIFETIME_S: Final = 3600.0
"""Seconds that a prompt is kept after its last use."""
WAITING_MAX: Final = 64
_HIT_BLOCKS: Final = CACHED_TOKENS_MIN // BLOCK_TOKENS
WAIT_S: Final = 600.0

Trail = tuple[bytes, ...]
"""One digest for each whole block of a prompt, each over everything up to its end."""


class Slot:
    """One of the engine's slots: whose it is, what prefix it holds, whether it is taken.

    ``live``: its last prompt went on from the one before. ``held``: tokens in it at most.
    ``used`` orders uses; ``rested_s`` is the monotonic time at which the last one ended.
    ``at_work``: an answer is being made; ``busy``: that, or it is being erased.
    """

    def __init__(self, id: int) -> None:
        self.id = id
        self.tenant: str | None = None
        self.trail: Trail = ()
        self.live = False
        self.held = 0
        self.used = 0
        self.rested_s = 0.0
        self.busy = False
        self.at_work = False


class Slots:
    """The table of slots and the queue before it, first come first served.

    ``at_once`` answers are made at a time. ``erase`` empties the slot of that id. ``pool``:
    tokens that all slots can hold; ``kept``: tokens that may lie in those at rest.
    """

    def __init__(
        self,
        at_once: int,
        erase: Callable[[int], Awaitable[None]],
        *,
        resting: int = RESTING,
        pool: int = 2**31,
        kept: int = 2**31,
        waiting_max: int = WAITING_MAX,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._key = secrets.token_bytes(32)
        self._slots = [Slot(id) for id in range(at_once + resting)]
        self._at_once = at_once
        self._erase = erase
        self.pool = pool
        self._kept = kept
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._waiting_max = waiting_max
        self._now = clock
        self._uses = 0

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def busy(self) -> int:
        """How many answers are being made."""
        return sum(slot.at_work for slot in self._slots)

    @property
    def resting(self) -> int:
        """Tokens kept for reuse now."""
        return sum(slot.held for slot in self._slots if not slot.busy)

    def forget(self) -> None:
        """The engine started anew: all its slots are empty."""
        for slot in self._slots:
            _empty(slot)

    def trail(self, tokens: Sequence[int]) -> Trail:
        """The digests of a prompt's whole blocks."""
        out: list[bytes] = []
        link = b""
        for start in range(0, len(tokens) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
            block = b",".join(b"%d" % token for token in tokens[start : start + BLOCK_TOKENS])
            link = hashlib.blake2b(link + block, key=self._key, digest_size=16).digest()
            out.append(link)
        return tuple(out)

    @asynccontextmanager
    async def lease(self, tenant: str, trail: Trail, tokens: int) -> AsyncGenerator[Slot]:
        """A slot for one request whose prompt and answer come to ``tokens`` at most.

        It holds nothing of anybody else. Whoever learns how many tokens it holds in the end says
        so in ``held``. Raises UpstreamOverloaded when too many wait, or when none came free in
        time, and whatever erasing raises.
        """
        if self._waiting:
            await self._wait()
        while (slot := self._choose(tenant, trail)) is None:
            await self._wait(first=True)
        slot.busy = slot.at_work = True
        try:
            if slot.tenant not in (None, tenant):
                await self._clear(slot)
            slot.held = tokens
            while (victim := self._surplus()) is not None:
                await self._clear(victim)
            self._uses += 1
            known = len(slot.trail)
            slot.live = 0 < known < len(trail) and _shared(slot.trail, trail) == known
            slot.tenant, slot.trail, slot.used = tenant, trail, self._uses
            try:
                yield slot
            finally:
                # Said again: an engine that was started anew meanwhile had all of it forgotten.
                slot.tenant, slot.trail, slot.held = tenant, trail, slot.held or tokens
        finally:
            slot.busy = slot.at_work = False
            slot.rested_s = self._now()
            self._wake()

    async def expire(self) -> None:
        """Erase what has rested longer than it may."""
        for slot in self._slots:
            if slot.tenant and not slot.busy and self._now() - slot.rested_s >= LIFETIME_S:
                await self._clear(slot)

    def _choose(self, tenant: str, trail: Trail) -> Slot | None:
        if self.busy >= self._at_once:
            return None
        free = [slot for slot in self._slots if not slot.busy]
        own = [slot for slot in free if slot.tenant == tenant]

        def fit(slot: Slot) -> tuple[int, int]:
            return _shared(slot.trail, trail), -len(slot.trail)

        best = max(own, key=fit, default=None)
        shared = _shared(best.trail, trail) if best else 0
        # First those without a prompt, then those whose prompt is too short for a hit.
        rest = min(free, key=_worth, default=None)
        spare = rest is not None and _worth(rest) < (True, True, 0)
        if best is None or not shared:
            return rest
        # A hit is worth more than what came of the last question. But a conversation that goes
        # on, of which this prompt has little, is kept where a spare slot can take this one.
        hit = shared >= _HIT_BLOCKS and not best.live
        return best if hit or not spare or 2 * shared >= len(best.trail) else rest

    def _surplus(self) -> Slot | None:
        """The next slot to erase, until what rests is no more than may be kept and has room."""
        rest = [slot for slot in self._slots if slot.held and not slot.busy]
        held = sum(slot.held for slot in rest)
        at_work = sum(slot.held for slot in self._slots if slot.at_work)
        if held <= self._kept and held + at_work <= self.pool:
            return None
        return min(rest, key=lambda slot: slot.used, default=None)

    async def _clear(self, slot: Slot) -> None:
        """Erase ``slot``; until that is done it stays its owner's, and nobody gets it."""
        busy, slot.busy = slot.busy, True
        try:
            await self._erase(slot.id)
            _empty(slot)
        finally:
            slot.busy = busy
            if not busy:
                self._wake()

    async def _wait(self, *, first: bool = False) -> None:
        if len(self._waiting) >= self._waiting_max:
            raise UpstreamOverloaded("queue_full", retry_after_s=1)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if first:
            self._waiting.appendleft(turn)
        else:
            self._waiting.append(turn)
        try:
            async with asyncio.timeout(WAIT_S):
                await turn
        except TimeoutError:
            self._pass_on(turn)
            raise UpstreamOverloaded("queue_wait", retry_after_s=5) from None
        except asyncio.CancelledError:
            self._pass_on(turn)
            raise
        finally:
            if turn in self._waiting:
                self._waiting.remove(turn)

    def _pass_on(self, turn: asyncio.Future[None]) -> None:
        """Woken and sent away at once: the free slot is the next one's."""
        if turn.done() and not turn.cancelled():
            self._wake()

    def _wake(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    def close(self) -> None:
        """Send everybody away who still waits."""
        for turn in self._waiting:
            if not turn.done():
                turn.set_exception(UpstreamDown("closed"))
        self._waiting.clear()


def _empty(slot: Slot) -> None:
    slot.tenant, slot.trail, slot.live, slot.held = None, (), False, 0


def _worth(slot: Slot) -> tuple[bool, bool, int]:
    """Slots in the order in which they are given away."""
    return slot.tenant is not None, len(slot.trail) >= _HIT_BLOCKS, slot.used


def _shared(held: Trail, wanted: Trail) -> int:
    """How many leading blocks two prompts have in common."""
    count = 0
    for one, other in zip(held, wanted, strict=False):
        if one != other:
            break
        count += 1
    return count
