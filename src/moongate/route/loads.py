"""How busy each place is, as far as this process has to do with it.

Two figures a place: requests that run there now, and its recent work, in characters of prompt that
it had to read, which fades within minutes. The same work by organisation tells over how many
places its conversations should spread. Nothing is asked of anybody; replicas share nothing.
"""

import math
from typing import Final

import msgspec

from moongate.core.ports import Clock

FADE_S: Final = 120.0
"""After so long, recent work counts for a third of what it was (1/e)."""
SPREAD: Final = 16
"""An organisation spreads over so many times the places that its share of the work is worth."""
_PRIOR: Final = 2_048.0  # work of a place before anything is known: nobody is large at the start
_TENANTS_MAX: Final = 10_000


class Load(msgspec.Struct, frozen=True):
    """Requests running at a place, and its recent work (characters)."""

    running: int = 0
    work: float = 0.0


class _Fading:
    """A sum that fades."""

    __slots__ = ("at_s", "sum")

    def __init__(self) -> None:
        self.sum, self.at_s = 0.0, 0.0

    def now(self, now_s: float) -> float:
        return self.sum * math.exp((self.at_s - now_s) / FADE_S)

    def add(self, amount: float, now_s: float) -> None:
        self.sum, self.at_s = self.now(now_s) + amount, now_s


class Berth:
    """One request's place in the loads, from the choice to its end."""

    def __init__(self, loads: "Loads", place: str) -> None:
        self._loads, self.place = loads, place
        loads.count(place, 1)

    def move(self, place: str) -> None:
        """Go on at another place."""
        if self.place and place != self.place:
            self._loads.count(self.place, -1)
            self._loads.count(place, 1)
            self.place = place

    def leave(self) -> None:
        """The request is over; a second call does nothing."""
        if self.place:
            self._loads.count(self.place, -1)
            self.place = ""


class Loads:
    """The loads of one process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._running: dict[str, int] = {}
        self._work: dict[str, _Fading] = {}
        self._tenants: dict[str, _Fading] = {}
        self._whole = _Fading()

    def take(self, place: str, tenant: str, size: int, matched: int) -> Berth:
        """A request of ``size`` characters, ``matched`` of which are held there, goes to ``place``.

        Beside what it must read, a request costs something for what it has, and for its answer.
        """
        now_s = self._clock.monotonic_s()
        work = float(size - matched + size // 16 + 512)
        self._work.setdefault(place, _Fading()).add(work, now_s)
        self._whole.add(work, now_s)
        of_tenant = self._tenants.pop(tenant, None) or _Fading()
        of_tenant.add(work, now_s)
        self._tenants[tenant] = of_tenant
        if len(self._tenants) > _TENANTS_MAX:
            del self._tenants[next(iter(self._tenants))]
        return Berth(self, place)

    def load(self, place: str) -> Load:
        """How busy ``place`` is."""
        work = self._work.get(place)
        now_s = self._clock.monotonic_s()
        return Load(self._running.get(place, 0), work.now(now_s) if work else 0.0)

    def breadth(self, tenant: str, places: int) -> int:
        """Over how many of ``places`` the new conversations of ``tenant`` spread: a power of eight.

        Steps so wide let replicas that see like parts of the traffic come to the same figure.
        """
        now_s = self._clock.monotonic_s()
        own = self._tenants.get(tenant)
        share = own.now(now_s) / (self._whole.now(now_s) + places * _PRIOR) if own else 0.0
        wanted = max(1, math.ceil(share * places * SPREAD))
        return min(places, 1 << -(-(wanted - 1).bit_length() // 3) * 3)

    def count(self, place: str, change: int) -> None:
        """Note that a request came (1) or went (-1)."""
        self._running[place] = self._running.get(place, 0) + change
