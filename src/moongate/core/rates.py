"""Rates: what is counted against a key and its account, and the arithmetic of counting it.

A rate is a leaky bucket used as a meter, which is GCRA with a burst of one minute's worth: what is
taken is owed, what is owed drains at the limit, and a taking passes while no more than a minute's
worth would be owed. A key that never asked owes nothing. Whoever counts does it with its own
clock, in integers: owed is kept in sixty-thousandths (:data:`SHARE`), so that what drains in one
millisecond is whole. Nothing here knows a store, a request or money.
"""

from typing import Final, Literal, Protocol

import msgspec

SHARE: Final = 60_000
"""Parts of one request or token: a limit a minute drains as many parts in a millisecond."""
FORGOTTEN_MS: Final = 2 * 60_000
"""After so long nothing can be owed any more, however much it was."""
LEASE_MS: Final = 30_000
"""How long a place among the answers at once is kept without being renewed."""
ROOM_WAIT_MS: Final = 1_000
"""When to ask again for a place among the answers at once: nobody knows when one ends."""
LIMIT_MAX: Final = 1_000_000_000
"""The largest limit: sums stay below 2^53, which every counter can add exactly."""


class Rate(msgspec.Struct, frozen=True):
    """``amount`` of one rate of ``limit`` a minute: to be taken, or below zero given back."""

    name: str
    limit: int
    amount: int


class Room(msgspec.Struct, frozen=True):
    """Places for answers at once; each is held by a request's id until its lease ends."""

    name: str
    limit: int


class Ask(msgspec.Struct, frozen=True):
    """One step of counting; every name in it belongs to ``account``.

    ``take``: all or nothing, a place in every room for the id and every amount. ``keep``: renew
    the places of ``ids``, made anew where they were lost; ``drop``: give them up. The amounts of
    these two are booked whatever is owed.
    """

    account: str
    kind: Literal["take", "keep", "drop"]
    ids: tuple[str, ...]
    rates: tuple[Rate, ...] = ()
    rooms: tuple[Room, ...] = ()


class Answer(msgspec.Struct, frozen=True):
    """What is owed of each rate after the step, in parts, and the limits that were in force.

    ``refused`` is the place, in the rates and then the rooms, of what refused and takes longest
    to free itself; -1: nothing did. ``wait_ms`` later every rate of the ask would pass.
    """

    owed: tuple[int, ...]
    limits: tuple[int, ...]
    refused: int = -1
    wait_ms: int = 0


class Counter(Protocol):
    """Whoever counts: in this process, or for all replicas."""

    async def start(self) -> None:
        """Make ready. A shared counter that cannot be reached is no reason to fail."""

    async def ask(self, ask: Ask) -> Answer:
        """Carry out one step. Raises CounterGone when it cannot be known to have happened."""

    async def close(self) -> None: ...


class CounterGone(Exception):
    """A shared counter did not answer: ``kind`` is a word for logs."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


def drained(owed: int, limit: int, passed_ms: int) -> int:
    """What is still owed ``passed_ms`` later; a clock that went back drains nothing.

    A limit lowered meanwhile forgives what is owed beyond two minutes' worth of it.
    """
    passed_ms = min(max(passed_ms, 0), FORGOTTEN_MS)
    return max(0, min(owed, 2 * limit * SHARE) - limit * passed_ms)


def wait_ms(owed: int, limit: int, amount: int) -> int:
    """How long until ``amount`` passes; 0: now. More than a minute's worth passes as that much."""
    over = owed - (limit - min(amount, limit)) * SHARE
    return max(0, -(-over // limit))


def booked(owed: int, limit: int, amount: int) -> int:
    """What is owed after ``amount``: never less than nothing or more than two minutes' worth."""
    return max(0, min(owed + amount * SHARE, 2 * limit * SHARE))


def left(owed: int, limit: int) -> int:
    """How much would still pass now."""
    return max(0, limit - -(-owed // SHARE))


def reset_ms(owed: int, limit: int) -> int:
    """How long until nothing is owed."""
    return -(-owed // limit)
