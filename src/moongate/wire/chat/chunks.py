"""Events to the chunks of a streamed chat completion.

As Moonshot documents its stream: the first chunk of a choice opens with role and empty content;
each event is one chunk; a call's first fragment has index, id, type and name, the later ones
index and arguments only; the finishing chunk carries ``choices[0].usage`` always. Where
``stream_options.include_usage`` was asked for, one more chunk with empty ``choices`` and a
top-level ``usage`` follows and every other chunk says ``"usage":null``; where it was not, no
chunk has empty ``choices``. A choice that reached its cap while it only thought says so in a
top-level ``hint`` of its finishing chunk. Only a complete answer ends with ``[DONE]``. Chunks are
joined from encoded pieces: what varies is the delta, and its strings are always the JSON encoder's
work.
"""

from collections.abc import Sequence

import msgspec

from moongate.core.errors import Refused
from moongate.core.events import Citation, Event, Finished, Text, Thinking, ToolArgs, ToolCall
from moongate.core.money import Bill
from moongate.core.ports import Head
from moongate.wire.chat.answer import HINT, annotation, usage_json
from moongate.wire.sse import DONE_FRAME, HEARTBEAT, frame

_encode = msgspec.json.Encoder().encode
_ROLE = b'{"role":"assistant","content":""}'


Content = Thinking | Text | ToolCall | ToolArgs | Citation
CONTENT = (Text, Thinking, ToolArgs, ToolCall, Citation)


class ChatWriter:
    """Writes one stream; see ``core.ports.Writer``. Not to be shared between answers."""

    def __init__(self, head: Head) -> None:
        says = {
            "id": head.id,
            "object": "chat.completion.chunk",
            "created": head.created_s,
            "model": head.model,
        }
        if head.fingerprint:
            says["system_fingerprint"] = head.fingerprint
        self._before = b"data: " + _encode(says)[:-1] + b',"choices":['
        self._after = b',"usage":null}\n\n' if head.include_usage else b"}\n\n"
        self._include_usage = head.include_usage
        self._open: set[int] = set()
        self._thought: set[int] = set()
        self._said: set[int] = set()

    def write(self, events: Sequence[Event]) -> bytes:
        """Chunks for content events. Raises TypeError for an event that is no content."""
        out: list[bytes] = []
        for event in events:
            if not isinstance(event, CONTENT):
                raise TypeError(f"{type(event).__name__} is no content event")
            self._open_choice(event.choice, out)
            self._note(event)
            out += self._chunk(event.choice, _delta(event))
        if not self._open:
            self._open_choice(0, out)
        return b"".join(out)

    def end(self, finishes: Sequence[Finished], bill: Bill) -> bytes:
        """The finishing chunks, the usage chunk where it was asked for, and the end mark."""
        out: list[bytes] = []
        usage = usage_json(bill)
        for finished in finishes:
            choice = finished.choice
            self._open_choice(choice, out)
            tail = b',"finish_reason":' + _encode(finished.reason)
            if choice == 0:
                tail += b',"usage":' + usage
            out += self._chunk(choice, b"{}", tail, self._hint(finished))
        if self._include_usage:
            out += (self._before, b'],"usage":', usage, b"}\n\n")
        out.append(DONE_FRAME)
        return b"".join(out)

    def fail(self, error: Refused) -> bytes:
        """An error event; an SDK raises on it, and no end mark follows."""
        return frame(_encode(error.body()))

    def heartbeat(self) -> bytes:
        """A comment that keeps a silent stream open."""
        return HEARTBEAT

    def _note(self, event: Content) -> None:
        """Remember which choices have thought and which have said something."""
        kind = type(event)
        if kind is ToolCall or (kind is Text and event.text):  # type: ignore[union-attr]  # Text's
            self._said.add(event.choice)
        elif kind is Thinking and event.text:  # type: ignore[union-attr]  # Thinking's own
            self._thought.add(event.choice)

    def _hint(self, finished: Finished) -> bytes:
        only_thought = finished.choice in self._thought - self._said
        if finished.reason != "length" or finished.unpaid or not only_thought:
            return b""
        return b',"hint":' + _encode(HINT)

    def _open_choice(self, choice: int, out: list[bytes]) -> None:
        if choice not in self._open:
            self._open.add(choice)
            out += self._chunk(choice, _ROLE)

    def _chunk(
        self,
        choice: int,
        delta: bytes,
        tail: bytes = b',"finish_reason":null',
        beside: bytes = b"",
    ) -> tuple[bytes, ...]:
        """One chunk; ``tail`` ends its choice, ``beside`` stands next to ``choices``."""
        index = b"0" if choice == 0 else b"%d" % choice
        head = (self._before, b'{"index":', index, b',"delta":', delta, tail, b"}]")
        return (*head, beside, self._after)


def _delta(event: Content) -> bytes:
    match event:
        case Text():
            return b'{"content":%b}' % _encode(event.text)
        case Thinking():
            return b'{"reasoning_content":%b}' % _encode(event.text)
        case ToolArgs():
            piece = _encode(event.text)
            return b'{"tool_calls":[{"index":%d,"function":{"arguments":%b}}]}' % (
                event.index,
                piece,
            )
        case ToolCall():
            call = {
                "index": event.index,
                "id": event.id,
                "type": event.type,
                "function": {"name": event.name, "arguments": ""},
            }
            return _encode({"tool_calls": [call]})
        case Citation():
            return _encode({"annotations": [annotation(event)]})
