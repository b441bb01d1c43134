"""Room for the bodies of requests: their bytes in one process, under one bound.

Who finds no room waits a moment for others to end, first come, first served; then it is told to
come back. A body that no room could ever hold is no matter of this module: it is too large.
"""

import asyncio
from collections import deque
from typing import Final

from moongate.core.errors import Refused

BYTES_MAX: Final = 512 * 1024 * 1024
"""Bytes of the requests in flight in one process, unless the settings say otherwise."""
WAIT_S: Final = 2.0


class Bodies:
    """``bytes_max`` bytes. ``size`` is how many are taken, ``waiting`` how many requests wait."""

    def __init__(self, bytes_max: int = BYTES_MAX, wait_s: float = WAIT_S) -> None:
        self._max, self._wait_s = bytes_max, wait_s
        self.size = 0
        self._line: deque[tuple[int, asyncio.Future[None]]] = deque()

    def __repr__(self) -> str:
        return f"Bodies({self.size} of {self._max} bytes)"

    @property
    def waiting(self) -> int:
        return len(self._line)

    async def take(self, count: int) -> None:
        """Take ``count`` bytes. Raises Refused (503) when there is no room in time."""
        if not self._line and self.size + count <= self._max:
            self.size += count
            return
        place = (count, asyncio.get_running_loop().create_future())
        self._line.append(place)
        try:
            async with asyncio.timeout(self._wait_s):
                await place[1]
        except TimeoutError:
            self._leave(place)
            raise Refused("overloaded", retry_after_s=self._wait_s) from None
        except asyncio.CancelledError:
            self._leave(place)
            raise

    def give(self, count: int) -> None:
        """Give ``count`` bytes back; who waits first gets them first."""
        self.size -= count
        self._admit()

    def _leave(self, place: tuple[int, asyncio.Future[None]]) -> None:
        """Out of the line; what was given in the same moment goes back."""
        if place in self._line:
            self._line.remove(place)
            self._admit()
        elif place[1].done() and not place[1].cancelled():
            self.give(place[0])

    def _admit(self) -> None:
        while self._line and self.size + self._line[0][0] <= self._max:
            count, place = self._line.popleft()
            if not place.done():
                self.size += count
                place.set_result(None)
