"""The engine's stream becomes events in any cutting, and is held to what it promised."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moongate.core.errors import UpstreamProtocolError
from moongate.core.events import (
    Finished,
    Fold,
    Sequence,
    Started,
    Text,
    Thinking,
    ToolCall,
    Used,
)
from moongate.core.money import Counts
from moongate.upstream.engine_answer import AnswerReader
from moongate.upstream.engine_goal import Goal


def chunk(text="", reason=None, **more):
    return {"choices": [{"text": text, "index": 0, "finish_reason": reason}], **more}


USAGE = {
    "usage": {
        "prompt_tokens": 409,
        "completion_tokens": 4,
        "prompt_tokens_details": {"cached_tokens": 303},
    }
}


def stream(*texts, reason="stop"):
    chunks = [
        chunk(prompt_progress={"total": 9, "cache": 3, "processed": 9}),
        *(chunk(text) for text in texts),
        chunk(reason=reason, **USAGE),
    ]
    frames = [b"data: " + json.dumps(each).encode() + b"\n\n" for each in chunks]
    return b":\n\n" + b"".join(frames) + b"data: [DONE]\n\n"


def read(data, goal=None, *, thinking=False, cuts=()):
    reader = AnswerReader(goal or Goal(), thinking=thinking)
    events = reader.open()
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, end in itertools.pairwise(places):
        events += reader.feed(data[start:end])
    reader.close()
    order, fold = Sequence(), Fold()
    for event in events:
        order.step(event)
        fold.add(event)
    return events, fold.answer().choices[0]


@given(st.lists(st.integers(0, 2000), max_size=12))
def test_any_cutting_gives_the_same_events(cuts):
    events, choice = read(stream("Hel", "lo é"), cuts=cuts)
    assert events == [
        Started(),
        Text("Hel"),
        Text("lo é"),
        Finished("stop"),
        Used(Counts(prompt=409, completion=4, cached=303, reasoning=0)),
    ]
    assert choice.text == "Hello é"


def test_thinking_is_empty_and_there_even_before_an_empty_answer():
    _, choice = read(stream("Hi"), thinking=True)
    assert choice.thinking == ""
    events, choice = read(stream(), thinking=True)
    assert events[1] == Thinking("")
    assert (choice.text, choice.thinking) == ("", "")
    assert read(stream("Hi"))[1].thinking is None


def test_a_call_streams_its_arguments():
    goal = Goal("call", schema={"required": ["path"]}, tool="read_file", index=3)
    events, choice = read(stream('{"path"', ': "a"}'), goal)
    assert events[1] == ToolCall(0, "functions.read_file:3", "read_file")
    assert choice.reason == "tool_calls"
    assert choice.calls[0].arguments == '{"path": "a"}'


@pytest.mark.parametrize("kind", ["object", "schema", "call"])
def test_json_cut_by_the_cap_says_length_and_whole_json_at_the_cap_does_not(kind):
    goal = Goal(kind, schema={"type": "object"}, tool="f")
    assert read(stream('{"a": ', reason="length"), goal)[1].reason == "length"
    whole = read(stream('{"a": 1}', reason="length"), goal)[1].reason
    assert whole == ("tool_calls" if kind == "call" else "stop")


@pytest.mark.parametrize(
    ("goal", "text"),
    [
        (Goal("object"), "Sure! Here"),
        (Goal("object"), "[1]"),
        (Goal("schema", schema={"type": "integer"}), '"x"'),
        (Goal("call", schema={"required": ["path"]}, tool="f"), "{}"),
    ],
)
def test_a_broken_promise_is_never_delivered_as_an_answer(goal, text):
    with pytest.raises(UpstreamProtocolError) as caught:
        read(stream(text), goal)
    assert text not in str(caught.value)


def test_a_clients_pattern_cannot_stall_the_check():
    goal = Goal("schema", schema={"type": "string", "pattern": "^(a+)+$"})
    assert read(stream(json.dumps("a" * 60)), goal)[1].reason == "stop"
    with pytest.raises(UpstreamProtocolError):
        read(stream(json.dumps("a" * 60 + "!")), goal)


@pytest.mark.parametrize(
    "data",
    [
        stream("Hi")[:-14],
        b"data: [DONE]\n\n",
        b"data: {\n\n",
        b'data: {"error": {"code": 500, "message": "secret"}}\n\n',
        stream("Hi") + b"data: [DONE]\n\n",
        b"",
    ],
)
def test_what_is_no_answer_is_a_protocol_error(data):
    with pytest.raises(UpstreamProtocolError) as caught:
        read(data)
    assert "secret" not in str(caught.value)


def test_a_broken_promise_does_not_speak_against_the_engines_health():
    with pytest.raises(UpstreamProtocolError) as caught:
        read(stream("[1]"), Goal("object"))
    assert (caught.value.kind, caught.value.unhealthy) == ("not_as_promised", False)
    with pytest.raises(UpstreamProtocolError) as caught:
        read(b"")
    assert caught.value.unhealthy


@pytest.mark.parametrize("text", ["[" * 200_000, "[" * 400 + "]" * 400])
def test_an_answer_too_deep_to_check_is_a_broken_promise(text):
    goal = Goal("schema", schema={"type": "array", "items": {"$ref": "#"}, "maxItems": 1})
    with pytest.raises(UpstreamProtocolError) as caught:
        read(stream(text), goal)
    assert caught.value.kind == "not_as_promised"


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "title": "patternProperties"},
        {"type": "object", "properties": {"patternProperties": {"type": "integer"}}},
        {"type": "object", "patternProperties": {"^(a+)+$": {}}, "required": ["b"]},
    ],
)
def test_no_mention_of_patterns_switches_the_check_off(schema):
    with pytest.raises(UpstreamProtocolError):
        read(stream('{"patternProperties": "x"}'), Goal("schema", schema=schema))


def test_names_by_pattern_neither_stall_the_check_nor_count_as_additional():
    schema = {"patternProperties": {"^(a+)+$": {}}, "additionalProperties": False}
    goal = Goal("schema", schema=schema)
    assert read(stream(json.dumps({"a" * 60: 1})), goal)[1].reason == "stop"
    with pytest.raises(UpstreamProtocolError):
        read(stream(json.dumps({"a" * 60 + "!": 1})), goal)


def test_a_repeated_name_is_told_apart_in_what_is_sent_and_checked():
    goal = Goal("object", prefix='{"a": 1, ')
    events, choice = read(stream('"a": 2', ', "b', '": 3, "b": 4}'), goal)
    assert choice.text == '"a_2": 2, "b": 3, "b_2": 4}'
    assert events[-2] == Finished("stop")


def test_prefix_and_continuation_are_checked_together():
    goal = Goal("schema", schema={"type": "array", "items": {"type": "integer"}}, prefix="[1, ")
    assert read(stream("2]"), goal)[1].text == "2]"
    with pytest.raises(UpstreamProtocolError):
        read(stream('"x"]'), goal)


def test_what_is_not_strict_is_an_object_and_no_more():
    goal = Goal("call", schema={"not": {}}, loose=True, tool="f")
    assert read(stream('{"a": 1}'), goal)[1].reason == "tool_calls"
    with pytest.raises(UpstreamProtocolError):
        read(stream("[1]"), goal)


def test_garbage_glued_to_a_frame_is_no_shorter_answer():
    whole = stream("aa", "b")
    at = whole.rindex(b"data: ", 0, whole.index(b'"b"'))
    with pytest.raises(UpstreamProtocolError) as caught:
        read(whole[:at] + b'garbage "{"' + whole[at:])
    assert caught.value.kind == "line"
