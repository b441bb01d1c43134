"""How much may run at once: a request enters, holds a lease, and leaves whatever happens.

This is the gate through which every paid request goes. It counts requests in flight in this
process; rates and per-key limits are dimensions that the same gate will check.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from moongate.access.keys import Principal
from moongate.core.errors import Refused

REQUESTS_MAX: Final = 2_000
"""Requests in flight in one process; more are told to come back."""


class Limits:
    """The gate. ``running`` is how many leases are out."""

    def __init__(self, requests_max: int = REQUESTS_MAX) -> None:
        self._max = requests_max
        self.running = 0
        self._empty = asyncio.Event()
        self._empty.set()

    async def idle(self, patience_s: float) -> bool:
        """Wait until no lease is out; False when that took longer than ``patience_s``."""
        try:
            async with asyncio.timeout(patience_s):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True

    @contextmanager
    def enter(self, principal: Principal) -> Iterator[Principal]:
        """Hold a lease for ``principal``. Raises Refused (503) when the process is full."""
        if self.running >= self._max:
            raise Refused("overloaded", retry_after_s=1)
        self.running += 1
        self._empty.clear()
        try:
            yield principal
        finally:
            self.running -= 1
            if not self.running:
                self._empty.set()
