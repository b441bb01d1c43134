"""An answer's tokens from its text, as it comes: for upstreams that stay silent about usage.

Little text is kept: when there is more, the begin of it is counted and let go, cut before a space
that follows a word, where the tokenizer itself cuts. Only where no such place is near, a cut adds a
token or two.
"""

from typing import Final

from moongate.meter.tokenizer import Tokenizer

HELD_CHARS: Final = 16_384
PIECE_CHARS: Final = 2_048
"""What is encoded at once while the answer runs: little, because other answers wait meanwhile."""


class Output:
    """Counts the texts of one answer; each strand (a choice's thinking, …) is joined by itself."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._held: dict[object, list[str]] = {}
        self._sizes: dict[object, int] = {}
        self._counted = 0

    def __repr__(self) -> str:
        return f"Output({sum(self._sizes.values())} chars held)"

    def add(self, strand: object, text: str) -> None:
        """Take the next ``text`` of ``strand``."""
        self._held.setdefault(strand, []).append(text)
        size = self._sizes[strand] = self._sizes.get(strand, 0) + len(text)
        if size > HELD_CHARS:
            whole = "".join(self._held[strand])
            while len(whole) > HELD_CHARS:
                at = _cut(whole)
                self._counted += self._tokenizer.count(whole[:at])
                whole = whole[at:]
            self._held[strand], self._sizes[strand] = [whole], len(whole)

    def tokens(self) -> int:
        """Tokens of everything so far."""
        held = ("".join(texts) for texts in self._held.values())
        return self._counted + sum(self._tokenizer.count(text) for text in held)


def _cut(text: str) -> int:
    at = text.rfind(" ", 1, PIECE_CHARS)
    while at > 0 and text[at - 1].isspace():
        at = text.rfind(" ", 1, at)
    return at if at > 0 else PIECE_CHARS
