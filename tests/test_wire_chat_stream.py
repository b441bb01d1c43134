"""Streams of the chat dialect: every server's spelling in, our own exactly out."""

import pytest

from moongate.core.errors import UpstreamProtocolError
from moongate.core.events import (
    Citation,
    Event,
    Failed,
    Finished,
    Started,
    Text,
    Thinking,
    ToolArgs,
    ToolCall,
    Used,
)
from moongate.core.money import Counts
from moongate.wire.chat import ChatCodec
from wire_kit import call, delta, frames

CODEC = ChatCodec()
END = delta(finish="stop")


def read(*payloads: object, done: bool = True) -> list[Event]:
    """The events of a whole stream, without ``Started``."""
    reader = CODEC.reader()
    assert reader.open() == [Started()]
    return reader.feed(frames(*payloads, *(["[DONE]"] if done else []))) + reader.close()


def broken(*payloads: object, done: bool = True) -> str:
    with pytest.raises(UpstreamProtocolError) as caught:
        read(*payloads, done=done)
    assert caught.value.__cause__ is None
    return caught.value.kind


def test_a_moonshot_stream():
    usage = {"prompt_tokens": 19, "completion_tokens": 21, "total_tokens": 40, "cached_tokens": 10}
    finish = {"index": 0, "delta": {}, "finish_reason": "stop", "usage": usage}
    assert read(
        delta(role="assistant", content=""),
        delta(reasoning_content="Hm"),
        delta(content="Io"),
        delta(content=", \u2028Europa"),
        {"choices": [finish]},
        {"choices": [], "usage": usage},
    ) == [
        Thinking("Hm"),
        Text("Io"),
        Text(", \u2028Europa"),
        Finished("stop"),
        Used(Counts(19, 21, 10)),
        Used(Counts(19, 21, 10)),
    ]


def test_nulls_empties_and_the_other_name_of_reasoning():
    assert read(
        delta(role="assistant", content=None, tool_calls=None, reasoning_content=None),
        delta(reasoning="a", reasoning_content=None, content=""),
        delta(reasoning_content="b", reasoning="b", tool_calls=[]),
        {"choices": [{"delta": {"content": "x"}, "finish_reason": ""}]},
        {"choices": [{"index": 0, "finish_reason": "stop", "logprobs": None}]},
        {"choices": [], "usage": None},
    ) == [Thinking("a"), Thinking("b"), Text("x"), Finished("stop")]


FIRST = call("f", "", index=0, id="a", type="function")


@pytest.mark.parametrize(
    "fragments",
    [
        [FIRST, call(None, "{", index=0), call(None, "}", index=0)],
        [FIRST, call("f", "{", index=0, id="a"), call("", "}", index=0, id="")],
        [FIRST, call("f", "{}", index=0, id="a", type="function")],
        [call("f", "{}", index=0, id="a")],
        [call("f", "{", id="a"), call(None, "}")],
        [call("f", "{", id="a"), call(None, "}", id="a")],
        [call(index=0, id="a"), call("f", "{}", index=0)],
        [call("f", None, index=0, id="a", type=None), call(None, "{}", index=0, id="chatcmpl-x")],
    ],
)
def test_one_call_in_many_spellings(fragments):
    events = read(*(delta(tool_calls=[part]) for part in fragments), delta(finish="tool_calls"))
    assert events[0] == ToolCall(0, "a", "f")
    assert all(isinstance(event, ToolArgs) and event.index == 0 for event in events[1:-1])
    assert "".join(event.text for event in events[1:-1]) == "{}"
    assert events[-1] == Finished("tool_calls")


def test_calls_in_parallel_keep_their_index():
    one, two = call("f", "", index=0, id="a"), call("g", "", index=1, id="b")
    late = [call(None, "2", index=1), call(None, "1", index=0)]
    assert read(delta(tool_calls=[one, two]), delta(tool_calls=late), END)[:4] == [
        ToolCall(0, "a", "f"),
        ToolCall(1, "b", "g"),
        ToolArgs(1, "2"),
        ToolArgs(0, "1"),
    ]


def test_calls_that_share_an_index_are_told_apart():
    shared = [call("f", "1", index=0, id="a"), call("g", "2", index=0, id="b")]
    more = [call(None, "3", index=0), call("h", "4", index=1, id="c")]
    events = read(delta(tool_calls=shared), delta(tool_calls=more), END)
    assert [event for event in events if isinstance(event, ToolCall)] == [
        ToolCall(0, "a", "f"),
        ToolCall(1, "b", "g"),
        ToolCall(2, "c", "h"),
    ]
    assert [(event.index, event.text) for event in events if isinstance(event, ToolArgs)] == [
        (0, "1"),
        (1, "2"),
        (1, "3"),
        (2, "4"),
    ]
    bare = [call("f", "1", id="a"), call("g", "2", id="b"), call(None, "3")]
    assert read(delta(tool_calls=bare), END)[-2] == ToolArgs(1, "3")


def test_a_call_without_an_id_gets_kimis_form():
    assert read(delta(tool_calls=[call("f", "{}", index=2)]), END)[0] == ToolCall(
        2, "functions.f:2", "f"
    )
    search = call("$web_search", "{}", index=0, id="s", type="builtin_function")
    assert read(delta(tool_calls=[search]), END)[0].type == "builtin_function"


def test_reasons():
    for said in ("stop", "length", "content_filter"):
        assert read(delta(finish=said)) == [Finished(said)]
    assert read(delta(finish="function_call")) == [Finished("tool_calls")]
    assert read(delta(tool_calls=[FIRST]), END)[-1] == Finished("tool_calls")
    usage = {"prompt_tokens": 1, "completion_tokens": 1}
    assert read(END, END | {"usage": usage}) == [Finished("stop"), Used(Counts(1, 1))]


def test_choices_are_kept_apart():
    assert read(
        delta(0, content="a"), delta(1, content="b"), END, delta(1, content="c"), delta(1, "length")
    ) == [
        Text("a", 0),
        Text("b", 1),
        Finished("stop", 0),
        Text("c", 1),
        Finished("length", 1),
    ]


def test_sources_are_read():
    source = {"url": "https://a.example", "title": "A", "start_index": 0, "end_index": 1}
    note = {"type": "url_citation", "url_citation": source}
    assert read(delta(content="x"), delta(annotations=[note, {"type": "other"}]), END)[1] == (
        Citation("https://a.example", "A", 0, 1)
    )


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"type": "engine_overloaded_error", "message": "c4n4ry"}, "overloaded"),
        ({"type": "rate_limit_reached_error"}, "overloaded"),
        ({"type": "exceeded_current_quota_error", "code": 429}, "upstream_error"),
        ({"type": "content_filter"}, "content_filter"),
        ({"type": "invalid_request_error"}, "rejected_by_model"),
        ({"type": "server_error", "code": None}, "upstream_error"),
        ({"type": "BadRequestError", "code": 400}, "rejected_by_model"),
        ({"type": "x", "code": 503}, "overloaded"),
        ({"type": "x", "code": "504"}, "upstream_timeout"),
        ({"type": "invalid_authentication_error"}, "upstream_error"),
        ({"type": ["x"], "code": {}}, "upstream_error"),
        ("c4n4ry", "upstream_error"),
        ({}, "upstream_error"),
    ],
)
def test_an_error_inside_the_stream(error, kind):
    reader = CODEC.reader()
    reader.open()
    sent = frames(delta(content="x"), {"error": error}, "garbage")
    assert reader.feed(sent) == [Text("x"), Failed(kind)]
    assert reader.feed(b"data: more\n\n") == []
    assert reader.close() == []


def test_the_older_error_event_of_vllm():
    error = {"object": "error", "message": "c4n4ry", "type": "BadRequestError", "code": 400}
    assert read(error, done=False) == [Failed("rejected_by_model")]


@pytest.mark.parametrize(
    ("payloads", "kind"),
    [
        (["{"], "chunk"),
        (["[]"], "chunk"),
        (["null"], "chunk"),
        (["<html>c4n4ry</html>"], "chunk"),
        (["[" * 100_000], "chunk"),
        ([{"choices": {}}], "chunk"),
        ([delta(content=5)], "chunk"),
        ([delta(content=[{"type": "text", "text": "x"}])], "chunk"),
        ([delta(-1, content="x")], "choice_index"),
        ([delta(10**6, content="x")], "choice_index"),
        ([delta(finish="unexpected_state")], "finish_reason"),
        ([END, delta(content="x")], "order"),
        ([END, delta(finish="length")], "order"),
        ([delta(tool_calls=[call(None, "{}", index=0)])], "tool_call"),
        ([delta(tool_calls=[call("f", "{}", index=-1)])], "tool_call_index"),
        ([delta(tool_calls=[call("f", "{}", index=10**9)])], "tool_call_index"),
        ([], "unfinished"),
        ([delta(content="x")], "unfinished"),
        ([delta(content="x"), delta(1, content="y"), END], "unfinished"),
    ],
)
def test_what_no_server_may_send(payloads, kind):
    assert broken(*payloads) == kind


def test_a_stream_without_its_end_mark_was_cut():
    for payloads in ([], [delta(content="x")], [END]):
        assert broken(*payloads, done=False) == "cut"
    reader = CODEC.reader()
    reader.open()
    assert reader.feed(frames(END) + b"data: [DONE]") == [Finished("stop")]
    assert reader.close() == []


def test_bytes_after_the_end_mark_mean_nothing():
    reader = CODEC.reader()
    reader.open()
    assert reader.feed(frames(END, "[DONE]", "garbage")) == [Finished("stop")]
    assert reader.feed(b"\xff") == []
    assert reader.close() == []


def test_text_that_is_no_unicode_is_a_broken_stream():
    for bad in (
        b'{"choices":[{"delta":{"content":"\xff"}}]}',
        b'{"choices":[{"delta":{"content":"\\ud800"}}]}',
    ):
        reader = CODEC.reader()
        reader.open()
        with pytest.raises(UpstreamProtocolError, match="chunk"):
            reader.feed(b"data: " + bad + b"\n\n")


def test_nothing_is_read_before_the_other_side_accepted():
    with pytest.raises(UpstreamProtocolError, match="order"):
        CODEC.reader().feed(frames(delta(content="x")))
