"""The cover rule: an event passes only while the output so far is paid for.

More is asked for in good time, beside the stream; at the edge the stream waits for the answer. A
refusal ends the answer, an unreachable ledger does not: the stream may go on uncovered for a while
and then ends at no charge. This module refuses to know events and clients.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from moongate.core.errors import LedgerUnavailable
from moongate.core.ports import Clock
from moongate.ledger.book import Book, Held

AGAIN_S: Final = 1.0
"""After a partial grant, and while the ledger cannot be reached, ask at most this often."""


class Cover:
    """How far one running answer is paid for. ``granted`` is told the tokens of each new slice."""

    def __init__(
        self, book: Book, held: Held, clock: Clock, granted: Callable[[int], object]
    ) -> None:
        self._book, self._held, self._clock, self._granted = book, held, clock, granted
        self._asking: asyncio.Task[int] | None = None
        self._asked_s = -AGAIN_S
        self._scarce = False
        self._trouble: LedgerUnavailable | None = None

    def __repr__(self) -> str:
        return f"Cover({self._held.cover} tokens)"

    def fits(self, count: int) -> bool:
        """Whether ``count`` output tokens may be passed on."""
        if self._trouble is None:
            return count <= self._held.cover
        if self._trouble.kind == "resolved":
            return False
        return count <= self._held.cover + self._book.slices.outage

    def look(self, count: int) -> None:
        """Ask for more beside the stream when little is left."""
        if self._asking is None and self._held.cover - count < self._book.slices.low:
            cautious = self._scarce or self._trouble is not None
            if not self._whole() and (not cautious or self._wait_s() <= 0):
                self._ask()

    async def reach(self, count: int) -> bool:
        """Wait until ``count`` tokens may be passed on; False when they never will be.

        Raises LedgerUnavailable when the ledger was unreachable for too long, or holds nothing
        for this request any more.
        """
        while not self.fits(count):
            if self._trouble is not None and self._asking is None:
                if self._trouble.kind == "resolved" or self._wait_s() > 0:
                    raise self._trouble
            elif self._whole():
                return False
            if self._asking is None:
                await asyncio.sleep(max(0.0, self._wait_s()) if self._scarce else 0)
                self._ask()
            assert self._asking is not None
            more = await asyncio.shield(self._asking)
            if not more and self._trouble is None:
                return False
        return True

    async def afford(self, nanos: int, tokens: int) -> bool:
        """Hold ``nanos`` for a fee or for a prompt of ``tokens``; False when nobody can pay them.

        Nothing of the kind is done uncovered: raises LedgerUnavailable.
        """
        while self._asking is not None:
            await asyncio.shield(self._asking)
        if self._trouble is not None:
            raise self._trouble
        held = await asyncio.shield(self._book.track(self._book.afford(self._held, nanos)))
        if held and tokens:
            self._granted(tokens)
        return held

    async def catch_up(self, count: int) -> None:
        """After trouble, see once more that ``count`` tokens are paid for, before they are booked.

        An extension of which nobody heard is asked for again, and what was let through meanwhile.
        """
        if self._trouble is None or self._trouble.kind == "resolved":
            return
        while count > self._held.cover and not self._whole():
            if self._asking is None:
                self._ask()
            assert self._asking is not None
            if not await asyncio.shield(self._asking):
                return

    def _whole(self) -> bool:
        """Whether the client's cap is covered: there is nothing more to ask for."""
        return self._held.terms.next(self._held.row.amount_nanos, self._book.slices) <= 0

    def _wait_s(self) -> float:
        return self._asked_s + AGAIN_S - self._clock.monotonic_s()

    def _ask(self) -> None:
        self._asked_s = self._clock.monotonic_s()
        self._asking = self._book.track(self._extend())

    async def _extend(self) -> int:
        wanted = self._held.terms.next(self._held.row.amount_nanos, self._book.slices)
        try:
            more = await self._book.extend(self._held)
            self._trouble = None
        except LedgerUnavailable as error:
            self._trouble, more = error, 0
        finally:
            self._asking = None
        self._scarce = self._trouble is None and more < wanted
        if more:
            self._granted(more)
        return more
