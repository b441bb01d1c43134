"""Kimi's own markers in an answer's text, where an upstream's parser leaked them, to events.

A model of the Kimi family writes calls as ``<|tool_calls_section_begin|>``, then for each call
``<|tool_call_begin|>functions.NAME:IDX<|tool_call_argument_begin|>JSON<|tool_call_end|>``, then
``<|tool_calls_section_end|>``, and its reasoning up to ``</think>``. Whatever of this is left in
reasoning or content, cut anywhere, becomes proper calls. Grammar decides: a marker not followed by
what must follow is prose and passes, as does a call of what is not on offer; a torn section raises.
"""

from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from moongate.core.events import Event, Finished, Text, Thinking, ToolArgs, ToolCall
from moongate.core.request import Tool
from moongate.upstream import marker_grammar as grammar
from moongate.upstream.marker_grammar import BrokenSection, Header, Json
from moongate.upstream.marker_text import Held, joined

_AT_ONCE: Final = 2_048  # of a piece is read at a time: what is behind prose has to be moved
_State = Literal["prose", "arguments", "section"]


class Markers:
    """The filter of one answer. ``tools``: those on offer, empty where none."""

    def __init__(self, tools: Sequence[Tool]) -> None:
        self._tools = tuple(tools)
        self._choices: dict[int, _Choice] = {}

    def feed(self, events: list[Event]) -> list[Event]:
        """What the client is to see of ``events``. Raises BrokenSection."""
        out: list[Event] = []
        for event in events:
            kind = type(event)
            if kind is Text or kind is Thinking:
                choice = self._choices.get(event.choice)  # type: ignore[union-attr]  # both have it
                text = event.text  # type: ignore[union-attr]  # as above
                if choice is not None and kind in choice.plain and "<" not in text:
                    choice.last = text
                    out.append(event)
                else:
                    self._of(event.choice).say(event, out)  # type: ignore[arg-type,union-attr]  # as above
            elif kind is ToolCall or kind is ToolArgs:
                self._of(event.choice).pass_call(event, out)  # type: ignore[arg-type,union-attr]  # as above
            elif kind is Finished:
                self._of(event.choice).finish(event, out)  # type: ignore[arg-type,union-attr]  # as above
            else:
                out.append(event)
        return out

    def _of(self, index: int) -> "_Choice":
        choice = self._choices.get(index)
        if choice is None:
            choice = self._choices[index] = _Choice(index, self._tools)
        return choice


class _Choice:
    """One choice's text being read: what is held back, and where in the grammar it stands.

    ``plain`` are the kinds of event that pass as they are while they hold no ``<``; ``last`` is
    the text that passed last.
    """

    def __init__(self, index: int, tools: tuple[Tool, ...]) -> None:
        self._index = index
        self._tools = tools
        self._types = {tool.name: tool.type for tool in tools}
        self._state: _State = "prose"
        self._held = Held()
        self._thought = self._said = False  # whether anything but white space passed, and as what
        self._inside = False  # <think> stood in the content
        self._over = False  # </think> stood in the reasoning
        self._json: Json | None = None  # within a call: its arguments, until they are whole
        self._unnamed: list[str] | None = None  # arguments of a call that its id does not name
        self._indexes: dict[int, int] = {}  # an upstream's own call -> its index here
        self._calls = self._leaked = 0
        self._mark = 0  # where in a batch the present event's own begin
        self.plain: frozenset[type] = frozenset()
        self.last = ""

    def say(self, event: Text | Thinking, out: list[Event]) -> None:
        """Take a piece of text."""
        begun = len(out)
        for at in range(0, len(event.text), _AT_ONCE):
            self._read(type(event), event.text[at : at + _AT_ONCE], out)
        if len(event.text) > _AT_ONCE:
            out[begun:] = joined(out[begun:])
        elif not event.text:
            out.append(event)

    def _read(self, kind: type[Text] | type[Thinking], text: str, out: list[Event]) -> None:
        self._held.put(kind, text)
        self._mark = len(out)
        steps = {"prose": self._prose, "arguments": self._arguments, "section": self._between}
        while self._held.text and steps[self._state](out):
            pass
        self._settle()

    def pass_call(self, event: ToolCall | ToolArgs, out: list[Event]) -> None:
        """Take a call, or arguments, that the upstream read itself."""
        self._mark = len(out)
        if self._state == "arguments":
            raise BrokenSection
        if self._state == "section" or self._begun():
            self._held.clear()  # it introduced this very call
        self._emit(len(self._held.text), out)
        self._state = "prose"
        if type(event) is ToolCall:
            self._indexes[event.index] = self._calls if self._leaked else event.index
            self._calls = max(self._calls, self._indexes[event.index]) + 1
        index = self._indexes.get(event.index, event.index)
        out.append(event if index == event.index else msgspec.structs.replace(event, index=index))
        self._settle()

    def finish(self, event: Finished, out: list[Event]) -> None:
        """The choice has ended: what is held back is prose, or a section that broke off."""
        self._mark = len(out)
        cut = event.reason == "length"  # our own cap may fall anywhere, in a section as well
        broken = self._state == "arguments" or (
            self._begun() and not grammar.empty(self._held.text)
        )
        broken = broken or (self._state == "section" and bool(self._held.text.strip()))
        if broken and not cut:
            raise BrokenSection
        closing = self._held.text in grammar.THINK_END and self._thinks()
        if broken or closing or self._state == "section":
            self._held.clear()
        self._emit(len(self._held.text), out)
        if self._leaked and event.reason == "stop":
            event = Finished("tool_calls", event.choice)
        out.append(event)

    def _prose(self, out: list[Event]) -> bool:
        """Pass prose on up to the next marker; False when more must come to tell."""
        found = grammar.POSSIBLE.search(self._held.text)
        if found is None or found.start():
            self._emit(found.start() if found else len(self._held.text), out)
            return True
        for look in (self._think, self._section):
            done = look(out)
            if done is not None:
                return done
        self._emit(1, out)
        return True

    def _think(self, _out: list[Event]) -> bool | None:
        """Read a think mark; ``None`` when there is none here."""
        text = self._held.text
        if not (self._thought or self._said):
            end = grammar.literal(text, 0, grammar.THINK)
            if end > 0:
                self._inside = self._held.kind is Text
                self._held.take(end)
                return True
            if end == grammar.MORE:
                return False
        thinks = self._thinks()
        if self._said and not thinks:
            return None
        end = grammar.literal(text, 0, grammar.THINK_END)
        if end < 0:
            return False if end == grammar.MORE else None
        if thinks:
            if self.last and self.last[-1] in grammar.QUOTING:
                return None
            if end == len(text):
                return False
            if self._held.run > end and text[end] in grammar.QUOTED:
                return None
            self._inside, self._over = False, True
        self._held.take(end)
        return True

    def _section(self, out: list[Event]) -> bool | None:
        """Read the beginning of a call; ``None`` when there is none here."""
        if not self._tools:
            return None
        found = grammar.header(self._held.text, self._types)
        if self._said or (self._thought and self._thinks()):
            found = grammar.among_words(self._held.text, found, called=self._calls > 0)
        if isinstance(found, Header):
            self._open(found, out)
            return True
        stray = grammar.literal(self._held.text, 0, grammar.STRAYS) if self._calls else grammar.NO
        if grammar.MORE in (found, stray):
            return False
        if stray > 0:
            self._held.take(stray)
            return True
        return None

    def _open(self, found: Header, out: list[Event]) -> None:
        """A call begins; its arguments are to be read from here."""
        self._held.take(found.end)
        if found.name is None:
            return
        name = found.name or (self._tools[0].name if len(self._tools) == 1 else "")
        self._state, self._json = "arguments", Json()
        self._unnamed = None if name else []
        if name:
            self._call(name, out)
        if not self._held.text.startswith("{"):
            self._json = None  # it calls without arguments
            self._argue("{}", out)

    def _call(self, name: str, out: list[Event]) -> None:
        self._leaked, self._calls = self._leaked + 1, self._calls + 1
        kind = self._types.get(name, "function")
        out.append(ToolCall(self._calls - 1, "", name, kind, self._index))

    def _argue(self, text: str, out: list[Event]) -> None:
        if self._unnamed is None:
            out.append(ToolArgs(self._calls - 1, text, self._index))
        else:
            self._unnamed.append(text)

    def _arguments(self, out: list[Event]) -> bool:
        """Pass the arguments on up to their end, then the mark that ends their call."""
        if self._json is not None:
            end = self._json.end(self._held.text)
            if end == grammar.MORE:
                end = len(self._held.text)
            else:
                self._json = None
            self._argue(self._held.text[:end], out)
            self._held.take(end)
            return True
        at = grammar.space(self._held.text)
        end = grammar.literal(self._held.text, at, grammar.CALL_END)
        if end == grammar.NO:
            raise BrokenSection
        if end == grammar.MORE:
            return False
        self._held.take(end)
        self._state = "section"
        if self._unnamed is not None:
            arguments, self._unnamed = "".join(self._unnamed), None
            self._call(grammar.whose(self._tools, arguments), out)
            self._argue(arguments, out)
        return True

    def _between(self, out: list[Event]) -> bool:
        """Read what follows a call: another one, the section's end, or prose without that."""
        at = grammar.space(self._held.text)
        rest = self._held.text[at:]
        if not rest:
            return False
        end = grammar.literal(rest, 0, grammar.SECTION_ENDS)
        found = grammar.header(rest, None)
        if isinstance(found, Header):
            self._held.take(at)
            self._open(found, out)
        elif end > 0:
            self._held.take(at + end)
            self._state = "prose"
        elif grammar.MORE in (end, found):
            return False
        elif grammar.literal(rest, 0, grammar.STRAYS + grammar.BEGINS) > 0:
            raise BrokenSection
        else:
            self._state = "prose"
        return True

    def _begun(self) -> bool:
        """Whether what is held back begins a section for certain, as far as it goes."""
        return self._state == "prose" and bool(self._tools) and grammar.opens(self._held.text)

    def _thinks(self) -> bool:
        """Whether the text at the head of what is held back is reasoning."""
        return self._inside if self._held.kind is Text else not self._over

    def _emit(self, length: int, out: list[Event]) -> None:
        """Pass so many characters on as prose, each as what it came as."""
        while length:
            thinks = self._thinks()
            piece = self._held.take(min(length, self._held.run))
            length -= len(piece)
            kind = Thinking if thinks else Text
            before = out[-1] if len(out) > self._mark else None
            if type(before) is kind:  # one piece in is one piece out: pieces may be counted
                out[-1] = kind(before.text + piece, self._index)
            else:
                out.append(kind(piece, self._index))
            self.last = piece
            if not piece.isspace():
                self._thought = self._thought or thinks
                self._said = self._said or not thinks

    def _settle(self) -> None:
        """Say which kinds of event pass as they are from here on."""
        plain: set[type] = set()
        if self._state == "prose" and not self._held.text:
            if self._said and not self._inside:
                plain.add(Text)
            if (self._said or self._thought) and not self._over:
                plain.add(Thinking)
        self.plain = frozenset(plain)
