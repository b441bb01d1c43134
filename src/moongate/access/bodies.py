"""Room for the bodies of requests: their bytes in one process, under one bound.

Who finds no room waits a moment for others to end, first come, first served; then it is told to
come back. One account has a share: however many bodies it sends and however slowly they come, the
others find room. A body that no room could ever hold is no matter of this module: it is too large.
"""

import asyncio
from collections import Counter, deque
from typing import Final, NamedTuple

from moongate.core.errors import Refused

BYTES_MAX: Final = 512 * 1024 * 1024
"""Bytes of the requests in flight in one process, unless the settings say otherwise."""
WAIT_S: Final = 2.0


class _Place(NamedTuple):
    """One that waits: for how many bytes, and of which account."""

    bytes: int
    account: str
    called: asyncio.Future[None]


class Bodies:
    """``bytes_max`` bytes, ``share`` of them for one account at most (all, where none is said).

    ``size`` is how many are taken, ``total`` how many ever were, ``waiting`` how many requests
    wait.
    """

    def __init__(
        self, bytes_max: int = BYTES_MAX, wait_s: float = WAIT_S, share: int | None = None
    ) -> None:
        self._max, self._wait_s = bytes_max, wait_s
        self._share = bytes_max if share is None else share
        self.size = self.total = 0
        self._held: Counter[str] = Counter()
        self._line: deque[_Place] = deque()

    def __repr__(self) -> str:
        return f"Bodies({self.size} of {self._max} bytes)"

    @property
    def waiting(self) -> int:
        return len(self._line)

    async def take(self, count: int, account: str = "") -> None:
        """Take ``count`` bytes. Raises Refused (503) when there is no room in time."""
        place = _Place(count, account, asyncio.get_running_loop().create_future())
        self._line.append(place)
        self._admit()
        if place.called.done():
            return
        try:
            async with asyncio.timeout(self._wait_s):
                await place.called
        except TimeoutError:
            self._leave(place)
            raise Refused("overloaded", retry_after_s=self._wait_s) from None
        except asyncio.CancelledError:
            self._leave(place)
            raise

    def give(self, count: int, account: str = "") -> None:
        """Give ``count`` bytes back; who waits first gets them first."""
        self.size -= count
        self._held[account] -= count
        if not self._held[account]:
            del self._held[account]
        self._admit()

    def _leave(self, place: _Place) -> None:
        """Out of the line; what was given in the same moment goes back."""
        if place in self._line:
            self._line.remove(place)
            self._admit()
        elif place.called.done() and not place.called.cancelled():
            self.give(place.bytes, place.account)

    def _admit(self) -> None:
        """Call whom there is room for; who waits for their own account holds up nobody else."""
        behind: deque[_Place] = deque()
        over: set[str] = set()
        while self._line:
            place = self._line.popleft()
            if place.called.done():
                continue
            if self._held[place.account] + place.bytes > self._share:
                over.add(place.account)
            if place.account in over:
                behind.append(place)
            elif self.size + place.bytes > self._max:
                behind.append(place)
                break
            else:
                self.size += place.bytes
                self.total += place.bytes
                self._held[place.account] += place.bytes
                place.called.set_result(None)
        behind.extend(self._line)
        self._line = behind
