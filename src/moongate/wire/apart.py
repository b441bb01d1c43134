"""Long data URLs of a JSON text, taken out before it is parsed and put back behind.

A parser goes over a picture of many megabytes in one step, and holds the interpreter all the while.
Such a text has nothing to parse: it is looked through in slices, and copied once.
"""

import re
import secrets
from typing import Any, Final

WORTH: Final = 2 << 20
"""Bytes of a body that is looked at: the parser is done with a smaller one in a moment."""
LONG: Final = 1 << 18
"""Bytes of a data URL that is taken out; also how much is looked through at once."""
PASSED_MAX: Final = 10_000
"""So many openings that were left are enough: the rest stays where it is."""
_OPENING: Final = b'"data:'
_MARK: Final = f"moongate:{secrets.token_hex(16)}:"
"""Stands where a text was taken out. No client knows it."""
_UNPLAIN: Final = bytes({*range(0x20), *range(0x7F, 0x100), *b'"\\'})
_NAMES: Final = re.compile(rb"[ \t\n\r]*+:")
"""Behind a string: it names what comes."""

Taken = dict[str, str]
"""The texts by what stands in their places."""


def take(body: bytes) -> tuple[bytes, Taken]:
    """``body`` without its long data URLs, and these.

    It is JSON exactly when ``body`` is, and then means the same once they are put back.
    """
    taken: Taken = {}
    pieces: list[bytes | memoryview] = []
    view = memoryview(body)
    done = at = passed = 0
    while passed < PASSED_MAX and (at := _next(body, at)) >= 0:
        start, end = at + 1, body.find(b'"', at + 1)
        at += len(_OPENING)
        passed += 1
        if end - start < LONG or body[start - 2 : start - 1] == b"\\":
            continue
        if _NAMES.match(body, end + 1) or not _is_plain(view[start:end]):
            continue
        mark = f"{_MARK}{len(taken)}"
        taken[mark] = str(view[start:end], "ascii")
        pieces += (view[done:start], mark.encode())
        done = at = end
        passed -= 1
    return (b"".join([*pieces, view[done:]]), taken) if taken else (body, taken)


def put_back(value: Any, taken: Taken) -> Any:
    """``value``, as it was parsed, with what was taken out; lists and objects are changed."""
    if type(value) is str:
        return taken.get(value, value) if value.startswith(_MARK) else value
    if type(value) is dict:
        for name, inner in value.items():
            value[name] = put_back(inner, taken)
    elif type(value) is list:
        value[:] = [put_back(inner, taken) for inner in value]
    return value


def _next(body: bytes, at: int) -> int:
    """Where the next data URL may begin, from ``at`` on; -1: nowhere."""
    while at < len(body):
        found = body.find(_OPENING, at, at + LONG + len(_OPENING) - 1)
        if found >= 0:
            return found
        at += LONG
    return -1


def _is_plain(text: memoryview) -> bool:
    """Whether a JSON string may hold the bytes of ``text`` as they are, and all are ASCII."""
    for at in range(0, len(text), LONG):
        part = bytes(text[at : at + LONG])
        if len(part.translate(None, _UNPLAIN)) != len(part):
            return False
    return True
