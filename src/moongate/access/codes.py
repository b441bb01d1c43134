"""Secrets that people carry: a prefix, 160 random bits and a checksum, all in base 62.

The checksum refuses a mistyped one before any store is asked. This module refuses to know what a
secret opens, and what is kept of it.
"""

import hmac
import re
import secrets
import string
import zlib
from typing import Final

_ALPHABET: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
_SHAPE: Final = re.compile(r"([a-z]{2,3}-)([0-9A-Za-z]{27})([0-9A-Za-z]{6})")


def mint(prefix: str) -> str:
    """A new secret: ``prefix``, 27 base-62 characters (160 random bits), 6 of checksum."""
    start = prefix + _base62(secrets.randbits(160), 27)
    return start + _checksum(start)


def well_formed(secret: str, *prefixes: str) -> bool:
    """Whether ``secret`` has one of ``prefixes``, the length and the checksum of ours."""
    found = _SHAPE.fullmatch(secret)
    return (
        found is not None
        and found[1] in prefixes
        and hmac.compare_digest(_checksum(found[1] + found[2]).encode(), found[3].encode())
    )


def _base62(number: int, width: int) -> str:
    digits = []
    for _ in range(width):
        number, rest = divmod(number, 62)
        digits.append(_ALPHABET[rest])
    return "".join(reversed(digits))


def _checksum(text: str) -> str:
    return _base62(zlib.crc32(text.encode()), 6)
