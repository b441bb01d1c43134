"""Turns at what takes long: so many in all, so many for one account, and a time to wait for one.

A turn that is free goes to the account that has the fewest, and of those to who came first: however
many one account asks for and however slowly it uses them, another gets the next that is free.
"""

import asyncio
from collections import Counter
from typing import Final, NamedTuple

from moongate.core.errors import Refused

_AGAIN_S: Final = 2.0


class _Place(NamedTuple):
    """One that waits: for how many turns at most, and of which account."""

    most: int
    account: str
    called: asyncio.Future[int]


class Turns:
    """``in_all`` turns, ``each`` of them for one account; ``wait_s`` is how long one is waited for.

    ``taken`` is how many are.
    """

    def __init__(self, in_all: int, each: int, wait_s: float) -> None:
        self._in_all, self._each, self.wait_s = in_all, each, wait_s
        self._held: Counter[str] = Counter()
        self._line: list[_Place] = []

    def __repr__(self) -> str:
        return f"Turns({self.taken} of {self._in_all})"

    @property
    def taken(self) -> int:
        return self._held.total()

    async def take(self, account: str, most: int = 1) -> int:
        """Take at least one turn and at most ``most``; how many. Raises Refused (503)."""
        place = _Place(most, account, asyncio.get_running_loop().create_future())
        self._line.append(place)
        self._call()
        try:
            async with asyncio.timeout(self.wait_s):
                return await place.called
        except BaseException as error:
            if place in self._line:
                self._line.remove(place)
            elif place.called.done() and not place.called.cancelled():
                self.give(account, place.called.result())  # given in the same moment
            if isinstance(error, TimeoutError):
                raise Refused("overloaded", retry_after_s=_AGAIN_S) from None
            raise

    def give(self, account: str, count: int = 1) -> None:
        """Give turns back."""
        self._held[account] -= count
        if not self._held[account]:
            del self._held[account]
        self._call()

    def _call(self) -> None:
        """Call whom there is a turn for."""
        self._line = [place for place in self._line if not place.called.done()]
        while self._line and (free := self._in_all - self.taken):
            place = min(self._line, key=lambda place: self._held[place.account])
            count = min(free, place.most, self._each - self._held[place.account])
            if not count:
                return  # who has the fewest has all that it may have
            self._line.remove(place)
            self._held[place.account] += count
            place.called.set_result(count)
