"""Text under a pattern or a format: what the engine can hold of it, and how a begun one may end.

Endings come from the engine's own matcher, which is asked byte by byte what may come next.
"""

import json
import random
from typing import Any, Final

from llguidance import LLMatcher, LLTokenizer

_BYTES: Final = LLTokenizer("byte")
# The engine's own rule for addresses is more than its limits allow it, and it says nothing.
_URI: Final = "^https?://[a-z0-9-]{1,20}([.][a-z]{2,10}){1,2}(/[A-Za-z0-9_-]{1,20}){0,4}$"
_ENDINGS: Final = 32
_SIGNS: Final = frozenset(b"@:./-")
"""What addresses and dates cannot do without."""
_LENGTH_MAX: Final = 64
_QUOTE: Final = ord('"')
_CLOSE_SHARE: Final = 3


def ruled(words: dict[str, Any]) -> dict[str, Any]:
    """A string's schema as the engine can hold it: what fits it also fits ``words``."""
    if words.get("format") != "uri" or "pattern" in words:
        return {**words, "type": "string"}
    return {"pattern": _URI, "type": "string"} | {k: v for k, v in words.items() if k != "format"}


def endings(words: dict[str, Any], raw: str) -> list[str]:
    """Some ways to end the JSON string that begins with ``"`` and ``raw``, quote included.

    None where none begins like that, and where none was found.
    """
    dice = random.Random(len(raw))  # noqa: S311 - a choice of examples, the same each time
    start = _matcher(words, f'"{raw}')
    found: dict[str, None] = {}
    for _ in range(_ENDINGS if start is not None else 0):
        ending = _walk(start.deep_copy(), dice)
        if ending is not None:
            found[ending] = None
    return list(found)


def _matcher(words: dict[str, Any], start: str) -> Any:
    """A matcher that has read ``start``; ``None`` where no such string begins like that."""
    schema = {**words, "type": "string"}
    matcher = LLMatcher(_BYTES, LLMatcher.grammar_from_json_schema(json.dumps(schema)), log_level=0)
    return matcher if matcher.consume_tokens(list(start.encode())) else None


def _walk(matcher: Any, dice: random.Random) -> str | None:
    written = bytearray()
    while len(written) < _LENGTH_MAX:
        bits = matcher.compute_bitmask()
        allowed = [byte for byte in range(0x20, 0x7F) if bits[byte // 8] >> byte % 8 & 1]
        if not allowed:
            return None
        plain = [byte for byte in allowed if byte in _SIGNS or chr(byte).isalnum()] or allowed
        ends = _QUOTE in allowed and (plain == [_QUOTE] or dice.randrange(_CLOSE_SHARE) == 0)
        byte = _QUOTE if ends else dice.choice(plain)
        written.append(byte)
        matcher.consume_token(byte)
        if byte == _QUOTE:
            return written.decode()
        if byte == ord("\\"):
            return None
    return None
