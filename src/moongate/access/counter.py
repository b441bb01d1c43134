"""The counter of one process: rates and places kept in memory, and lost with it.

It counts alone for one process, and for its share where the counter of all replicas is gone. It
reads the clock's monotonic time and awaits nothing, so a step is never half done.
"""

from moongate.core.ports import Clock
from moongate.core.rates import (
    FORGOTTEN_MS,
    LEASE_MS,
    ROOM_WAIT_MS,
    Answer,
    Ask,
    Room,
    booked,
    drained,
    wait_ms,
)

_SWEEP_MS = 60_000
_Name = tuple[str, str]


class LocalCounter:
    """A :class:`moongate.core.rates.Counter` in memory. Names are kept while something is owed."""

    def __init__(self, clock: Clock, lease_ms: int = LEASE_MS) -> None:
        self._clock, self._lease_ms = clock, lease_ms
        self._owed: dict[_Name, tuple[int, int]] = {}
        self._rooms: dict[_Name, dict[str, int]] = {}
        self._sweep_ms = 0

    async def start(self) -> None:
        """Nothing to make ready."""

    async def close(self) -> None:
        """Nothing to release."""

    async def ask(self, ask: Ask) -> Answer:
        return self.count(ask)

    def count(self, ask: Ask) -> Answer:
        """Carry out one step at once."""
        now = self._now_ms()
        limits = tuple(rate.limit for rate in ask.rates)
        owed = [self._drained((ask.account, rate.name), rate.limit, now) for rate in ask.rates]
        if ask.kind == "take":
            waits = [
                wait_ms(now_owed, rate.limit, rate.amount)
                for now_owed, rate in zip(owed, ask.rates, strict=True)
            ]
            waits += [
                ROOM_WAIT_MS * (len(self._room(ask.account, room.name, now)) >= room.limit)
                for room in ask.rooms
            ]
            longest = max(waits, default=0)
            if longest:
                return Answer(tuple(owed), limits, waits.index(longest), longest)
        for place, rate in enumerate(ask.rates):
            owed[place] = booked(owed[place], rate.limit, rate.amount)
            self._owed[ask.account, rate.name] = owed[place], now
        for room in ask.rooms:
            held = self._rooms.setdefault((ask.account, room.name), {})
            for id in ask.ids:
                if ask.kind == "drop":
                    held.pop(id, None)
                else:
                    held[id] = now + self._lease_ms
        return Answer(tuple(owed), limits)

    def seed(self, account: str, name: str, owed: int) -> None:
        """From now on, so much is owed of one rate."""
        self._owed[account, name] = owed, self._now_ms()

    def places(self) -> list[Ask]:
        """Steps that would keep every place that is taken."""
        return [
            Ask(account, "keep", tuple(held), (), (Room(name, 0),))
            for (account, name), held in self._rooms.items()
            if held
        ]

    def _drained(self, name: _Name, limit: int, now: int) -> int:
        owed, at_ms = self._owed.get(name, (0, now))
        return drained(owed, limit, now - at_ms)

    def _room(self, account: str, name: str, now: int) -> dict[str, int]:
        """The places taken in a room, without those whose lease has ended."""
        held = self._rooms.get((account, name), {})
        for id in [id for id, end_ms in held.items() if end_ms <= now]:
            del held[id]
        return held

    def _now_ms(self) -> int:
        now = round(self._clock.monotonic_s() * 1000)
        if now >= self._sweep_ms:
            self._sweep_ms = now + _SWEEP_MS
            for name in [n for n, (_, at) in self._owed.items() if at <= now - FORGOTTEN_MS]:
                del self._owed[name]
            for account, room in list(self._rooms):
                if not self._room(account, room, now):
                    del self._rooms[account, room]
        return now
