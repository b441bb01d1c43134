"""Long texts of a request as JSON, spelt before they are wanted: while money is set aside for it.

Each spelling is used once, by whoever sends the request first, and is gone then: an answer may take
minutes, and the texts themselves are all that another attempt needs.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from moongate.core.request import Request, TextPart

LONG: Final = 1 << 15
"""Characters of a text that is worth it."""
PIECE: Final = 1 << 18
"""Characters that are spelt at once."""
IN_ALL: Final = 8 << 20
"""Characters of one request that are spelt ahead."""

_encode = msgspec.json.Encoder().encode


def spell(text: str, start: int = 0, size: int = PIECE) -> Iterator[bytes]:
    """The inside of ``text``'s JSON string from ``start`` on, ``size`` characters at a time."""
    for at in range(start, len(text), size):
        yield _encode(text[at : at + size])[1:-1]


class Spelling:
    """What is spelt of one request so far. Texts are told apart by identity."""

    def __init__(self) -> None:
        self._found: dict[int, tuple[str, list[bytes]]] = {}

    def __repr__(self) -> str:
        return f"Spelling({len(self._found)} texts)"

    def write(self, texts: Sequence[str]) -> Iterator[None]:
        """Spell ``texts`` step by step, one piece in each."""
        for text in texts:
            pieces: list[bytes] = []
            self._found[id(text)] = text, pieces
            for piece in spell(text):
                pieces.append(piece)
                yield

    def has(self, text: str) -> bool:
        """Whether something of ``text`` is spelt."""
        return id(text) in self._found

    def take(self, text: str) -> tuple[list[bytes], int]:
        """The pieces that are there, and how many characters of ``text`` they are."""
        _, pieces = self._found.pop(id(text), (text, []))
        return pieces, min(len(pieces) * PIECE, len(text))

    def clear(self) -> None:
        """Forget all of it."""
        self._found.clear()


def long_texts(request: Request) -> list[str]:
    """The texts of ``request`` that are worth it, as far as they are not too much together."""
    left = IN_ALL
    found = []
    for text in _texts(request):
        if LONG <= len(text) <= left:
            left -= len(text)
            found.append(text)
    return found


def _texts(request: Request) -> Iterator[str]:
    for message in request.messages:
        if isinstance(message.content, str):
            yield message.content
        else:
            yield from (p.text for p in message.content or () if isinstance(p, TextPart))
        if message.thinking:
            yield message.thinking
        yield from (call.arguments for call in message.tool_calls)
