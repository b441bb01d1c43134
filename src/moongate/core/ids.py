"""Ids that we mint: time-ordered and unguessable, never an upstream's.

The layout is that of UUID version 7 (RFC 9562, section 5.7) written as 32 hexadecimal digits
behind a short prefix that tells what the id names.
"""

import secrets


def new_id(prefix: str, now_ms: int) -> str:
    """``prefix`` + 32 hex digits: 48 bits of milliseconds, version, variant, 74 random bits."""
    value = (now_ms & (1 << 48) - 1) << 80 | secrets.randbits(80)
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return f"{prefix}{value:032x}"
