"""Chat to events and back, cut anywhere; the fold of a stream is the unstreamed answer.

Hypothesis looks for the odd case; a plain seeded generator goes through many. The seed of a run is
printed; ``SEED=N`` takes it again.
"""

import json
import os
import random
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings

from moongate.core.events import (
    Citation,
    Event,
    Finished,
    Fold,
    Sequence,
    Started,
    Text,
    Thinking,
    ToolArgs,
    ToolCall,
    Used,
)
from moongate.core.money import Bill, Counts, Usage
from moongate.core.request import (
    Call,
    Format,
    ImagePart,
    Message,
    Request,
    Sampling,
    TextPart,
    Tool,
    ToolChoice,
)
from moongate.wire.chat import ChatCodec
from test_wire_chat_answer import answers
from wire_kit import HEAD, USAGE_HEAD, check_stream, requests

CODEC = ChatCodec()
PIECES = (
    "Io", " ", "\n\n", "data: [DONE]\n\n", "\u2028", "\ud7ff", "\U0001f319", '"', "\\", "\0", "月",
    "</think>", "<|tool_calls_section_begin|>", "}", "event: x\r\n", ": hm", "é" * 9, "a" * 300,
)  # fmt: skip
ARGUMENTS = ('{"x":', "1", "}", '"\\u6708"', "{}", "[", "\n")
NAMES = ("f", "get_weather", "a-b_c", "$web_search")


def an_answer(dice: random.Random) -> list[Event]:
    """Content events of one to three choices, mixed as they may come, then their finishes."""
    ways: list[list[Event]] = []
    finishes: list[Event] = []
    for choice in range(dice.choice((1, 1, 1, 2, 3))):
        way: list[Event] = [Thinking(dice.choice(PIECES), choice) for _ in range(dice.randrange(4))]
        way += [Text(dice.choice(PIECES), choice) for _ in range(dice.randrange(4))]
        calls = dice.choice((0, 0, 1, 2, 3))
        for index in range(calls):
            name = dice.choice(NAMES)
            kind = "builtin_function" if name[0] == "$" else "function"
            way.append(ToolCall(index, f"functions.{name}:{index}", name, kind, choice))
        if calls:
            way += [
                ToolArgs(dice.randrange(calls), dice.choice(ARGUMENTS), choice)
                for _ in range(dice.randrange(6))
            ]
        if way and dice.random() < 0.1:
            way.append(Citation("https://a.example", dice.choice(PIECES), 0, 3, choice))
        ways.append(way)
        reason = "tool_calls" if calls else dice.choice(("stop", "length"))
        finishes.append(Finished(reason, choice))
    mixed: list[Event] = []
    while any(ways):
        way = dice.choice([way for way in ways if way])
        mixed.append(way.pop(0))
    return mixed + finishes


def check_answer(events: list[Event], dice: random.Random) -> None:
    """Events to chat, back through random cuts, to chat again; and folded, streamed or not."""
    head = dice.choice((HEAD, USAGE_HEAD))
    fresh, cached, output = (dice.randrange(1000) for _ in range(3))
    usage = Usage(fresh, cached, output, reasoning=dice.randrange(output + 1))
    bill = Bill(usage, dice.randrange(10**12))
    finishes = [event for event in events if isinstance(event, Finished)]
    content = events[: -len(finishes)]
    sent = written(content, finishes, head, bill, dice)
    folded = check_stream(sent, include_usage=head.include_usage)
    read, order = CODEC.reader(), Sequence()
    got = read.open()
    for piece in cut(sent, dice):
        got += read.feed(piece)
    got += read.close()
    for event in got:
        order.step(event)
    back = [event for event in got if not isinstance(event, Used | Started)]
    assert back == events
    counts = [event.counts for event in got if isinstance(event, Used)]
    assert counts[-1] == Counts(usage.prompt, usage.output, usage.cache_read, usage.reasoning)
    again = [event for event in back if not isinstance(event, Finished)]
    assert written(again, finishes, head, bill, dice) == sent
    fold = Fold()
    for event in got:
        fold.add(event)
    whole = json.loads(CODEC.write_answer(fold.answer(), head, bill))
    assert whole.get("hint") == folded["hint"]
    assert whole["usage"] == folded["usage"]
    assert [as_streamed(choice) for choice in whole["choices"]] == folded["choices"]


def written(
    content: list[Event], finishes: list[Any], head: Any, bill: Bill, dice: random.Random
) -> bytes:
    """A stream, written in batches of any size."""
    writer, out, at = CODEC.writer(head), b"", 0
    while at < len(content):
        size = dice.randrange(1, 4)
        out += writer.write(content[at : at + size])
        at += size
    return out + writer.end(finishes, bill)


def cut(data: bytes, dice: random.Random) -> list[bytes]:
    """``data`` in pieces, cut at random bytes."""
    marks = sorted(dice.randrange(len(data) + 1) for _ in range(dice.randrange(12)))
    return [data[a:b] for a, b in zip([0, *marks], [*marks, len(data)], strict=True)]


def as_streamed(choice: dict[str, Any]) -> dict[str, Any]:
    """An unstreamed choice in the shape of a folded one."""
    message = choice["message"]
    calls = [
        {"id": call["id"], "type": call["type"]} | call["function"]
        for call in message.get("tool_calls", [])
    ]
    return {
        "index": choice["index"],
        "content": message["content"],
        "reasoning_content": message.get("reasoning_content"),
        "tool_calls": dict(enumerate(calls)),
        "annotations": message.get("annotations", []),
        "finish_reason": choice["finish_reason"],
    }


def a_request(dice: random.Random) -> Request:
    """Any request of the dialect, every field from a small pool."""

    def maybe(value: Any) -> Any:
        return value if dice.random() < 0.5 else None

    def text() -> str:
        return dice.choice(PIECES)

    extra = {"x": [None, {"y": 10**30}]} if dice.random() < 0.2 else {}
    messages: list[Message] = []
    for turn in range(dice.randrange(1, 4)):
        parts = (TextPart(text()), ImagePart("data:image/png;base64,AA", dice.random() < 0.5))
        content = dice.choice((text(), "", parts))
        messages.append(Message(dice.choice(("system", "user")), content, extra=extra))
        if dice.random() < 0.5:
            calls = tuple(
                Call(f"c{turn}{at}", dice.choice(NAMES), dice.choice(ARGUMENTS))
                for at in range(dice.randrange(1, 3))
            )
            messages.append(Message("assistant", maybe(text()), None, maybe(text()), calls))
            messages += [Message("tool", text(), tool_call_id=call.id) for call in calls]
    if dice.random() < 0.2:
        messages.append(Message("assistant", text(), maybe("Ada"), partial=True))
    tools = tuple(
        Tool(f"f{at}", maybe(text()), {"type": "object"}, maybe(dice.random() < 0.5))
        for at in range(dice.randrange(3))
    )
    choices = [None, ToolChoice("auto"), ToolChoice("none")]
    if tools:
        choices += [ToolChoice("required"), ToolChoice("named", "f0")]
    schema = {"type": "object", "properties": {"月": {}}}
    return Request(
        model=dice.choice(("kimi-k2.5", "月")),
        messages=tuple(messages),
        tools=tools,
        tool_choice=dice.choice(choices),
        format=dice.choice((None, Format(), Format("json_object"),
                            Format("json_schema", "n", schema, maybe(True)))),
        thinking=dice.choice((None, True, False)),
        sampling=Sampling(maybe(dice.random()), maybe(0.95), maybe(dice.randrange(1, 9)),
                          maybe(-dice.random()), maybe(0.0), ("END", "月")[: dice.randrange(3)]),
        output_tokens_max=maybe(dice.randrange(1, 2**31)),
        stream=dice.random() < 0.5,
        include_usage=dice.random() < 0.5,
        cache_key=maybe(text()),
        extra={"seed": dice.randrange(9), "metadata": {"a": text()}} if dice.random() < 0.3 else {},
    )  # fmt: skip


def check_request(request: Request) -> None:
    body = CODEC.write_request(request)
    again = CODEC.read_request(msgspec.json.encode(body))
    assert again == request
    assert CODEC.write_request(again) == body


@settings(max_examples=1_600)
@given(answers())
def test_any_answer_survives_the_way(events: list[Event]) -> None:
    check_answer(events, random.Random(str(events)))


@settings(max_examples=400)
@given(requests())
def test_any_request_survives_the_way(request_: Request) -> None:
    check_request(request_)


def many(cases: int) -> None:
    seed = int(os.environ.get("SEED", time.time_ns() % 10**9))
    for case in range(cases):
        dice = random.Random(f"{seed}/{case}")
        try:
            if case % 5 < 3:
                check_answer(an_answer(dice), dice)
            else:
                check_request(a_request(dice))
        except Exception as error:
            raise AssertionError(f"case {case} with SEED={seed}") from error
    print(f"SEED={seed}: {cases} cases")


def test_many_answers_and_requests_survive_the_way() -> None:
    many(100_000)


@pytest.mark.full
def test_very_many_answers_and_requests_survive_the_way() -> None:
    many(1_000_000)


def test_the_generator_reaches_what_it_should() -> None:
    seen: set[str] = set()
    for case in range(500):
        dice = random.Random(f"1/{case}")
        events = an_answer(dice)
        seen |= {type(event).__name__ for event in events}
        seen |= {event.reason for event in events if isinstance(event, Finished)}
        request = a_request(dice)
        seen |= {message.role for message in request.messages}
        seen |= {request.tool_choice.mode} if request.tool_choice else set()
        seen |= {request.format.kind} if request.format else set()
    assert seen >= {
        *("Text", "Thinking", "ToolCall", "ToolArgs", "Citation", "Finished"),
        *("stop", "length", "tool_calls", "system", "user", "assistant", "tool"),
        *("auto", "none", "required", "named", "text", "json_object", "json_schema"),
    }
