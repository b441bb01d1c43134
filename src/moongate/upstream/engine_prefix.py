"""JSON that has only begun: what a prefix says already, and where it stops.

White space between tokens is free, as in any JSON. Text that is no begin of JSON raises
:class:`NoBegin`. Knows no schemas.
"""

import json
import re
from typing import Any, Final, Literal

from moongate.core.sealed import Sealed

_SPACE: Final = re.compile(r"[ \t\r\n]*")
_BARE: Final = re.compile(r"[-+.0-9A-Za-z]*")
_TEXT: Final = re.compile(r'(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*')
_CUT: Final = re.compile(r"\\(?:u[0-9a-fA-F]{0,3})?")
_WORDS: Final = ("true", "false", "null")
_NUMBER: Final = re.compile(r"-?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)?")

Place = Literal["open", "comma", "value", "name", "named", "colon", "inside"]
"""Where a list or an object stops: after its bracket, a comma, a whole value, within a name, after
a name, after a colon, or within a value."""


class NoBegin(Exception):
    """The text does not begin any JSON."""


class Begun(Sealed, frozen=True):
    """What stands there, by ``kind``.

    ``none``: nothing yet; ``whole``: a ``value``; ``text`` and ``bare``: ``raw``, as written so
    far; ``list`` (``items``) and ``pairs`` stop at ``place``, perhaps within ``last``.
    """

    kind: Literal["none", "whole", "text", "bare", "list", "pairs"]
    value: Any = None
    raw: str = ""
    items: tuple[Any, ...] = ()
    pairs: dict[str, Any] = {}
    name: str = ""
    place: Place = "open"
    last: "Begun | None" = None


NOTHING: Final = Begun("none")


def begun(text: str) -> Begun:
    """What ``text`` has begun. Raises NoBegin."""
    reader = _Reader(text)
    try:
        found = reader.value()
    except RecursionError:
        raise NoBegin from None
    reader.space()
    if reader.at < len(text):
        raise NoBegin
    return found


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def space(self) -> str:
        """Skip white space; returns the next character, "" at the end."""
        self.at = _SPACE.match(self.text, self.at).end()  # type: ignore[union-attr] # may be empty
        return self.text[self.at : self.at + 1]

    def value(self) -> Begun:
        match self.space():
            case "":
                return NOTHING
            case '"':
                return self._text()
            case "[":
                return self._list()
            case "{":
                return self._pairs()
        return self._bare()

    def _text(self) -> Begun:
        start = self.at + 1
        end = _TEXT.match(self.text, start).end()  # type: ignore[union-attr] # may be empty
        if self.text[end : end + 1] == '"':
            self.at = end + 1
            return Begun("whole", json.loads(self.text[start - 1 : self.at]))
        self.at = len(self.text)
        if end < self.at and not _CUT.fullmatch(self.text, end):
            raise NoBegin
        return Begun("text", raw=self.text[start:])

    def _bare(self) -> Begun:
        start = self.at
        self.at = _BARE.match(self.text, start).end()  # type: ignore[union-attr] # may be empty
        raw = self.text[start : self.at]
        if self.at < len(self.text) or raw in _WORDS:
            try:
                return Begun("whole", json.loads(raw))
            except ValueError:
                raise NoBegin from None
        if not (_NUMBER.fullmatch(raw) or any(word.startswith(raw) for word in _WORDS)):
            raise NoBegin
        return Begun("bare", raw=raw)

    def _list(self) -> Begun:
        self.at += 1
        items: list[Any] = []
        place: Place = "open"
        while char := self.space():
            if char == "]" and place != "comma":
                self.at += 1
                return Begun("whole", items)
            if place == "value":
                if char != ",":
                    raise NoBegin
                self.at += 1
                place = "comma"
                continue
            last = self.value()
            if last.kind != "whole":
                return Begun("list", items=tuple(items), place="inside", last=last)
            items.append(last.value)
            place = "value"
        return Begun("list", items=tuple(items), place=place)

    def _pairs(self) -> Begun:
        self.at += 1
        pairs: dict[str, Any] = {}
        place: Place = "open"
        while char := self.space():
            if char == "}" and place != "comma":
                self.at += 1
                return Begun("whole", pairs)
            if place == "value":
                if char != ",":
                    raise NoBegin
                self.at += 1
                place = "comma"
                continue
            if char != '"':
                raise NoBegin
            name = self._text()
            if name.kind == "text":
                return Begun("pairs", pairs=pairs, raw=name.raw, place="name")
            char = self.space()
            if char not in ("", ":"):
                raise NoBegin
            self.at += len(char)
            last = self.value() if char else NOTHING
            if last.kind == "none":
                place = "colon" if char else "named"
                return Begun("pairs", pairs=pairs, name=name.value, place=place)
            if last.kind != "whole":
                return Begun("pairs", pairs=pairs, name=name.value, place="inside", last=last)
            pairs[name.value] = last.value
            place = "value"
        return Begun("pairs", pairs=pairs, place=place)
