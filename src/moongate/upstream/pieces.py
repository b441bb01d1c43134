"""A request's body as JSON in pieces, so that a large one keeps nobody waiting.

Writing a text of many megabytes in one go would hold the interpreter all the while, and a
connection would copy all of it at once. So long texts are taken out, the rest is written, and they
are put back where they stood, cut and written part by part.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Final

import msgspec

from moongate.core.spelling import Spelling, spell

LONG: Final = 1 << 18
"""Characters of a text that are written at once, and bytes that are sent at once."""
_MARK: Final = f"moongate:{secrets.token_hex(16)}"
"""Stands where a long text was taken out. No client knows it."""
_CUT: Final = f'"{_MARK}"'.encode()

_encode = msgspec.json.Encoder().encode


def of(body: dict[str, Any], ahead: Spelling | None = None) -> Iterator[bytes]:
    """The JSON of ``body``, a chat completion request; the pieces make what one encoder makes.

    What is spelt ``ahead`` is taken from there.
    """
    ahead = ahead or Spelling()
    texts: list[str] = []
    short = {**body, "messages": [_cut(message, texts, ahead) for message in body["messages"]]}
    if not texts:
        yield _encode(body)
        return
    between = _encode(short).split(_CUT)
    yield between[0]
    for text, rest in zip(texts, between[1:], strict=True):
        spelt, size = ahead.take(text)
        yield b'"'
        yield from spelt
        yield from spell(text, size, LONG)
        yield b'"' + rest


async def gathered(body: dict[str, Any], ahead: Spelling | None = None) -> list[bytes]:
    """All pieces of ``body``; other work has its turn between large ones."""
    found = []
    for piece in of(body, ahead):
        found.append(piece)
        if len(piece) >= LONG:
            await asyncio.sleep(0)
    return found


async def sent(pieces: Sequence[bytes]) -> AsyncIterator[memoryview]:
    """The pieces as a connection takes them, none too large."""
    for piece in pieces:
        view = memoryview(piece)
        for at in range(0, len(view), LONG):
            yield view[at : at + LONG]
            await asyncio.sleep(0)


def _cut(value: Any, texts: list[str], ahead: Spelling) -> Any:
    """``value`` without its long texts, which go to ``texts`` in their order."""
    if type(value) is str and (len(value) > LONG or ahead.has(value)):
        texts.append(value)
        return _MARK
    if type(value) is dict:
        return {name: _cut(inner, texts, ahead) for name, inner in value.items()}
    if type(value) is list:
        return [_cut(inner, texts, ahead) for inner in value]
    return value
