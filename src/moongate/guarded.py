"""One JSON text of an answer on its way to the client: passed on as it comes, its end held back.

What could be a Markdown fence, space or words around the value is held back; so is the bracket
that closes the value, until the whole was found to be as promised. So what was passed on is never
contradicted, and what is broken never reaches the client as whole.
"""

import re
from collections.abc import Iterator
from typing import Any, Final, Literal

import msgspec

from moongate.core.sealed import Sealed
from moongate.wire.json_text import JsonText
from moongate.wire.schema import gate
from moongate.wire.schema.instance import Instance

_FENCE: Final = re.compile(r"```[A-Za-z0-9]{0,16}[ \t]{0,4}\r?\n")
_FENCE_BEGUN: Final = re.compile(r"`{1,2}|```[A-Za-z0-9]{0,16}[ \t]{0,4}\r?")
_OPENERS: Final = re.compile(r"[{\[]")
_LOOKS_MAX: Final = 32
"""In words with many brackets the value is looked for at so many of them."""


class Wanted:
    """What a text must be: JSON, an object or anything, and an instance of ``schema``.

    A schema that no answer can be held to asks for nothing: who must not send one was refused.
    """

    def __init__(self, schema: Any = None, *, only_object: bool = True) -> None:
        self._schema, self.only_object = schema, only_object
        self._instance: Instance | None = None

    def holds(self, text: str) -> bool:
        """Whether ``text`` is as wanted; takes its time, which is bounded, for a long one."""
        try:
            value = msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return False
        if self.only_object and not isinstance(value, dict):
            return False
        if self._instance is None and self._schema is not None:
            self._instance, self._schema = gate.instance(self._schema), None
        return self._instance is None or self._instance.holds(value)

    @property
    def slow(self) -> bool:
        """Whether there is more to check than that it is JSON."""
        return self._instance is not None or self._schema is not None


class Piece(Sealed, frozen=True):
    """What to pass on; where a ``value`` ends with it, only once that was found as wanted."""

    text: str = ""
    value: str | None = None


_NOTHING: Final = Piece()


class GuardedText:
    """A text that must be one JSON value, after ``prefix``, which the client has already.

    ``state``: nothing of it came yet; words are held back; the value runs; it has ended; or
    nothing is asked of the text any more. ``whole``: the value was found to be as wanted.
    """

    def __init__(self, wanted: Wanted, prefix: str = "") -> None:
        self.wanted = wanted
        self.state: Literal["before", "words", "inside", "ended", "free"] = "before"
        self.whole = False
        self._reader = JsonText()
        self._value: list[str] = []
        self._held: list[str] = []
        if prefix.strip():
            self._value.append(prefix)
            self._reader.feed(prefix)
            self.state = "ended" if self._reader.done else "inside"

    @property
    def broken(self) -> bool:
        """Whether what came cannot be saved any more."""
        return self._reader.broken

    @property
    def empty(self) -> bool:
        """Whether nothing but space came."""
        return self.state == "before" and not self._held

    def feed(self, text: str) -> Piece:
        """Take the next piece."""
        if self.state == "before":
            text = self._begin("".join(self._held) + text)
        if self.state == "free":
            return Piece(text)
        if self.state == "words":
            self._held.append(text)
        if self.state != "inside":
            return _NOTHING
        taken = text[: self._reader.feed(text)]
        self._value.append(taken)
        if not self._reader.done:
            return Piece(taken)
        self.state = "ended"
        return Piece(taken, "".join(self._value))

    def finish(self) -> Piece:
        """The answer is complete: the value that is still to be told."""
        if self.state == "words":
            found = _value_in("".join(self._held))
            return _NOTHING if found is None else Piece(found, found)
        if self.state == "ended" or (self.state == "inside" and self._reader.close()):
            return Piece(value="".join(self._value))
        return _NOTHING

    def release(self) -> str:
        """What is held back goes as it is: the answer was cut short, or goes on in a tool call."""
        held, self._held = self._held, []
        self.state = "free"
        return "".join(held)

    def _begin(self, text: str) -> str:
        """What is left of the beginning ``text`` once its fence is off, and the state after it."""
        text = text.lstrip()
        if (fence := _FENCE.match(text)) is not None:
            text = text[fence.end() :].lstrip()
        elif _FENCE_BEGUN.fullmatch(text):
            self._held = [text]
            return ""
        self._held = []
        if text:
            opens = text[0] == "{" or (text[0] == "[" and not self.wanted.only_object)
            self.state = "inside" if opens else "words"
        return text


def _value_in(words: str) -> str | None:
    """The one JSON value in ``words``, or all of them; ``None``: there is none, or several."""
    reader, text = JsonText(), words.strip().removesuffix("```").rstrip()
    if reader.feed(text) == len(text) and reader.close():
        return text
    found = list(_containers_in(words))
    return found[0] if len(found) == 1 else None


def _containers_in(words: str) -> Iterator[str]:
    """The objects and lists in ``words`` that do not stand in one another."""
    at = 0
    for _ in range(_LOOKS_MAX):
        opener = _OPENERS.search(words, at)
        if opener is None:
            return
        reader = JsonText()
        end = opener.start() + reader.feed(words[opener.start() :])
        if reader.done:
            yield words[opener.start() : end]
        at = end if reader.done else opener.end()
