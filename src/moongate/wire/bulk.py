"""How much structure a JSON text has: braces, brackets, commas and colons outside its strings.

It is told before anything parses the text, for a parse of much structure holds the interpreter. It
is exact, but for texts of up to two megabytes that look plain: they are judged by samples, taken
where nobody can foresee, and counted once they were parsed.
"""

import random
from collections.abc import Iterator
from typing import Any, Final

from moongate.core.errors import Refused

DEPTH_MAX: Final = 64
TOKENS_MAX: Final = 200_000
"""Structural tokens: braces, brackets, commas and colons outside strings."""
SLICE: Final = 1 << 18
_STRUCTURE: Final = b"[]{},:"
_SAMPLED: Final = 2 << 20
"""Bytes of a larger body are not judged by samples."""
_PLAIN_COUNT: Final = 4 << 20
"""Bytes of a larger body are not counted in one go."""
_SAMPLES: Final = 64
_SAMPLE: Final = 1_024

_places = random.Random()  # noqa: S311 - seeded by the system; guessing it gains a few milliseconds


def weigh(body: bytes) -> None:
    """Refuse JSON that is divided too much, before anything parses it.

    Most bodies pass on a count of bytes, wherever these stand; the others are counted outside
    their strings.
    """
    size = len(body)
    if size <= TOKENS_MAX or (size <= _SAMPLED and _looks_plain(body)):
        return
    if size <= _PLAIN_COUNT and _signs(body) <= TOKENS_MAX:
        return
    tokens = 0
    for part in outside(body):
        tokens += _signs(part)
        if tokens > TOKENS_MAX:
            raise Refused("json_too_complex")


def check(body: bytes, value: dict[Any, Any]) -> None:
    """Refuse what was parsed from ``body`` where it is nested too deeply, or too much of it."""
    size = len(body)
    if size <= TOKENS_MAX and body.count(b"[") + body.count(b"{") <= DEPTH_MAX:
        return
    tokens = 0
    level: list[Any] = [value]
    for _ in range(DEPTH_MAX):
        # Brackets, commas, and a colon for each of a dict's keys.
        tokens += sum(2 + max(0, len(one) * (1 + (type(one) is dict)) - 1) for one in level)
        if tokens > TOKENS_MAX:
            break
        level = [
            inner
            for outer in level
            for inner in (outer.values() if type(outer) is dict else outer)
            if type(inner) is dict or type(inner) is list
        ]
        if not level:
            return
    raise Refused("json_too_complex")


def outside(body: bytes) -> Iterator[bytes]:
    """What stands between the strings of ``body``, in parts; exact as far as it is JSON.

    It is looked at in slices, so that no step keeps the interpreter for long. Cut at quotes: one
    ends a string unless an odd number of backslashes stands before it, so the escapes are taken
    out first; a slice ends before or behind one. Raises Refused.
    """
    in_string = False
    # A body within the limit has at most one string a token, and one more; two quotes each.
    quotes, at, size = 2 * (TOKENS_MAX + 1), 0, len(body)
    while at < size:
        end = min(at + SLICE, size)
        run = end - at - len(body[at:end].rstrip(b"\\"))
        end += run % 2
        part = body[at:end]
        at = end
        if b"\\" in part:
            part = part.replace(b"\\\\", b"").replace(b'\\"', b"")
        pieces = part.split(b'"', quotes + 1)
        quotes -= len(pieces) - 1
        if quotes < 0:
            raise Refused("json_too_complex")
        yield b"".join(pieces[in_string::2])
        in_string ^= len(pieces) % 2 == 0


def _looks_plain(body: bytes) -> bool:
    """Whether samples of ``body`` hold half of what it may hold; a few in a hundred may err."""
    last = len(body) - _SAMPLE
    found = 0
    for at in _places.choices(range(last + 1), k=_SAMPLES):
        found += _signs(body[at : at + _SAMPLE])
    return found * len(body) <= TOKENS_MAX // 2 * _SAMPLES * _SAMPLE


def _signs(text: bytes) -> int:
    return len(text) - len(text.translate(None, _STRUCTURE))
