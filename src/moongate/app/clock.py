"""The server's clock: the machine's, moved to where the store's stands.

Several processes that serve one store so agree on what day it is, when a price begins and when a
key expires, whatever their machines say. A store of one process goes by the machine's own clock.
"""

from typing import Final

from moongate.core.ports import Clock, Store

APART_MS: Final = 1_000
"""A smaller difference is left alone."""


class StoreClock:
    """``clock`` with its wall time moved; durations are the machine's."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ahead_ms = 0

    def now_ms(self) -> int:
        return self._clock.now_ms() + self._ahead_ms

    def monotonic_s(self) -> float:
        return self._clock.monotonic_s()

    async def follow(self, store: Store) -> None:
        """Look at the store's clock, and go by it. Raises LedgerUnavailable."""
        at_ms = self._clock.now_ms()
        ahead_ms = (await store.facts(at_ms)).at_ms - at_ms
        if abs(ahead_ms - self._ahead_ms) > APART_MS:
            self._ahead_ms = ahead_ms
