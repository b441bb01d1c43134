"""Who may use which of the engine's slots: a slot's prompt cache never serves two organisations.

A slot belongs to the tenant that used it last, and is to be erased before another one gets it.
Among its own slots a tenant gets the one that holds most of its prompt. For that the table
keeps counts and keyed digests of prompt prefixes, whose key lives and dies with the process;
it keeps no token and no text.
"""

import asyncio
import hashlib
import secrets
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from moongate.core.errors import UpstreamDown, UpstreamOverloaded

BLOCK_TOKENS: Final = 64
WAITING_MAX: Final = 64
WAIT_S: Final = 600.0

Trail = tuple[bytes, ...]
"""One digest for each whole block of a prompt, each over everything up to its end."""


class Slot:
    """One of the engine's slots: whose it is, what prefix it holds, whether it is at work."""

    def __init__(self, id: int) -> None:
        self.id = id
        self.tenant: str | None = None
        self.trail: Trail = ()
        self.used = 0
        self.busy = False


class Slots:
    """The table of slots and the queue before it, first come first served."""

    def __init__(self, count: int, *, waiting_max: int = WAITING_MAX) -> None:
        self._key = secrets.token_bytes(32)
        self._slots = [Slot(id) for id in range(count)]
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._waiting_max = waiting_max
        self._clock = 0

    @property
    def busy(self) -> int:
        """How many slots are at work."""
        return sum(slot.busy for slot in self._slots)

    def forget(self) -> None:
        """The engine started anew: all its slots are empty."""
        for slot in self._slots:
            slot.tenant, slot.trail = None, ()

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
    async def lease(self, tenant: str, trail: Trail) -> AsyncGenerator[tuple[Slot, bool]]:
        """A slot for one request, and whether it must be erased first.

        The caller that erased it says so with :meth:`own`; until then it stays its old owner's.
        Raises UpstreamOverloaded when too many wait, or when none came free in time.
        """
        if self._waiting:
            await self._wait()
        while (slot := self._choose(tenant, trail)) is None:
            await self._wait(first=True)
        slot.busy = True
        self._clock += 1
        slot.used = self._clock
        try:
            yield slot, slot.tenant is not None and slot.tenant != tenant
        finally:
            slot.busy = False
            self._wake()

    def own(self, slot: Slot, tenant: str, trail: Trail) -> None:
        """From now on ``slot`` holds ``trail`` for ``tenant``."""
        slot.tenant, slot.trail = tenant, trail

    def _choose(self, tenant: str, trail: Trail) -> Slot | None:
        free = [slot for slot in self._slots if not slot.busy]
        if not free:
            return None
        own = [slot for slot in free if slot.tenant == tenant]
        best = max(own, key=lambda slot: _shared(slot.trail, trail), default=None)
        shared = _shared(best.trail, trail) if best else 0
        empty = next((slot for slot in free if slot.tenant is None), None)
        # Another conversation of the tenant, with only the system prompt in common, is worth
        # keeping where an empty slot can take this one.
        if best is not None and shared and (empty is None or 2 * shared >= len(best.trail)):
            return best
        return empty or min(free, key=lambda slot: slot.used)

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
            raise UpstreamOverloaded("queue_wait", retry_after_s=5) from None
        except asyncio.CancelledError:
            # Woken and cancelled at once: the free slot is the next one's.
            if turn.done() and not turn.cancelled():
                self._wake()
            raise
        finally:
            if turn in self._waiting:
                self._waiting.remove(turn)

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


def _shared(held: Trail, wanted: Trail) -> int:
    """How many leading blocks two prompts have in common."""
    count = 0
    for one, other in zip(held, wanted, strict=False):
        if one != other:
            break
        count += 1
    return count
