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


def breaks(entries: Iterable[EntryRow], last_no: int, last: bytes) -> Iterator[str]:
    """What is wrong with one wallet's ``entries``, in the order of their ``chain_no``.

    ``last_no`` and ``last`` are what the account says of its last link.
    """
    before, number = b"", 0
    for entry in entries:
        number += 1
        if entry.chain_no != number:
            yield f"entry {number} is missing"
            return
        before = link(before, entry)
        if before != entry.chain:
            yield f"entry {number} is not what its hash says"
            return
    if (number, before) != (last_no, last):
        yield f"ends at {number}, the account says {last_no}"
