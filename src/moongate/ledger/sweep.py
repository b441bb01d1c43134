"""The sweep: keeps the leases of our own open holds, and resolves holds whose holder died.

It renews before it looks for lapsed leases, so a wall clock that jumps ahead expires nothing of
ours. It never ends by itself: while the store is unavailable it says so and tries again.
"""

import asyncio
from typing import Final, Protocol

from moongate.core.errors import LedgerUnavailable
from moongate.core.ports import Clock, Store
from moongate.ledger.book import Book

RENEW_S: Final = 5.0
EXPIRE_S: Final = 30.0
GRACE_S: Final = 120


class Report(Protocol):
    """Where the sweep tells what it did: an event's name and scalars."""

    def __call__(self, name: str, /, **fields: str | int | bool | None) -> None: ...


class Sweep:
    """Sweeps one book's store. ``renew_s`` and ``expire_s`` are seconds between turns."""

    def __init__(
        self,
        store: Store,
        book: Book,
        clock: Clock,
        report: Report,
        *,
        renew_s: float = RENEW_S,
        expire_s: float = EXPIRE_S,
        grace_s: int = GRACE_S,
    ) -> None:
        self._store, self._book, self._clock, self._report = store, book, clock, report
        self._renew_s, self._expire_s, self._grace_s = renew_s, expire_s, grace_s

    async def recover(self) -> int:
        """Before the first request: expire what a process that is gone left open.

        Returns how many holds that were. Raises LedgerUnavailable.
        """
        ids = await self._store.expire_orphans(self._book.owner, self._clock.now_ms())
        if ids:
            self._report("holds_expired", count=len(ids), kind="orphan")
        return len(ids)

    async def run(self) -> None:
        """Renew and expire until cancelled."""
        loop = asyncio.get_running_loop()
        expire_at_s = loop.time() + self._expire_s
        while True:
            await asyncio.sleep(self._renew_s)
            due = loop.time() >= expire_at_s
            if due:
                expire_at_s = loop.time() + self._expire_s
            try:
                # One reading of the clock for both, lest it jumps between them.
                at_ms = self._clock.now_ms()
                await self.renew(at_ms)
                if due:
                    await self.expire(at_ms)
            except LedgerUnavailable as error:
                self._report("ledger_unavailable", kind=error.kind)

    async def renew(self, at_ms: int) -> int:
        """Extend the leases of the book's open holds in one write; returns how many.

        Raises LedgerUnavailable.
        """
        ids = list(self._book.live)
        if not ids:
            return 0
        return await self._store.renew(ids, at_ms)

    async def expire(self, at_ms: int) -> int:
        """Resolve holds that were not renewed for lease and grace; returns how many.

        Raises LedgerUnavailable.
        """
        ids = await self._store.expire(at_ms, self._grace_s)
        if ids:
            self._book.live.difference_update(ids)
            self._report("holds_expired", count=len(ids), kind="lapsed")
        return len(ids)
