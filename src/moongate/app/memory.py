"""Memory that large requests leave behind: kept while they come, given back when they do not.

glibc hands what is freed back to the kernel at once where it was large, and every page of the next
large body then costs a fault. Measured here: 3 of the 10 ms that a prompt of one megabyte took. So
blocks up to ``KEPT_BYTES`` are kept, and given back in a quiet moment. Other C libraries (macOS,
musl) are left as they are.
"""

import asyncio
import ctypes
import sys
from collections.abc import Callable
from typing import Final

KEPT_BYTES: Final = 32 << 20
"""glibc keeps no larger block, whatever it is told (``DEFAULT_MMAP_THRESHOLD_MAX``)."""
SPARE_BYTES: Final = 64 << 20
LARGE_BYTES: Final = 1 << 20
"""Fewer bytes of bodies in ``PAUSE_S`` are a quiet moment."""
PAUSE_S: Final = 5.0
_TRIM_THRESHOLD: Final = -1  # of malloc.h
_MMAP_THRESHOLD: Final = -3


def _libc() -> ctypes.CDLL | None:
    """The C library, where it is glibc."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") and hasattr(libc, "malloc_trim") else None


def keep() -> bool:
    """From now on this process keeps what large requests free; whether it can be told so."""
    libc = _libc()
    if libc is None:
        return False
    told = libc.mallopt(_MMAP_THRESHOLD, KEPT_BYTES), libc.mallopt(_TRIM_THRESHOLD, SPARE_BYTES)
    return told == (1, 1)


def give_back() -> None:
    """Give the kernel what is free."""
    if (libc := _libc()) is not None:
        libc.malloc_trim(0)


class Quiet:
    """Finds the first quiet moment behind large requests. ``taken``: bytes that came so far."""

    def __init__(self, taken: int) -> None:
        self._seen = self._given = taken

    def __repr__(self) -> str:
        return f"Quiet({self._seen - self._given} bytes)"

    def look(self, taken: int) -> bool:
        """Whether it is now. To be asked every ``PAUSE_S``, with the bytes that came by then."""
        found = taken - self._seen < LARGE_BYTES <= taken - self._given
        self._seen = taken
        if found:
            self._given = taken
        return found


async def tend(taken: Callable[[], int]) -> None:
    """Give back whenever large requests came and then none did for a moment.

    ``taken`` tells how many bytes of bodies came since the start.
    """
    quiet = Quiet(taken())
    while True:
        await asyncio.sleep(PAUSE_S)
        if quiet.look(taken()):
            await asyncio.to_thread(give_back)  # without the interpreter's lock
