"""How Kimi spells its markers, matched at the head of a text that may not be whole yet.

Every question has three answers: where the match ends, :data:`MORE` (what is here may be the
beginning of one), or :data:`NO`. Pure functions over strings; they refuse to know events.
"""

import re
from collections.abc import Collection, Sequence
from typing import Any, Final

import msgspec

from moongate.core.errors import UpstreamProtocolError
from moongate.core.request import Tool

SECTION_BEGINS: Final = ("<|tool_calls_section_begin|>", "<|tool_call_section_begin|>")
SECTION_ENDS: Final = ("<|tool_calls_section_end|>", "<|tool_call_section_end|>")
CALL_BEGIN: Final = ("<|tool_call_begin|>",)
ARGUMENT_BEGIN: Final = ("<|tool_call_argument_begin|>",)
CALL_END: Final = ("<|tool_call_end|>",)
THINK: Final = ("<think>",)
THINK_END: Final = ("</think>",)
BEGINS: Final = SECTION_BEGINS + CALL_BEGIN
STRAYS: Final = SECTION_BEGINS + SECTION_ENDS + CALL_END
"""What may be left over around calls that the upstream read itself."""

MORE: Final = -1
NO: Final = -2  # below MORE: of two questions the more hopeful answer is the larger

POSSIBLE: Final = re.compile(r"<(?:\Z|\|(?:\Z|t)|/?(?:\Z|t(?:\Z|h)))")
"""Where a marker may begin, as far as a glance can tell."""

QUOTING: Final = frozenset(" `'\"(<“「")
QUOTED: Final = frozenset("`'\")>,.;:”」")
"""What stands before and behind a mark that is only spoken of."""

_SPACE: Final = re.compile(r"\s{0,16}")
_ID_CHARS: Final = re.compile(r"[\w.$:-]{0,160}")
_ID: Final = re.compile(r"(?:functions\.)?([a-zA-Z_$][\w$-]{0,127}):\d{1,9}|\d{1,9}", re.ASCII)
_OUTSIDE: Final = re.compile(r'["{}\[\]<]')
_INSIDE: Final = re.compile(r'["\\]')


class BrokenSection(UpstreamProtocolError):
    """A section of calls began and broke off.

    It does not speak against the upstream's health: a client could make a model write so.
    """

    unhealthy = False

    def __init__(self) -> None:
        super().__init__("markers")


class Header(msgspec.Struct, frozen=True):
    """A call's beginning, ``end`` characters long: arguments follow.

    ``name`` is ``""`` where the id was a bare number, and ``None`` for a section without calls.
    """

    end: int
    name: str | None


def literal(text: str, at: int, words: Sequence[str]) -> int:
    """Where one of ``words`` that stands at ``at`` ends."""
    for word in words:
        if text.startswith(word, at):
            return at + len(word)
    rest = len(text) - at
    return MORE if any(text.startswith(word[:rest], at) for word in words) else NO


def space(text: str, at: int = 0) -> int:
    """Where the white space at ``at`` ends; only a little of it may stand between markers."""
    found = _SPACE.match(text, at)
    return found.end() if found else at


def header(text: str, names: Collection[str] | None) -> Header | int:
    """The beginning of a call at the head of ``text``, with or without that of its section.

    ``names`` are the functions that may be called, ``None``: any.
    """
    at = literal(text, 0, SECTION_BEGINS)
    if at == MORE:
        return MORE
    empty = NO
    if at == NO:
        at = 0
    else:
        at = space(text, at)
        empty = literal(text, at, SECTION_ENDS)
    if empty > 0:
        return Header(empty, None)
    at = literal(text, at, CALL_BEGIN)
    return max(at, empty) if at < 0 else _id(text, space(text, at), names)


def opens(text: str) -> bool:
    """Whether ``text`` begins with the beginning of a section or a call."""
    return literal(text, 0, BEGINS) > 0


def empty(text: str) -> bool:
    """Whether ``text`` begins with a section without calls."""
    found = header(text, None)
    return isinstance(found, Header) and found.name is None


def among_words(text: str, found: Header | int, *, called: bool) -> Header | int:
    """``found`` at the head of ``text`` where words stand before it.

    Before any word an empty section is the model's own way to call nothing. Behind words it is one
    of them, unless a parser took the calls out of it: these have ``called``, or come next.
    """
    if not isinstance(found, Header) or found.name is not None:
        return found
    return NO if called or text[found.end :].strip() else MORE


def _id(text: str, at: int, names: Collection[str] | None) -> Header | int:
    found = _ID_CHARS.match(text, at)
    end = found.end() if found else at
    after = space(text, end)
    if after == len(text):
        return MORE
    spelt = _ID.fullmatch(text, at, end)
    if spelt is None:
        return NO
    name = spelt[1] or ""
    if name and names is not None and name not in names:
        return NO
    at = literal(text, after, ARGUMENT_BEGIN)
    if at < 0:
        return at
    at = space(text, at)
    if text[at : at + 1] == "{":
        return Header(at, name)
    closed = literal(text, at, CALL_END)
    return Header(at, name) if closed > 0 else closed


class Json:
    """Finds the end of a JSON object that comes in pieces; markers in its strings are text."""

    def __init__(self) -> None:
        self._depth = 0
        self._inside = self._escaped = False

    def end(self, text: str) -> int:
        """Where the object ends in this piece, or MORE. Raises BrokenSection."""
        at = 0
        while at < len(text):
            if self._escaped:
                self._escaped = False
                at += 1
                continue
            found = (_INSIDE if self._inside else _OUTSIDE).search(text, at)
            if found is None:
                return MORE
            at = found.end()
            match found[0]:
                case '"':
                    self._inside = not self._inside
                case "\\":
                    self._escaped = True
                case "{" | "[":
                    self._depth += 1
                case "<":
                    raise BrokenSection
                case _:
                    self._depth -= 1
                    if self._depth == 0:
                        return at
        return MORE


def whose(tools: Sequence[Tool], arguments: str) -> str:
    """The one tool that can take ``arguments``, for an id that named none. Raises BrokenSection."""
    try:
        value = msgspec.json.decode(arguments)
    except (msgspec.DecodeError, RecursionError):
        raise BrokenSection from None
    fitting = [tool.name for tool in tools if _takes(tool.parameters or {}, value)]
    if len(fitting) != 1:
        raise BrokenSection
    return fitting[0]


def _takes(schema: dict[str, Any], value: Any) -> bool:
    known, needed = schema.get("properties"), schema.get("required")
    known = known if isinstance(known, dict) else {}
    needed = needed if isinstance(needed, list) else []
    return (
        isinstance(value, dict)
        and all(name in value for name in needed)
        and value.keys() <= known.keys()
    )
