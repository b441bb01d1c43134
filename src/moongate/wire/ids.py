"""Tool-call ids as Kimi writes them: ``functions.NAME:IDX``, one counter over the conversation.

The id is the only place where a tool's result names its function, and the model reads it: any
other spelling poisons its next calls. So whatever ids a client sends become these on the way to a
Kimi, on the assistant's message and the tool's alike, and whatever ids come back are counted on
from there. Pure, and a function of the messages' order alone: the ids of a conversation never
change while it grows, so that a prompt cache keeps its prefix.
"""

from collections import deque
from collections.abc import Iterable
from typing import Final

import msgspec

from moongate.core.events import Event, ToolCall
from moongate.core.request import Message, Tool

_PREFIX: Final = "functions."


def call_id(name: str, index: int) -> str:
    """The id of call number ``index`` of a conversation."""
    return f"{_PREFIX}{name}:{index}"


def calls_in(messages: Iterable[Message]) -> int:
    """How many calls the messages hold: the number of the next one."""
    return sum(len(message.tool_calls) for message in messages)


def numbered(messages: Iterable[Message]) -> tuple[Message, ...]:
    """The messages with their ids counted anew.

    A tool's message belongs to the first unanswered call with its id in the assistant's message
    before it: ids that repeat, within one message or across the conversation, stay apart.
    """
    out: list[Message] = []
    waiting: dict[str, deque[str]] = {}  # the client's id -> ours, in their order
    count = 0
    for message in messages:
        made = message
        if message.role == "assistant":
            waiting = {}
        if message.tool_calls:
            calls = []
            for call in message.tool_calls:
                calls.append(msgspec.structs.replace(call, id=call_id(call.name, count)))
                waiting.setdefault(call.id, deque()).append(calls[-1].id)
                count += 1
            made = msgspec.structs.replace(message, tool_calls=tuple(calls))
        elif message.role == "tool":
            ours = waiting.get(message.tool_call_id or "")
            if ours:
                made = msgspec.structs.replace(message, tool_call_id=ours.popleft())
        out.append(made)
    return tuple(out)


class Numbering:
    """Gives the calls of one answer their ids, counting on from ``messages``; each choice alone.

    What the upstream called them does not matter: shorter ids, counters that start again, none.
    Nor does a ``functions.`` that its parser left before the name of one of ``tools``.
    """

    def __init__(self, messages: Iterable[Message], tools: Iterable[Tool] = ()) -> None:
        self._first = calls_in(messages)
        self._names = {tool.name for tool in tools}
        self._next: dict[int, int] = {}

    def feed(self, events: list[Event]) -> list[Event]:
        """The same events, each call under its id."""
        for at, event in enumerate(events):
            if type(event) is ToolCall:
                count = self._next.get(event.choice, self._first)
                self._next[event.choice] = count + 1
                name = self._name(event.name)
                events[at] = msgspec.structs.replace(event, id=call_id(name, count), name=name)
        return events

    def _name(self, told: str) -> str:
        bare = told.removeprefix(_PREFIX)
        return bare if bare in self._names and told not in self._names else told
