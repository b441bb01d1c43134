"""Bytes of the engine's completion stream in, events of an answer out.

The chunks are those of llama.cpp's server on ``/v1/completions`` with ``stream``,
``return_progress`` and ``stream_options.include_usage``: text pieces, prompt progress, one chunk
with a finish reason and the usage, the end mark. On ``/completion``, which prompts with pictures
need, text stands at the top and the last chunk is the one that says ``stop``. Whoever promised
JSON is held to it here: the engine generates freely where it could not read a grammar, and says
nothing.
"""

import json
from typing import Any, Final

import msgspec

from moongate.core.errors import NotAsPromised, UpstreamProtocolError
from moongate.core.events import (
    Event,
    Finished,
    Reason,
    Started,
    Text,
    Thinking,
    ToolArgs,
    ToolCall,
    Used,
)
from moongate.core.money import Counts
from moongate.upstream.engine_goal import Goal
from moongate.upstream.engine_names import Names
from moongate.upstream.engine_slots import CACHED_TOKENS_MIN
from moongate.wire.ids import call_id
from moongate.wire.schema.instance import Instance
from moongate.wire.sse import DONE, Events


class _Choice(msgspec.Struct):
    text: str = ""
    finish_reason: str | None = None


class _Details(msgspec.Struct):
    cached_tokens: int = 0


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    prompt_tokens_details: _Details = msgspec.field(default_factory=_Details)


class _Timings(msgspec.Struct):
    cache_n: int = 0


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None
    content: str = ""
    stop: bool = False
    stop_type: str = ""
    tokens_evaluated: int = 0
    tokens_predicted: int = 0
    timings: _Timings = msgspec.field(default_factory=_Timings)


_decode: Final = msgspec.json.Decoder(_Chunk).decode


class AnswerReader:
    """Reads one answer. ``thinking``: an empty reasoning opens it, as thinking was asked for."""

    def __init__(self, goal: Goal, *, thinking: bool) -> None:
        self._goal = goal
        self._thinking = thinking
        self._events = Events()
        self._names = Names()
        self._names.feed(goal.prefix)
        self._text: list[str] = []
        self._opened = False
        self._reason: str | None = None
        self._usage: _Usage | None = None
        self._ended = self._broken = False

    @property
    def tokens(self) -> int:
        """Tokens of prompt and answer together, once the answer has ended."""
        usage = self._usage
        return usage.prompt_tokens + usage.completion_tokens if usage else 0

    def open(self) -> list[Event]:
        """The engine accepted the request."""
        return [Started()]

    def feed(self, data: bytes) -> list[Event]:
        """The events in ``data``. Raises UpstreamProtocolError."""
        out: list[Event] = []
        for payload in self._events.feed(data):
            if payload == DONE:
                out += self._end()
                continue
            try:
                chunk = _decode(payload)
            except msgspec.MsgspecError:
                raise UpstreamProtocolError("bad_chunk") from None
            if chunk.error is not None:
                raise UpstreamProtocolError("engine_error")
            self._usage = chunk.usage or self._usage
            for choice in chunk.choices:
                if choice.text:
                    out += self._piece(choice.text)
                self._reason = choice.finish_reason or self._reason
            if chunk.content:
                out += self._piece(chunk.content)
            if chunk.stop:
                self._reason = "length" if chunk.stop_type == "limit" else "stop"
                cached = _Details(chunk.timings.cache_n)
                self._usage = _Usage(chunk.tokens_evaluated, chunk.tokens_predicted, cached)
                out += self._end()
        return out

    def close(self) -> None:
        """The connection ended. Raises UpstreamProtocolError when the answer had not.

        NotAsPromised, when it had, and is not what was asked: its counts were told before.
        """
        if not self._ended:
            raise UpstreamProtocolError("cut")
        if self._broken:
            raise NotAsPromised

    def _open(self) -> list[Event]:
        if self._opened:
            return []
        self._opened = True
        out: list[Event] = [Thinking("")] if self._thinking else []
        if self._goal.kind == "call":
            name = self._goal.tool
            out.append(ToolCall(0, call_id(name, self._goal.index), name))
        return out

    def _piece(self, text: str) -> list[Event]:
        out = self._open()
        if self._goal.kind == "text":
            out.append(Text(text))
            return out
        return out + self._json(self._names.feed(text))

    def _json(self, text: str) -> list[Event]:
        if not text:
            return []
        self._text.append(text)
        return [ToolArgs(0, text) if self._goal.kind == "call" else Text(text)]

    def _end(self) -> list[Event]:
        usage = self._usage
        if self._reason is None or usage is None or self._ended:
            raise UpstreamProtocolError("bad_end")
        self._ended = True
        # The last token is always read anew: 256 cached are a prompt of more than 256 in common.
        cached = usage.prompt_tokens_details.cached_tokens
        counts = Counts(
            prompt=usage.prompt_tokens,
            completion=usage.completion_tokens,
            cached=cached if cached >= CACHED_TOKENS_MIN else 0,
            reasoning=0,
        )
        last = self._json(self._names.rest())
        return [*self._open(), *last, Finished(self._verdict()), Used(counts)]

    def _verdict(self) -> Reason:
        """Why it ended. Whole JSON at the very last token is whole, not cut short."""
        cut = self._reason == "length"
        if self._goal.kind == "text":
            return "length" if cut else "stop"
        if not self._keeps_promise():
            if cut:
                return "length"
            self._broken = True
        return "tool_calls" if self._goal.kind == "call" else "stop"

    def _keeps_promise(self) -> bool:
        try:
            value = json.loads("".join([self._goal.prefix, *self._text]))
        except (ValueError, RecursionError):
            return False
        if self._goal.kind == "object" or self._goal.loose:
            return isinstance(value, dict)
        return Instance(self._goal.schema or {}).holds(value)
