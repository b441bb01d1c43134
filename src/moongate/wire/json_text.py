"""A JSON text as it comes, in pieces of any size: how far it is JSON, and where its value ends.

One value is read by RFC 8259, depth and all; nothing of it is kept and nothing is made of it. This
module refuses to know what the value should be.
"""

import re
from typing import Final, Literal

DEPTH_MAX: Final = 64

_SPACE: Final = " \t\n\r"
_PLAIN: Final = re.compile(r'[^"\\\x00-\x1f]*')
_SCALAR: Final = re.compile(r"[-+.0-9A-Za-z]*")
_NUMBER: Final = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_NUMBER_BEGUN: Final = re.compile(
    r"-?(0|[1-9][0-9]*)?((?<=[0-9])\.[0-9]*)?((?<=[0-9])[eE][-+]?[0-9]*)?"
)
_WORDS: Final = ("true", "false", "null")
_ESCAPES: Final = '"\\/bfnrt'
_HEX: Final = frozenset("0123456789abcdefABCDEF")

# Where the reader stands: before a value, or the end of an empty list as well; before a name, or
# the end of an empty object as well; before a colon; after a value; in a string, of a name or of a
# value; in a number or a word.
Place = Literal["value", "first", "name", "names", "colon", "after", "string", "scalar"]


class JsonText:
    """Reads one value. ``done``: it has ended. ``broken``: what came is not JSON."""

    def __init__(self) -> None:
        self.done = self.broken = False
        self._place: Place = "value"
        self._open: list[str] = []
        self._naming = False
        self._escape = ""
        self._scalar = ""

    @property
    def begun(self) -> bool:
        """Whether anything but space has come."""
        return self._place != "value" or bool(self._open) or self.done

    def feed(self, text: str) -> int:
        """Read on; how many characters belong to the value, up to its end or the first wrong one.

        A number at the root has no end of its own: see :meth:`close`.
        """
        at = 0
        while at < len(text) and not self.done and not self.broken:
            if self._place == "string":
                at = self._string(text, at)
            elif self._place == "scalar":
                at = self._word(text, at)
            elif text[at] in _SPACE or self._step(text[at]):
                at += 1
        return at

    def close(self) -> bool:
        """The text has ended; whether it was one whole value."""
        if self._place == "scalar" and not self._open and not self.broken:
            self._end_word()
        return self.done and not self.broken

    def _step(self, char: str) -> bool:
        """Take one character of structure; false when it was not taken."""
        place = self._place
        if char == '"' and place in ("value", "first", "names", "name"):
            self._naming = place in ("names", "name")
            self._place = "string"
        elif place == "colon" and char == ":":
            self._place = "value"
        elif place == "after" and char == ",":
            self._place = "name" if self._open[-1] == "}" else "value"
        elif place in ("after", "first", "names") and self._open and char == self._open[-1]:
            self._open.pop()
            self._value_ended()
        elif place in ("value", "first"):
            return self._begin(char)
        else:
            self.broken = True
        return not self.broken

    def _begin(self, char: str) -> bool:
        """A value that is no string begins with ``char``."""
        if char in "{[":
            self._open.append("}" if char == "{" else "]")
            self._place = "names" if char == "{" else "first"
            self.broken = len(self._open) > DEPTH_MAX
            return not self.broken
        self._place, self._scalar = "scalar", ""
        self.broken = char not in "-0123456789tfn"
        return False

    def _value_ended(self) -> None:
        self._place = "after"
        self.done = not self._open

    def _string(self, text: str, at: int) -> int:
        if self._escape:
            self._escape += text[at]
            bad = text[at] not in (_ESCAPES + "u" if len(self._escape) == 2 else _HEX)
            if bad:
                self.broken = True
                return at
            if self._escape[1] != "u" or len(self._escape) == 6:
                self._escape = ""
            return at + 1
        found = _PLAIN.match(text, at)
        assert found is not None
        at = found.end()
        if at < len(text):
            if text[at] == '"':
                if self._naming:
                    self._place = "colon"
                else:
                    self._value_ended()
            elif text[at] == "\\":
                self._escape = "\\"
            else:
                self.broken = True
                return at
            at += 1
        return at

    def _word(self, text: str, at: int) -> int:
        found = _SCALAR.match(text, at)
        assert found is not None
        self._scalar += found[0]
        if found.end() < len(text):
            self._end_word()
        elif not _may_become(self._scalar):
            self.broken = True
        return found.end() if not self.broken else at

    def _end_word(self) -> None:
        if self._scalar in _WORDS or _NUMBER.fullmatch(self._scalar):
            self._value_ended()
        else:
            self.broken = True


def _may_become(begun: str) -> bool:
    """Whether a number or a word can begin like that."""
    return any(word.startswith(begun) for word in _WORDS) or bool(_NUMBER_BEGUN.fullmatch(begun))
