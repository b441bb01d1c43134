"""The hash chain of a wallet's entries: each entry's hash covers the one before it.

Whoever changes, removes or reorders an entry breaks every hash that follows, and signed receipts
carry hashes out of the house. Both stores compute the same links; this is their definition.
"""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Final

from moongate.core.rows import EntryRow

START: Final = bytes(32)
"""What the first link stands on."""


def link(before: bytes, entry: EntryRow) -> bytes:
    """The hash (SHA-256, 32 bytes) of ``entry`` at its ``chain_no`` behind ``before``."""
    text = (
        f"{entry.tx}\n{entry.seq}\n{entry.account}\n{entry.amount_nanos}\n{entry.kind}\n"
        f"{entry.created_ms}\n{entry.chain_no}"
    )
    return hashlib.sha256((before or START) + text.encode()).digest()


class Walk:
    """A walk along one wallet's chain, entry by entry in the order of ``chain_no``."""

    def __init__(self) -> None:
        self._before, self._number = b"", 0
        self._wrong: str | None = None

    def take(self, entry: EntryRow) -> str | None:
        """Go on to ``entry``; what is wrong with the chain so far, its first break only."""
        if self._wrong is None:
            self._number += 1
            self._before = link(self._before, entry)
            if entry.chain_no != self._number:
                self._wrong = f"entry {self._number} is missing"
            elif self._before != entry.chain:
                self._wrong = f"entry {self._number} is not what its hash says"
        return self._wrong

    def end(self, last_no: int, last: bytes) -> str | None:
        """What is wrong with the whole; the account says ``last_no`` and ``last`` of its end."""
        if self._wrong is None and (self._number, self._before) != (last_no, last):
            return f"ends at {self._number}, the account says {last_no}"
        return self._wrong


def breaks(entries: Iterable[EntryRow], last_no: int, last: bytes) -> Iterator[str]:
    """What is wrong with one wallet's ``entries``, in the order of their ``chain_no``.

    ``last_no`` and ``last`` are what the account says of its last link.
    """
    walk = Walk()
    for entry in entries:
        if walk.take(entry):
            break
    if wrong := walk.end(last_no, last):
        yield wrong
