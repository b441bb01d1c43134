"""Structured output is a promise: JSON where it was asked for, arguments that fit their tool.

The guard sees an answer's events before the client does, and holds every JSON text in them to what
the request asks (see ``guarded``). It makes nothing up: it leaves out what stands around a value,
and says ``broken`` where the answer is not as promised. It refuses to know upstreams and money, and
whether there will be another attempt.
"""

import asyncio
from collections.abc import Iterable
from typing import Final

import msgspec

from moongate.core.errors import Refused, UpstreamProtocolError
from moongate.core.events import Event, Finished, Text, ToolArgs, ToolCall
from moongate.core.request import Request
from moongate.guarded import GuardedText, Piece, Wanted
from moongate.wire.json_text import JsonText

_INLINE_CHARS: Final = 8192
"""A longer text is parsed in a thread."""
_NO_ARGUMENTS: Final = Piece("{}", "{}")
"""Some models call a tool that takes nothing with no arguments at all."""


class NotAsPromised(UpstreamProtocolError):
    """The model's answer is not what was asked: no fault of the upstream's health."""

    unhealthy = False

    def __init__(self) -> None:
        super().__init__("not_as_promised")


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
        self._texts: dict[int, GuardedText] = {}
        self._calls: dict[tuple[int, int], GuardedText] = {}

    async def take(self, events: Iterable[Event]) -> list[Event]:
        """What of ``events`` may go to the client now."""
        out: list[Event] = []
        if self._content is None and not self._tools:
            return list(events)
        for event in events:
            if self.broken:
                break
            if isinstance(event, Text) and self._content is not None:
                text = self._text(event.choice, self._content)
                await self._pass(text, text.feed(event.text), event, out)
            elif isinstance(event, ToolCall):
                self._open(event, out)
            elif isinstance(event, ToolArgs) and (event.choice, event.index) in self._calls:
                text = self._calls[event.choice, event.index]
                await self._pass(text, text.feed(event.text), event, out)
            elif isinstance(event, Finished):
                await self._finish(event, out)
            else:
                out.append(event)
        return out

    def _text(self, choice: int, wanted: Wanted) -> GuardedText:
        if choice not in self._texts:
            self._texts[choice] = GuardedText(wanted, self._prefix)
        return self._texts[choice]

    def _open(self, event: ToolCall, out: list[Event]) -> None:
        """A call begins: what was said before it is no answer yet."""
        if self._content is not None:
            text = self._text(event.choice, self._content)
            _put(Text("", event.choice), text.release(), out)
        out.append(event)
        if event.type == "function":  # what the platform runs itself is the platform's to write
            wanted = self._tools.get(event.name) or Wanted()
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
