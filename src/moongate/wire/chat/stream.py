"""A streamed chat completion, as any server of the family sends it, to events.

Read with care and tolerance: Moonshot's, OpenAI's, vLLM's, SGLang's and llama.cpp's spellings all
come to the same events; what none of them may send raises UpstreamProtocolError, whose kind is a
word for logs. The order of events is ``core.events.ORDER``'s to judge. This module refuses to know
whether its bytes come from an upstream or from our own writer.
"""

from typing import Any, Final

import msgspec

from moongate.core.errors import UpstreamProtocolError
from moongate.core.events import (
    Citation,
    Event,
    Failed,
    Finished,
    Reason,
    Sequence,
    Started,
    Text,
    Thinking,
    Used,
)
from moongate.core.money import Counts
from moongate.wire.chat.calls import CallFragment, Calls
from moongate.wire.chat.counts import merge, read_counts
from moongate.wire.chat.faults import fault_of
from moongate.wire.sse import DONE, Events

CHOICES_MAX: Final = 128

_REASONS: Final[dict[str, Reason]] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


class _Source(msgspec.Struct):
    url: str = ""
    title: str = ""
    start_index: int = 0
    end_index: int = 0


class _Annotation(msgspec.Struct):
    type: str = ""
    url_citation: _Source | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[CallFragment] | None = None
    annotations: list[_Annotation] | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _Delta | None = None
    finish_reason: str | None = None
    usage: Any = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: Any = None
    timings: Any = None
    error: Any = None
    # vLLM's older error event has the error's own fields at top level.
    object: Any = None
    type: Any = None
    code: Any = None


_CHUNK: Final = msgspec.json.Decoder(_Chunk)


class ChatReader:
    """Bytes of one stream in, events out; see ``core.ports.Reader``.

    An error object inside the stream becomes ``Failed`` and ends the reading. Counts that come
    before the finish are ``Used(final=False)``.
    """

    def __init__(self) -> None:
        self._events = Events()
        self._sequence = Sequence()
        self._calls = Calls()
        self._seen: set[int] = set()
        self._reasons: dict[int, str] = {}
        self._counts: Counts | None = None
        self._final = False
        self._over = False

    def open(self) -> list[Event]:
        """The other side accepted the request."""
        out: list[Event] = []
        self._add(Started(), out)
        return out

    def feed(self, data: bytes) -> list[Event]:
        """Take the next bytes. Raises UpstreamProtocolError."""
        out: list[Event] = []
        if self._over:
            return out
        for payload in self._events.feed(data):
            if self._take(payload, out):
                self._over = True
                break
        return out

    def close(self) -> list[Event]:
        """The bytes have ended. Raises UpstreamProtocolError when ``[DONE]`` never came."""
        if not self._over:
            if self._events.close() != DONE:
                raise UpstreamProtocolError("cut")
            self._check_finished()
        return []

    def _take(self, payload: bytes, out: list[Event]) -> bool:
        """Read one event's payload; true when the stream ends with it."""
        if payload == DONE:
            self._check_finished()
            return True
        try:
            chunk = _CHUNK.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise UpstreamProtocolError("chunk") from None
        error = chunk.error
        if error is None and chunk.object == "error":
            error = {"type": chunk.type, "code": chunk.code}
        if error is not None:
            self._add(Failed(fault_of(error)), out)
            return True
        counts: Counts | None = None
        for choice in chunk.choices or ():
            self._read_choice(choice, out)
            if choice.usage is not None:
                counts = _either(counts, read_counts(choice.usage))
        if chunk.usage is not None or chunk.timings is not None:
            counts = _either(counts, read_counts(chunk.usage, chunk.timings))
        if counts is not None:
            self._count(counts, out)
        return False

    def _read_choice(self, choice: _Choice, out: list[Event]) -> None:
        index = choice.index
        if index not in self._seen:
            if not 0 <= index < CHOICES_MAX:
                raise UpstreamProtocolError("choice_index")
            self._seen.add(index)
        delta = choice.delta
        if delta is not None:
            thinking = delta.reasoning_content or delta.reasoning
            if thinking:
                self._add(Thinking(thinking, index), out)
            if delta.content:
                self._add(Text(delta.content, index), out)
            if delta.tool_calls:
                for event in self._calls.read(delta.tool_calls, index):
                    self._add(event, out)
            if delta.annotations:
                self._cite(delta.annotations, index, out)
        if choice.finish_reason:
            self._finish_choice(choice.finish_reason, index, out)

    def _finish_choice(self, said: str, index: int, out: list[Event]) -> None:
        # Some gateways repeat the reason on the chunk that carries the usage.
        if self._reasons.get(index) == said:
            return
        reason = _REASONS.get(said)
        if reason is None:
            raise UpstreamProtocolError("finish_reason")
        if reason == "stop" and self._calls.called(index):
            # Some servers say "stop" after a forced call; clients act on this word.
            reason = "tool_calls"
        self._reasons[index] = said
        self._add(Finished(reason, index), out)

    def _cite(self, annotations: list[_Annotation], index: int, out: list[Event]) -> None:
        for annotation in annotations:
            source = annotation.url_citation
            if source is not None:
                cited = Citation(
                    source.url, source.title, source.start_index, source.end_index, index
                )
                self._add(cited, out)

    def _count(self, counts: Counts, out: list[Event]) -> None:
        """Say the counts, with what was said before where these are silent.

        A running count of the output is no final one, so it does not outlive the finish.
        """
        final = self._all_finished()
        before = self._counts
        if before is not None:
            if final and not self._final:
                before = Counts(prompt=before.prompt, cached=before.cached)
            counts = merge(before, counts)
        self._counts, self._final = counts, final
        self._add(Used(counts, final=final), out)

    def _all_finished(self) -> bool:
        return bool(self._reasons) and len(self._reasons) == len(self._seen)

    def _check_finished(self) -> None:
        if not self._all_finished():
            raise UpstreamProtocolError("unfinished")

    def _add(self, event: Event, out: list[Event]) -> None:
        try:
            self._sequence.step(event)
        except ValueError:
            raise UpstreamProtocolError("order") from None
        out.append(event)


def _either(first: Counts | None, second: Counts | None) -> Counts | None:
    if first is None or second is None:
        return first or second
    return merge(first, second)
