"""What our own clients get: streams, whole answers, errors; byte for byte, and both alike."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moongate.core.errors import Refused
from moongate.core.events import (
    Answer,
    Choice,
    Citation,
    Event,
    Failed,
    Finished,
    Fold,
    Started,
    Text,
    Thinking,
    ToolArgs,
    ToolCall,
    Used,
)
from moongate.core.money import Bill, Counts, Usage
from moongate.core.ports import Head
from moongate.wire.chat import ChatCodec
from wire_kit import BILL, HEAD, USAGE_HEAD, check_stream, texts

CODEC = ChatCodec()
USAGE = (
    '{"prompt_tokens":10000,"completion_tokens":500,"total_tokens":10500,"cached_tokens":8000,'
    '"prompt_tokens_details":{"cached_tokens":8000},'
    '"completion_tokens_details":{"reasoning_tokens":120},'
    '"saved_nanos":3040000,"saved_usd":"0.00304","searches":0,"cost":0.00276,"cost_nanos":2760000}'
)
START = (
    'data: {"id":"chatcmpl-0123456789abcdef01234567","object":"chat.completion.chunk",'
    '"created":1769472000,"model":"kimi-k2.5","system_fingerprint":"fpv0_test","choices":['
)


def test_a_stream_byte_for_byte():
    writer = CODEC.writer(HEAD)
    sent = writer.write([Thinking("Hm"), Text('a\n\u2028"\u6708')])
    sent += writer.write(
        [ToolCall(1, "functions.f:1", "f"), ToolArgs(1, '{"x":'), ToolArgs(1, "1}")]
    )
    sent += writer.write([Citation("https://a.example", "A", 0, 2)])
    sent += writer.end([Finished("tool_calls")], BILL)
    deltas = [
        '{"role":"assistant","content":""}',
        '{"reasoning_content":"Hm"}',
        '{"content":"a\\n\u2028\\"\u6708"}',
        (
            '{"tool_calls":[{"index":1,"id":"functions.f:1","type":"function",'
            '"function":{"name":"f","arguments":""}}]}'
        ),
        '{"tool_calls":[{"index":1,"function":{"arguments":"{\\"x\\":"}}]}',
        '{"tool_calls":[{"index":1,"function":{"arguments":"1}"}}]}',
        (
            '{"annotations":[{"type":"url_citation","url_citation":{"url":"https://a.example",'
            '"title":"A","start_index":0,"end_index":2}}]}'
        ),
    ]
    expected = [f'{{"index":0,"delta":{delta},"finish_reason":null}}' for delta in deltas]
    expected.append(f'{{"index":0,"delta":{{}},"finish_reason":"tool_calls","usage":{USAGE}}}')
    chunks = "".join(f"{START}{choice}]}}\n\n" for choice in expected)
    assert sent.decode() == f"{chunks}data: [DONE]\n\n"


def test_a_stream_with_usage_asked_for_byte_for_byte():
    writer = CODEC.writer(USAGE_HEAD)
    sent = writer.write([Text("x")]) + writer.end([Finished("stop")], BILL)
    expected = [
        '{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}',
        '{"index":0,"delta":{"content":"x"},"finish_reason":null}',
        f'{{"index":0,"delta":{{}},"finish_reason":"stop","usage":{USAGE}}}',
    ]
    chunks = "".join(f'{START}{choice}],"usage":null}}\n\n' for choice in expected)
    last = f'{START}],"usage":{USAGE}}}\n\n'
    assert sent.decode() == f"{chunks}{last}data: [DONE]\n\n"


def test_an_answer_byte_for_byte():
    answer = Answer(
        (Choice(0, "x", "Hm", (), "stop", (Citation("https://a.example", "A", 0, 1),)),)
    )
    start = START.removeprefix("data: ").replace(".chunk", "")
    assert CODEC.write_answer(answer, HEAD, BILL).decode() == (
        f'{start}{{"index":0,"message":{{"role":"assistant","content":"x","reasoning_content":"Hm",'
        '"annotations":[{"type":"url_citation","url_citation":{"url":"https://a.example",'
        f'"title":"A","start_index":0,"end_index":1}}}}]}},"finish_reason":"stop"}}],"usage":{USAGE}}}'
    )


def test_content_is_never_null():
    answer = Answer((Choice(0, "", None, (), "length"),))
    message = json.loads(CODEC.write_answer(answer, HEAD, BILL))["choices"][0]["message"]
    assert message == {"role": "assistant", "content": ""}


def test_reasoning_that_is_empty_is_not_absent():
    answer = Answer((Choice(0, "x", "", (), "stop"),))
    message = json.loads(CODEC.write_answer(answer, HEAD, BILL))["choices"][0]["message"]
    assert message["reasoning_content"] == ""


@pytest.mark.parametrize(
    ("events", "finish", "hinted"),
    [
        ([Thinking("Hm")], Finished("length"), True),
        ([Thinking("Hm")], Finished("length", unpaid=True), False),
        ([Thinking("Hm")], Finished("stop"), False),
        ([Thinking("Hm"), Text("I")], Finished("length"), False),
        ([Thinking("Hm"), ToolCall(0, "i", "f")], Finished("length"), False),
        ([Thinking("")], Finished("length"), False),
        ([Text("")], Finished("length"), False),
    ],
)
def test_a_cap_that_reasoning_used_up_is_told_beside_the_answer(events, finish, hinted):
    writer = CODEC.writer(HEAD)
    streamed = check_stream(writer.write(events) + writer.end([finish], BILL), include_usage=False)
    fold = Fold()
    for event in [*events, finish]:
        fold.add(event)
    whole = json.loads(CODEC.write_answer(fold.answer(), HEAD, BILL))
    assert streamed["hint"] == whole.get("hint")
    assert ("hint" in whole) == hinted
    if hinted:
        assert "max_completion_tokens" in whole["hint"]
        assert whole["choices"][0]["message"]["content"] == ""


@pytest.mark.parametrize("head", [HEAD, USAGE_HEAD])
def test_an_sdk_gathers_our_stream(head):
    from openai.lib.streaming.chat import ChatCompletionStreamState
    from openai.types.chat import ChatCompletionChunk

    writer = CODEC.writer(head)
    events = [Thinking("Hm"), Text("a"), ToolCall(0, "i0", "f"), ToolCall(1, "i1", "g")]
    sent = writer.write([*events, ToolArgs(1, "{}"), ToolArgs(0, '{"x":'), ToolArgs(0, "1}")])
    sent += writer.end([Finished("tool_calls")], BILL)
    state = ChatCompletionStreamState()
    for frame in sent.decode().split("\n\n")[:-2]:
        state.handle_chunk(ChatCompletionChunk.model_validate_json(frame[6:]))
    choice = state.get_final_completion().choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "a")
    assert choice.message.reasoning_content == "Hm"
    calls = [(call.id, call.function.arguments) for call in choice.message.tool_calls or ()]
    assert calls == [("i0", '{"x":1}'), ("i1", "{}")]


def test_an_empty_answer_still_opens_with_its_role():
    sent = CODEC.writer(HEAD).end([Finished("stop")], BILL)
    assert check_stream(sent, include_usage=False)["choices"][0]["content"] == ""
    writer = CODEC.writer(HEAD)
    opened = writer.write([])
    assert b'"delta":{"role":"assistant","content":""}' in opened
    assert writer.write([]) == b""


def test_a_head_without_a_fingerprint_says_none():
    sent = CODEC.writer(Head("i", 1, "m", "")).write([])
    assert b"fingerprint" not in sent


@pytest.mark.parametrize(
    ("nanos", "usd"),
    [(0, "0.00"), (1, "0.000000001"), (1_760_000, "0.00176"), (3 * 10**18, "3000000000.00")],
)
def test_a_cost_is_printed_from_the_integer(nanos, usd):
    bill = Bill(Usage(1, 2, 3), nanos)
    sent = CODEC.writer(HEAD).end([Finished("stop")], bill).decode()
    assert f'"cost":{usd},"cost_nanos":{nanos}}}' in sent
    usage = json.loads(sent.split("\n\n")[1][6:])["choices"][0]["usage"]
    assert usage["completion_tokens_details"] == {"reasoning_tokens": 0}


def test_a_failure_is_an_error_event_and_no_end():
    error = Refused("stream_interrupted")
    sent = CODEC.writer(HEAD).fail(error)
    assert sent == b"data: " + CODEC.write_error(error) + b"\n\n"
    assert json.loads(CODEC.write_error(error)) == {
        "error": {
            "message": "The model stream was interrupted.",
            "type": "server_error",
            "param": None,
            "code": "upstream_error",
        }
    }


def test_a_heartbeat_is_a_comment():
    reader = CODEC.reader()
    reader.open()
    heartbeat = CODEC.writer(HEAD).heartbeat()
    assert heartbeat.startswith(b":")
    assert reader.feed(heartbeat) == []


def test_only_content_is_written():
    for event in (Started(), Used(Counts()), Failed("upstream_error"), Finished("stop")):
        with pytest.raises(TypeError):
            CODEC.writer(HEAD).write([event])


def test_a_stream_that_breaks_the_grammar_is_noticed_in_any_test(grammar):
    CODEC.writer(HEAD).end([Finished("stop"), Finished("stop")], BILL)
    writer = CODEC.writer(HEAD)
    writer.end([Finished("stop")], BILL)
    writer.fail(Refused("internal_error"))
    assert len(grammar) == 1
    assert "nothing follows a choice's finish" in grammar.pop()


@st.composite
def answers(draw: st.DrawFn) -> list[Event]:
    """Content events of one to two choices in a legal order, then their finishes."""
    pieces = texts.filter(bool)
    events: list[Event] = []
    finishes: list[Event] = []
    for choice in range(draw(st.integers(1, 2))):
        events += [Thinking(text, choice) for text in draw(st.lists(pieces, max_size=3))]
        events += [Text(text, choice) for text in draw(st.lists(pieces, max_size=3))]
        count = draw(st.integers(0, 3))
        events += [ToolCall(i, f"functions.f:{i}", "f", choice=choice) for i in range(count)]
        if count:
            where = st.tuples(st.integers(0, count - 1), pieces)
            events += [ToolArgs(i, text, choice) for i, text in draw(st.lists(where, max_size=5))]
        if draw(st.booleans()) and any(event.choice == choice for event in events):
            events.append(Citation(draw(texts), draw(texts), 0, 3, choice))
        finishes.append(Finished("tool_calls" if count else "length", choice))
    return events + finishes


def stream_of(events: list[Event], head: Head) -> bytes:
    writer = CODEC.writer(head)
    finishes = [event for event in events if isinstance(event, Finished)]
    return writer.write(events[: -len(finishes)]) + writer.end(finishes, BILL)


@given(answers(), st.booleans(), st.lists(st.integers(0, 5000), max_size=6))
def test_events_survive_the_wire_whatever_the_cuts(events, include_usage, cuts):
    sent = stream_of(events, USAGE_HEAD if include_usage else HEAD)
    reader = CODEC.reader()
    got = reader.open()
    last = 0
    for cut in [*sorted(cut for cut in cuts if cut < len(sent)), len(sent)]:
        got += reader.feed(sent[last:cut])
        last = cut
    got += reader.close()
    assert [event for event in got if not isinstance(event, Used | Started)] == events
    final = [event.counts for event in got if isinstance(event, Used)]
    assert final
    assert final[-1] == Counts(10_000, 500, 8_000, 120)


@given(answers(), st.booleans())
def test_a_folded_stream_is_the_unstreamed_answer(events, include_usage):
    head = USAGE_HEAD if include_usage else HEAD
    streamed = check_stream(stream_of(events, head), include_usage=include_usage)
    fold = Fold()
    for event in events:
        fold.add(event)
    whole = json.loads(CODEC.write_answer(fold.answer(), head, BILL))
    assert whole["usage"] == streamed["usage"]
    assert len(whole["choices"]) == len(streamed["choices"])
    for one, other in zip(whole["choices"], streamed["choices"], strict=True):
        message = one["message"]
        assert message["content"] == other["content"]
        assert message.get("reasoning_content") == other["reasoning_content"]
        assert message.get("annotations", []) == other["annotations"]
        assert one["finish_reason"] == other["finish_reason"]
        calls = [
            {"id": call["id"], "type": call["type"]} | call["function"]
            for call in message.get("tool_calls", [])
        ]
        assert calls == [call for _, call in sorted(other["tool_calls"].items())]
