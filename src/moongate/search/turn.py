"""One round of an answer that may search: what the client sees of it, and what is for us.

Events in, events out; it awaits nothing. Calls of our tool are kept and counted, the client's own
pass on. The finish is kept back only where the round was for us: then another one follows. Where
the model called both in one round, the client's calls are what it gets; ours are dropped, and the
model may make them again.
"""

from collections.abc import Iterable
from typing import Final

import msgspec

from moongate.core.events import (
    Aside,
    Event,
    Finished,
    Reason,
    Text,
    Thinking,
    ToolArgs,
    ToolCall,
    Used,
)
from moongate.core.ports import WebSearch
from moongate.core.request import Call
from moongate.search.citing import Citing

_BREAK: Final = "\n\n"


class Turn:
    """Reads one round.

    ``calls`` are those of our tool, ``reason`` is the finish that was kept back, ``ended`` the
    upstream's own, kept back or not. ``apart``: text of
    an earlier round was shown. ``holds``: text waits until it is clear that it is the answer.
    ``last``: no other round will follow.
    """

    def __init__(
        self, search: WebSearch, citing: Citing, *, apart: bool, holds: bool, last: bool
    ) -> None:
        self._search, self._citing = search, citing
        self._apart, self._holds, self._last = apart, holds, last
        self.said: list[str] = []
        self.thought: list[str] = []
        self.reason: Reason | None = None
        self.ended: Reason | None = None
        self.shown = False
        self.theirs = 0
        self._held: list[Text] = []
        self._ours: dict[int, tuple[ToolCall, list[str]]] = {}
        self._index: dict[int, int] = {}
        self._pieces, self._told = 0, 0
        self.thinks = False

    def __repr__(self) -> str:
        return f"Turn({len(self._ours)} calls)"

    @property
    def output(self) -> int:
        """Output tokens of this round, as far as anybody told or they were seen."""
        return max(self._pieces, self._told)

    @property
    def calls(self) -> list[Call]:
        """The calls of our tool."""
        return [
            Call(call.id, call.name, "".join(args), call.type) for call, args in self._ours.values()
        ]

    @property
    def charged(self) -> bool:
        """Whether the maker charges the round: it ended in a search of its, and was not cut."""
        return bool(self._ours) and self.ended == "tool_calls"

    def take(self, events: Iterable[Event]) -> list[Event]:
        """What of ``events`` goes on."""
        out: list[Event] = []
        for event in events:
            match event:
                case Text():
                    self._text(event, out)
                case ToolCall():
                    self._call(event, out)
                case ToolArgs():
                    self._arguments(event, out)
                case Finished():
                    self._finish(event, out)
                case Thinking():
                    self.thinks = True
                    self._pieces += 1
                    self.thought.append(event.text)
                    out.append(event)
                case Used():
                    self._told = max(self._told, event.counts.completion or 0)
                    out.append(event)
                case _:
                    out.append(event)
        return out

    def _text(self, event: Text, out: list[Event]) -> None:
        self._pieces += 1
        self.said.append(event.text)
        if self._holds:
            self._held.append(event)
        elif event.text:
            self._show(event, out)

    def _show(self, event: Text, out: list[Event]) -> None:
        """Text that the client sees, with the citations that end in it."""
        if self._apart and not self.shown:
            event = msgspec.structs.replace(event, text=_BREAK + event.text.lstrip("\n"))
        self.shown = True
        out += [event, *self._citing.feed(event.text)]

    def _release(self, out: list[Event]) -> None:
        held, self._held, self._holds = self._held, [], False
        for event in held:
            self._show(event, out)

    def _call(self, event: ToolCall, out: list[Event]) -> None:
        self._pieces += 1
        if event.name == self._search.tool:
            self._ours[event.index] = event, []
            out.append(Aside(event.name, event.choice))
            return
        self._release(out)
        self._index[event.index] = self.theirs
        out.append(msgspec.structs.replace(event, index=self.theirs))
        self.theirs += 1

    def _arguments(self, event: ToolArgs, out: list[Event]) -> None:
        self._pieces += 1
        if event.index in self._ours:
            self._ours[event.index][1].append(event.text)
            out.append(Aside(event.text, event.choice))
        else:
            out.append(msgspec.structs.replace(event, index=self._index[event.index]))

    def _finish(self, event: Finished, out: list[Event]) -> None:
        self.ended = event.reason
        called = bool(self._ours) and event.reason in ("stop", "tool_calls")
        if called and not self._last and (self._search.by_client or not self.theirs):
            self.reason = event.reason
            return
        self._release(out)
        if called and not self.theirs:
            event = msgspec.structs.replace(event, reason="stop")  # the call is nobody's to answer
        if event.reason != "tool_calls":
            out += self._citing.rest()
        out.append(event)
