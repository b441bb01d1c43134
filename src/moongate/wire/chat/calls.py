"""Fragments of streamed tool calls to events, however an upstream numbers them.

By the dialect the first fragment has index, id, type and name and the later ones index and
arguments. In the field ids and names are repeated, sent as ``""``, or left out with the index; two
calls share an index; an id comes without a name first. All of these are understood; arguments that
belong to no call raise UpstreamProtocolError.
"""

from collections.abc import Iterator
from typing import Final

import msgspec

from moongate.core.errors import UpstreamProtocolError
from moongate.core.events import ToolArgs, ToolCall

CALLS_MAX: Final = 1024


class FunctionFragment(msgspec.Struct):
    """``function`` of a fragment."""

    name: str | None = None
    arguments: str | None = None


class CallFragment(msgspec.Struct):
    """One entry of ``delta.tool_calls``."""

    index: int | None = None
    id: str | None = None
    type: str | None = None
    function: FunctionFragment | None = None


class _Open:
    """A call that has begun, under the index that we give it."""

    __slots__ = ("id", "index")

    def __init__(self, index: int, id: str) -> None:
        self.index = index
        self.id = id


class Calls:
    """The open calls of all choices of one stream."""

    def __init__(self) -> None:
        self._open: dict[tuple[int, int], _Open] = {}
        self._last: dict[int, _Open] = {}
        self._used: dict[int, set[int]] = {}
        self._early_ids: dict[tuple[int, int], str] = {}

    def called(self, choice: int) -> bool:
        """Whether the choice has called a tool."""
        return choice in self._last

    def read(self, fragments: list[CallFragment], choice: int) -> Iterator[ToolCall | ToolArgs]:
        """The events of one delta's fragments. Raises UpstreamProtocolError."""
        for fragment in fragments:
            function = fragment.function
            name = function.name if function is not None else None
            arguments = function.arguments if function is not None else None
            call = self._find(fragment, name, choice)
            if call is None:
                if not name:
                    self._remember(fragment, arguments, choice)
                    continue
                begun = self._begin(fragment, name, choice)
                yield begun
                call = self._last[choice]
            if arguments:
                yield ToolArgs(call.index, arguments, choice)

    def _find(self, fragment: CallFragment, name: str | None, choice: int) -> _Open | None:
        """The open call that a fragment goes on with; ``None`` when it begins one."""
        if fragment.index is None:
            last = self._last.get(choice)
            if fragment.id and last is not None and last.id != fragment.id:
                return None
            return None if name and not fragment.id else last
        call = self._open.get((choice, fragment.index))
        if call is not None and name and fragment.id and fragment.id != call.id:
            return None
        return call

    def _remember(self, fragment: CallFragment, arguments: str | None, choice: int) -> None:
        """Keep an id that came before its name."""
        if arguments or not fragment.id:
            raise UpstreamProtocolError("tool_call")
        self._early_ids[choice, fragment.index or 0] = fragment.id

    def _begin(self, fragment: CallFragment, name: str, choice: int) -> ToolCall:
        used = self._used.setdefault(choice, set())
        free = max(used, default=-1) + 1
        wire_index = free if fragment.index is None else fragment.index
        index = free if wire_index in used else wire_index
        if not 0 <= index < CALLS_MAX:
            raise UpstreamProtocolError("tool_call_index")
        early = self._early_ids.pop((choice, fragment.index or 0), "")
        id = fragment.id or early or f"functions.{name}:{index}"
        call = _Open(index, id)
        self._open[choice, wire_index] = self._last[choice] = call
        used.add(index)
        builtin = fragment.type == "builtin_function"
        return ToolCall(index, id, name, "builtin_function" if builtin else "function", choice)
