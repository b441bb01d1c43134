"""Fetched pictures that are kept for a moment, so that an agent's next turn fetches none again.

In memory only, for ``KEPT_S`` seconds at most and gone by a timer, in bounded bytes, and found
again by the organisation that had them fetched and by nobody else.
"""

import asyncio
from collections import Counter, OrderedDict
from typing import Final

KEPT_S: Final = 600.0
BYTES_MAX: Final = 128 << 20
ACCOUNT_BYTES_MAX: Final = 32 << 20

_Key = tuple[str, str]


class Shelf:
    """Pictures by organisation and address, as the data URLs that they became."""

    def __init__(
        self, bytes_max: int = BYTES_MAX, account_bytes_max: int = ACCOUNT_BYTES_MAX
    ) -> None:
        self._bytes_max, self._account_bytes_max = bytes_max, account_bytes_max
        self._kept: OrderedDict[_Key, tuple[str, asyncio.TimerHandle]] = OrderedDict()
        self._sizes: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"Shelf({len(self._kept)} pictures, {self.bytes} bytes)"

    @property
    def bytes(self) -> int:
        """How much is kept."""
        return self._sizes.total()

    def find(self, account: str, url: str) -> str | None:
        """What ``account`` had fetched from ``url``, if it is still there."""
        found = self._kept.get((account, url))
        return found[0] if found else None

    def keep(self, account: str, url: str, data: str) -> None:
        """Keep ``data`` for ``KEPT_S`` seconds; the oldest go where room is short."""
        key, size = (account, url), len(data)
        self._drop(key)
        if size > self._account_bytes_max:
            return
        while self._sizes[account] + size > self._account_bytes_max:
            self._drop(next(kept for kept in self._kept if kept[0] == account))
        while self.bytes + size > self._bytes_max:
            self._drop(next(iter(self._kept)))
        timer = asyncio.get_running_loop().call_later(KEPT_S, self._drop, key)
        self._kept[key] = data, timer
        self._sizes[account] += size

    def clear(self) -> None:
        """Forget everything."""
        for key in tuple(self._kept):
            self._drop(key)

    def _drop(self, key: _Key) -> None:
        found = self._kept.pop(key, None)
        if found is None:
            return
        data, timer = found
        timer.cancel()
        self._sizes[key[0]] -= len(data)
        if not self._sizes[key[0]]:
            del self._sizes[key[0]]
