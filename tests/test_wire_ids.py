"""Tool-call ids: whatever a client sends, a Kimi reads one counter over the conversation."""

import json
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moongate.core.events import Event, Text, ToolArgs, ToolCall
from moongate.core.request import Call, Message, Tool
from moongate.meter import tokens
from moongate.upstream.frames import Look
from moongate.upstream.quirks import shape
from moongate.upstream.scripted import ScriptedServer
from moongate.wire.chat import ChatCodec
from moongate.wire.chat.conversation import read_messages
from moongate.wire.ids import Numbering, numbered
from upstream_kit import an_ask, events_of, running, told

USER = Message("user", "go")
KINDS = ("moonshot", "vllm", "sglang", "openai")


def asks(*calls: tuple[str, str], content: str | None = "") -> Message:
    made = tuple(Call(id, name, "{}") for id, name in calls)
    return Message("assistant", content, thinking="hm", tool_calls=made)


def result(id: str, text: str = "ok") -> Message:
    return Message("tool", text, tool_call_id=id)


def ids(messages: Any) -> list[list[str] | str]:
    """The ids of a chat body: a list for each message that calls, a word for each result."""
    out: list[list[str] | str] = []
    for message in messages:
        if message.get("tool_calls"):
            out.append([call["id"] for call in message["tool_calls"]])
        elif message["role"] == "tool":
            out.append(message["tool_call_id"])
    return out


def sent(kind: Any, *messages: Message, family: Any = "kimi") -> list[dict[str, Any]]:
    ask = an_ask(*messages, family=family)
    body = shape(ChatCodec().write_request(ask.request), ask, kind)
    found: list[dict[str, Any]] = body["messages"]
    return found


# A history as some client sends it; the ids are what Kimi reads.
HISTORIES = [
    ([asks(("call_abc", "a")), result("call_abc")], [["functions.a:0"], "functions.a:0"]),
    ([asks(("a:0", "a")), result("a:0")], [["functions.a:0"], "functions.a:0"]),
    ([asks(("0", "a")), result("0")], [["functions.a:0"], "functions.a:0"]),
    (  # two at once, answered in the other order
        [asks(("x", "a"), ("y", "b")), result("y"), result("x")],
        [["functions.a:0", "functions.b:1"], "functions.b:1", "functions.a:0"],
    ),
    (  # counters that start again each round
        [
            asks(("functions.a:0", "a")),
            result("functions.a:0"),
            asks(("functions.a:0", "a")),
            result("functions.a:0"),
        ],
        [["functions.a:0"], "functions.a:0", ["functions.a:1"], "functions.a:1"],
    ),
    (  # one id for two calls of one message
        [asks(("1", "a"), ("1", "b")), result("1"), result("1")],
        [["functions.a:0", "functions.b:1"], "functions.a:0", "functions.b:1"],
    ),
    (  # an id that means another call by Kimi's count
        [
            asks(("functions.b:1", "a"), ("functions.a:0", "b")),
            result("functions.a:0"),
            result("functions.b:1"),
        ],
        [["functions.a:0", "functions.b:1"], "functions.b:1", "functions.a:0"],
    ),
    (
        [asks(("1", "$web_search")), result("1"), USER, asks(("1", "a")), result("1")],
        [
            ["functions.$web_search:0"],
            "functions.$web_search:0",
            ["functions.a:1"],
            "functions.a:1",
        ],
    ),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("history", "read"), HISTORIES)
def test_a_kimi_reads_its_own_ids(
    kind: Any, history: list[Message], read: list[list[str] | str]
) -> None:
    assert ids(sent(kind, USER, *history)) == read


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("history", "_read"), HISTORIES)
def test_other_models_read_the_clients_ids(kind: Any, history: list[Message], _read: Any) -> None:
    said = ChatCodec().write_request(an_ask(USER, *history).request)["messages"]
    assert ids(sent(kind, USER, *history, family="other")) == ids(said)


def test_the_whole_message_is_this() -> None:
    assert sent("moonshot", USER, asks(("toolu_01", "look")), result("toolu_01", "4°C"))[1:] == [
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": "hm",
            "tool_calls": [
                {
                    "id": "functions.look:0",
                    "type": "function",
                    "function": {"name": "look", "arguments": "{}"},
                }
            ],
        },
        {"role": "tool", "content": "4°C", "tool_call_id": "functions.look:0"},
    ]


rounds = st.lists(
    st.lists(st.tuples(st.sampled_from(["0", "1", "call_a", "a:0"]), st.sampled_from("abc"))),
    max_size=5,
)


@given(rounds, st.randoms(use_true_random=False))
def test_a_growing_conversation_keeps_its_beginning(
    calls: list[list[tuple[str, str]]], dice: Any
) -> None:
    messages: list[Message] = []
    before: dict[str, bytes] = {}
    for at, made in enumerate(calls):
        messages.append(Message("user", f"question {at}"))
        if made:
            messages.append(asks(*made))
            answers = [result(id) for id, _ in made]
            dice.shuffle(answers)
            messages += answers
        for kind in KINDS:
            body = json.dumps(sent(kind, *messages)).encode()
            assert body.startswith(before.get(kind, b""))
            before[kind] = body[:-1]
    flat = [
        id for row in ids(sent("moonshot", *messages, USER)) if isinstance(row, list) for id in row
    ]
    assert [int(id.rpartition(":")[2]) for id in flat] == list(range(len(flat)))


def test_thousands_of_calls_answered_backwards_take_no_time() -> None:
    def took_s(count: int) -> float:
        calls = [{"id": f"c{n}", "function": {"name": "f", "arguments": ""}} for n in range(count)]
        said = [{"role": "tool", "tool_call_id": f"c{n}", "content": ""} for n in range(count)]
        body = {"messages": [{"role": "assistant", "tool_calls": calls}, *reversed(said)]}
        messages = read_messages(body)
        began = time.perf_counter()
        found = numbered(messages)
        took_s = time.perf_counter() - began
        assert [m.tool_call_id for m in found[1:]] == [
            call.id for call in found[0].tool_calls[::-1]
        ]
        return took_s

    short = min(took_s(300) for _ in range(5))
    assert min(took_s(4800) for _ in range(3)) < 16 * 5 * short


def test_what_needs_no_new_id_is_the_same_object() -> None:
    messages = (USER, Message("assistant", "hi"), result("unknown"))
    assert all(one is other for one, other in zip(numbered(messages), messages, strict=True))


def test_the_answers_ids_count_on_for_each_choice_apart() -> None:
    numbering = Numbering([USER, asks(("x", "a"), ("y", "b")), result("x"), result("y")])
    events: list[Event] = [
        ToolCall(0, "search:0", "search"),
        ToolCall(0, "", "look", choice=1),
        ToolArgs(0, "{}"),
        ToolCall(1, "search:0", "search"),
        Text("x"),
    ]
    made = numbering.feed(list(events)) + numbering.feed([ToolCall(2, "7", "look")])
    assert [event.id for event in made if isinstance(event, ToolCall)] == [
        "functions.search:2",
        "functions.look:2",
        "functions.search:3",
        "functions.look:4",
    ]
    assert [msgspec.structs.replace(e, id="") if isinstance(e, ToolCall) else e for e in made][
        2:4
    ] == [
        ToolArgs(0, "{}"),
        ToolCall(1, "", "search"),
    ]


def test_a_part_of_the_id_that_was_left_in_a_name_is_taken_off() -> None:
    tools = (Tool("look", parameters={}), Tool("functions.own", parameters={}))
    numbering = Numbering([USER], tools)
    asked = ("functions.look", "look", "functions.own", "functions.unknown")
    made = numbering.feed([ToolCall(n, "x", name) for n, name in enumerate(asked)])
    assert [(event.id, event.name) for event in made if isinstance(event, ToolCall)] == [
        ("functions.look:0", "look"),
        ("functions.look:1", "look"),
        ("functions.functions.own:2", "functions.own"),
        ("functions.functions.unknown:3", "functions.unknown"),
    ]


TWO_CALLS = 'think Hm.\ntool look {"at":1}\ntool find {"at":2}'
NAMELESS = "\n".join(
    f"garbage {json.dumps('data: ' + json.dumps(chunk) + chr(10) * 2)}"
    for chunk in (
        {"choices": [{"delta": {"tool_calls": [{"index": 0, "function": {"name": "look"}}]}}]},
        {"choices": [{"delta": {"tool_calls": [{"index": 1, "function": {"name": "find"}}]}}]},
        {
            "choices": [
                {"delta": {"tool_calls": [{"index": 0, "function": {"arguments": '{"at":1}'}}]}}
            ]
        },
        {
            "choices": [
                {"delta": {"tool_calls": [{"index": 1, "function": {"arguments": '{"at":2}'}}]}}
            ]
        },
    )
)


@pytest.mark.parametrize("family", ["kimi", "other"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spelling", ["functions", "short", "call", "none"])
async def test_whatever_ids_an_upstream_sends_the_client_sees_one_counter_of_a_kimi(
    kind: Any, spelling: Any, family: Any
) -> None:
    script = NAMELESS + "\nfinish tool_calls" if spelling == "none" else TWO_CALLS
    look = Look(ids="functions" if spelling == "none" else spelling)
    history = (USER, asks(("call_1", "look")), result("call_1"))
    tools = (Tool("look", parameters={}), Tool("find", parameters={}))
    ask = an_ask(*history, tools=tools, family=family)
    async with (
        ScriptedServer(script, look=look) as server,
        running(server.base_url, kind) as upstream,
    ):
        answer, _ = told(await events_of(upstream, ask))
    calls = answer.choices[0].calls
    assert [(call.name, call.arguments) for call in calls] == [
        ("look", '{"at":1}'),
        ("find", '{"at":2}'),
    ]
    found = [call.id for call in calls]
    if family == "other":
        assert (found == ["functions.look:1", "functions.find:2"]) == (spelling == "functions")
    else:
        assert found == ["functions.look:1", "functions.find:2"]


def test_a_prompt_counts_the_ids_that_kimi_reads() -> None:
    spelt = [
        (USER, asks((id, "get_the_weather")), result(id))
        for id in ("0", "functions.get_the_weather:0", "call_" + "x" * 500)
    ]
    counts = {repr(tokens.count(an_ask(*messages).request, 262_144)) for messages in spelt}
    assert len(counts) == 1
