"""Structured output is a promise: JSON where it was asked for, the calls that were asked for.

The guard sees an answer's events before the client does, and holds every JSON text in them to what
the request asks (see ``guarded``), and every call to the tools and the choice among them (see
``choosing``). It makes nothing up: it leaves out what stands around a value, and says ``broken``
where the answer is not as promised. It refuses to know upstreams and money, and whether there will
be another attempt.
"""

import asyncio
from collections.abc import Iterable
from typing import Final

import msgspec

from moongate.choosing import Choosing
from moongate.core.errors import Refused
from moongate.core.events import (
    Event,
    Finished,
    Started,
    Text,
    Thinking,
    ToolArgs,
    ToolCall,
    Used,
)
from moongate.core.request import Request
from moongate.guarded import GuardedText, Piece, Wanted
from moongate.wire.json_text import JsonText

_INLINE_CHARS: Final = 8192
"""A longer text is parsed in a thread."""
_NO_ARGUMENTS: Final = Piece("{}", "{}")
"""Some models call a tool that takes nothing with no arguments at all."""
_FREE: Final = frozenset({Started, Text, Thinking, Used})
"""Events that pass as they are where nothing is asked of the text."""


class Guard:
    """Holds one answer to what ``request`` asks. ``broken``: it cannot be delivered as whole.

    Raises Refused when the client's own beginning of the answer is none of what it asks for.
    """

    def __init__(self, request: Request) -> None:
        self._content = _content(request)
        last = request.messages[-1]
        self._prefix = last.text() if last.partial and self._content is not None else ""
        if self._content is not None and not _begins(self._prefix, self._content):
            at = f"messages[{len(request.messages) - 1}].content"
            raise Refused("unsuitable_prefix", at)
        self._choosing = Choosing(request)
        if self._choosing.forced:
            self._content = None  # what is said beside a call is not held to the format
        self._tools = {
            tool.name: Wanted(None if tool.strict is False else tool.parameters)
            for tool in request.tools
        }
        self.restart()

    def __repr__(self) -> str:
        return f"Guard({len(self._tools)} tools)"

    def restart(self) -> None:
        """Forget an attempt."""
        self.broken = False
        self._choosing.restart()
        self._texts: dict[int, GuardedText] = {}
        self._calls: dict[tuple[int, int], GuardedText] = {}

    async def take(self, events: Iterable[Event]) -> list[Event]:
        """What of ``events`` may go to the client now."""
        events = list(events)
        choosing = self._choosing
        free = self._content is None and not (choosing.forced or choosing.never)
        if free and all(type(event) in _FREE for event in events):
            return events
        out: list[Event] = []
        for event in events:
            if self.broken:
                break
            if isinstance(event, Text):
                await self._say(event, out)
            elif isinstance(event, ToolCall):
                self._open(event, out)
            elif isinstance(event, ToolArgs):
                if (event.choice, event.index) in self._calls:
                    text = self._calls[event.choice, event.index]
                    await self._pass(text, text.feed(event.text), event, out)
                elif not choosing.never:
                    out.append(event)
            elif isinstance(event, Finished):
                await self._finish(event, out)
            else:
                out.append(event)
        return out

    async def _say(self, event: Text, out: list[Event]) -> None:
        if self._content is not None:
            text = self._text(event.choice, self._content)
            await self._pass(text, text.feed(event.text), event, out)
        elif self._choosing.say(event):
            out.append(event)

    def _text(self, choice: int, wanted: Wanted) -> GuardedText:
        if choice not in self._texts:
            self._texts[choice] = GuardedText(wanted, self._prefix)
        return self._texts[choice]

    def _open(self, event: ToolCall, out: list[Event]) -> None:
        """A call begins: what was said before it is no answer yet."""
        self.broken = not self._choosing.call(event.name, event.choice)
        if self.broken or self._choosing.never:
            return
        out += self._choosing.release(event.choice)
        if self._content is not None:
            text = self._text(event.choice, self._content)
            _put(Text("", event.choice), text.release(), out)
        out.append(event)
        if event.type == "function":  # what the platform runs itself is the platform's to write
            wanted = self._tools[event.name]
            self._calls[event.choice, event.index] = GuardedText(wanted)

    async def _pass(
        self, text: GuardedText, piece: Piece, event: Text | ToolArgs, out: list[Event]
    ) -> None:
        """Pass ``piece`` on as ``event``; the end of a value only once it was checked."""
        if piece.value is not None:
            if text.wanted.slow or len(piece.value) > _INLINE_CHARS:
                text.whole = await asyncio.to_thread(text.wanted.holds, piece.value)
            else:
                text.whole = text.wanted.holds(piece.value)
        self.broken = text.broken or (piece.value is not None and not text.whole)
        if not self.broken:
            _put(event, piece.text, out)

    async def _finish(self, event: Finished, out: list[Event]) -> None:
        """The end of a choice: what was asked must be there, unless the answer was cut short."""
        choice = event.choice
        texts: list[tuple[GuardedText, Text | ToolArgs]] = [
            (text, ToolArgs(index, "", choice))
            for (at, index), text in self._calls.items()
            if at == choice
        ]
        if self._content is not None and not texts:
            texts = [(self._text(choice, self._content), Text("", choice))]
        cut = event.reason not in ("stop", "tool_calls")
        if cut:
            out += self._choosing.release(choice)
        else:
            answers = self._content is not None
            reason = self._choosing.end(event.reason, choice, answers=answers)
            if reason is None:
                self.broken = True
                return
            event = event if reason == event.reason else Finished(reason, choice)
        for text, like in texts:
            if text.whole:
                continue
            if cut:
                _put(like, text.release(), out)
                continue
            empty = text.empty and isinstance(like, ToolArgs)
            await self._pass(text, _NO_ARGUMENTS if empty else text.finish(), like, out)
            self.broken = not text.whole
            if self.broken:
                return
        whole = choice in self._texts and self._texts[choice].whole
        # What was cut off behind a value that is whole was no part of the answer.
        out.append(Finished("stop", choice) if event.reason == "length" and whole else event)


def _content(request: Request) -> Wanted | None:
    """What the answer's text must be; ``None``: it is free."""
    form = request.format
    if form is None or form.kind == "text":
        return None
    if form.kind == "json_object" or form.strict is False:
        return Wanted()
    return Wanted(form.schema, only_object=(form.schema or {}).get("type") == "object")


def _begins(prefix: str, wanted: Wanted) -> bool:
    """Whether a JSON value as ``wanted`` can begin with ``prefix``."""
    text = prefix.strip()
    reader = JsonText()
    return reader.feed(text) == len(text) and (text[:1] in ("", "{") or not wanted.only_object)


def _put(event: Text | ToolArgs, text: str, out: list[Event]) -> None:
    """Say ``text`` as ``event`` says its own."""
    if text:
        out.append(event if text == event.text else msgspec.structs.replace(event, text=text))
