"""Kimi's chat stream as literal bytes: the frames that the scripted upstream sends.

They are written from Moonshot's API documentation by hand and on purpose share nothing with our
own writers, so that a mistake there cannot hide on both sides. Pure: steps in, bytes out. It
refuses to know connections and time.
"""

import json
import random
from collections.abc import Iterator
from typing import Any, Final, Literal

import msgspec

from moongate.upstream.transcript import (
    Args,
    Break,
    Cut,
    Delay,
    Finish,
    NoDone,
    Open,
    Placement,
    Raw,
    Say,
    Step,
    Think,
    Tokens,
)

Ids = Literal["functions", "short", "call"]
DONE: Final = b"data: [DONE]\n\n"


class Look(msgspec.Struct, frozen=True):
    """How answers are spelt.

    ``usage``: where counts stand: in the finishing choice, in a last chunk of their own where the
    client asked (``top``), both, there with the nested cached count only (``nested``), on every
    chunk as engines do (``every``), or nowhere. ``ids``: tool-call ids as ``functions.NAME:N``,
    ``NAME:N`` or ``call_…``. ``reasoning``: the field's name.
    """

    model: str = "kimi-k2.5"
    usage: Placement = "both"
    ids: Ids = "functions"
    reasoning: str = "reasoning_content"
    id: str = "chatcmpl-67a1f3c2b4d5e6f708192a3b"
    created_s: int = 1_769_472_000


class Chaos(msgspec.Struct, frozen=True):
    """Seeded trouble. ``shred`` cuts frames at random bytes; the others are chances a frame."""

    seed: int
    shred: bool = True
    delay: float = 0.0
    delay_s: float = 0.02
    cut: float = 0.0
    garbage: float = 0.0

    def dice(self, salt: int) -> random.Random:
        """The dice of one answer: the same for the same seed and ``salt``."""
        return random.Random(f"{self.seed}/{salt}")  # noqa: S311 - trouble, not secrets


def shreds(data: bytes, dice: random.Random) -> list[bytes]:
    """``data`` cut at random bytes into one to eight pieces, none of them empty."""
    cuts = dice.randrange(8) if len(data) > 1 else 0
    marks = sorted({dice.randrange(1, len(data)) for _ in range(cuts)})
    return [data[a:b] for a, b in zip([0, *marks], [*marks, len(data)], strict=True) if a < b]


class Frames:
    """The frames of one answer.

    ``prompt`` and ``cached`` are reckoned counts (tokens), used where the transcript says none;
    ``calls_before`` is how many calls the conversation had already. A piece of thinking, content
    or arguments counts as one token, and so does an opened call.
    """

    def __init__(
        self,
        look: Look,
        *,
        prompt: int = 0,
        cached: int = 0,
        include_usage: bool = False,
        calls_before: int = 0,
    ) -> None:
        self._look = look
        self._told = Tokens()
        self._prompt = prompt
        self._cached = cached
        self._include_usage = include_usage
        self._calls_before = calls_before
        self._calls = 0
        self._spent = 0
        self._thought = 0
        self._finished = False
        self._head = (
            f'data: {{"id":"{look.id}","object":"chat.completion.chunk",'
            f'"created":{look.created_s},"model":{json.dumps(look.model)},'
            '"system_fingerprint":"fpv0_ff52a3ef","choices":['
        )

    def write(self, steps: tuple[Step, ...]) -> Iterator[bytes | Delay | Cut]:
        """The wire of ``steps`` from first chunk to end mark, with its silences and cuts."""
        for step in steps:
            if isinstance(step, Tokens):
                self._told = step
        yield self._chunk('{"role":"assistant","content":""}')
        for step in steps:
            match step:
                case Delay():
                    yield step
                    if step.seconds is None:
                        return
                case Cut():
                    yield step
                    return
                case NoDone():
                    return
                case Break():
                    error = {"error": {"message": step.message, "type": step.type}}
                    yield f"data: {json.dumps(error)}\n\n".encode()
                    return
                case Finish():
                    yield self._finish(step.reason)
                case Raw():
                    yield step.text.encode("utf-8", "surrogatepass")
                case Tokens():
                    pass
                case _:
                    yield self._piece(step)
        yield from self._end()

    def _piece(self, step: Think | Say | Open | Args) -> bytes:
        self._spent += 1
        match step:
            case Think():
                self._thought += 1
                return self._chunk(f'{{"{self._look.reasoning}":{json.dumps(step.text)}}}')
            case Say():
                return self._chunk(f'{{"content":{json.dumps(step.text, ensure_ascii=False)}}}')
            case Open():
                return self._open(step.name)
            case Args():
                index = self._calls - 1 if step.call is None else step.call
                return self._chunk(
                    f'{{"tool_calls":[{{"index":{index},'
                    f'"function":{{"arguments":{json.dumps(step.text)}}}}}]}}'
                )

    def _open(self, name: str) -> bytes:
        index = self._calls
        self._calls += 1
        count = self._calls_before + index
        id = {
            "functions": f"functions.{name}:{count}",
            "short": f"{name}:{count}",
            "call": f"call_{random.Random(count).getrandbits(64):016x}",  # noqa: S311 - no secret
        }[self._look.ids]
        kind = "builtin_function" if name.startswith("$") else "function"
        return self._chunk(
            f'{{"tool_calls":[{{"index":{index},"id":"{id}","type":"{kind}",'
            f'"function":{{"name":{json.dumps(name)},"arguments":""}}}}]}}'
        )

    def _chunk(self, delta: str, finish: str = "null", usage: str = "") -> bytes:
        tail = ""
        if self._place() == "every":
            tail = f',"usage":{self._counts(nested=True)}'
        elif self._include_usage:
            tail = ',"usage":null'
        choice = f'{{"index":0,"delta":{delta},"finish_reason":{finish}{usage}}}'
        return f"{self._head}{choice}]{tail}}}\n\n".encode()

    def _finish(self, reason: str) -> bytes:
        self._finished = True
        inside = self._place() in ("choice", "both")
        usage = f',"usage":{self._counts()}' if inside else ""
        return self._chunk("{}", json.dumps(reason), usage)

    def _end(self) -> Iterator[bytes]:
        if not self._finished:
            yield self._finish("tool_calls" if self._calls else "stop")
        place = self._place()
        if place == "every" or (self._include_usage and place in ("top", "both", "nested")):
            counts = self._counts(nested=place in ("nested", "every"))
            yield f'{self._head}],"usage":{counts}}}\n\n'.encode()
        yield DONE

    def _place(self) -> Placement:
        return self._told.at or self._look.usage

    def _counts(self, *, nested: bool = False) -> str:
        told = self._told
        prompt = self._prompt if told.prompt is None else told.prompt
        cached = self._cached if told.cached is None else told.cached
        spent = self._spent if told.completion is None else told.completion
        thought = self._thought if told.reasoning is None else told.reasoning
        counts: dict[str, Any] = {
            "prompt_tokens": prompt,
            "completion_tokens": spent,
            "total_tokens": prompt + spent,
            "cached_tokens": cached,
            "prompt_tokens_details": {"cached_tokens": cached},
            "completion_tokens_details": {"reasoning_tokens": thought},
        }
        if nested:
            del counts["cached_tokens"]
        return json.dumps(counts)
