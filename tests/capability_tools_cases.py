"""Rows of the capability matrix: tools."""

import json
from typing import Any

from jsonschema import Draft202012Validator

from capability_kit import Place, feature
from capability_request_cases import OFF, user

TOOLS_AREA = "Tools"
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tells the weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
TIME: dict[str, Any] = {
    "type": "function",
    "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}},
}
QUESTION = user("Tell me the weather of the city of Oslo.")
ONE_CALL = 'think I should look.\ntool get_weather {"city":"Oslo"}\nfinish tool_calls'
ROOM = {"max_completion_tokens": 64}


def checked(call: dict[str, Any], tool: dict[str, Any] = WEATHER) -> dict[str, Any]:
    """The arguments of a call, which satisfy its tool's schema."""
    arguments = json.loads(call["function"]["arguments"])
    Draft202012Validator(tool["function"]["parameters"]).validate(arguments)
    return arguments


@feature(TOOLS_AREA, "A tool call: `tool_calls` as the finish, arguments of the tool's schema")
async def tool_call(place: Place) -> None:
    got = await place.both(ONE_CALL, messages=QUESTION, tools=[WEATHER], **ROOM)
    (call,) = got.calls
    assert (call["type"], call["function"]["name"]) == ("function", "get_weather")
    assert call["id"]
    assert isinstance(got.text, str)
    assert got.finish == "tool_calls"
    arguments = checked(call)
    if place.http:
        assert arguments == {"city": "Oslo"}
        assert got.sent["tools"] == [WEATHER]


@feature(TOOLS_AREA, "A short sentence beside a call")
async def sentence_beside_a_call(place: Place) -> None:
    said = f"text Let me look.\n{ONE_CALL}" if place.http else ""
    got = await place.both(said.replace("think I should look.\n", ""), messages=QUESTION,
                           tools=[WEATHER], **ROOM)  # fmt: skip
    assert got.finish == "tool_calls"
    assert got.text == ("Let me look." if place.http else "")


def answered(calls: list[dict[str, Any]], *results: str, **more: Any) -> list[dict[str, Any]]:
    """A turn of calls, replayed as an SDK does, and a result for each, in the given order."""
    assistant = {"role": "assistant", "content": "", "tool_calls": calls, **more}
    pairs = zip(calls, results, strict=True)
    said = [{"role": "tool", "tool_call_id": c["id"], "content": text} for c, text in pairs]
    return [assistant, *reversed(said)]


def a_call(id: str, name: str, arguments: str = "{}") -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


@feature(TOOLS_AREA, "Parallel calls; results in any order")
async def parallel_calls(place: Place) -> None:
    tools = [WEATHER, TIME]
    calls = [a_call("a", "get_weather", '{"city":"Oslo"}'), a_call("b", "get_time")]
    if place.http:
        script = 'tool get_weather {"city":"Oslo"}\ntool get_time {}\nfinish tool_calls'
        got = await place.both(script, messages=QUESTION, tools=tools)
        assert [call["function"]["name"] for call in got.calls] == ["get_weather", "get_time"]
        calls = got.calls
    messages = [*QUESTION, *answered(calls, "4 degrees", "noon", reasoning_content="Both.")]
    got = await place.both("text Cold.\nfinish stop", messages=messages, tools=tools)
    assert got.finish in ("stop", "length")
    if place.http:
        replayed = [call["id"] for call in got.sent["messages"][1]["tool_calls"]]
        results = [one["tool_call_id"] for one in got.sent["messages"][2:]]
        assert results == replayed[::-1]


@feature(TOOLS_AREA, "Arguments arrive in pieces, each with its call's index")
async def streamed_arguments(place: Place) -> None:
    script = """tool get_weather
args {"city":
tool get_time
args#0 "Oslo"}
args#1 {}
finish tool_calls"""
    got = await place.both(script, messages=QUESTION, tools=[WEATHER, TIME], **ROOM)
    checked(got.calls[0])
    if place.http:
        assert [call["function"]["arguments"] for call in got.calls] == ['{"city":"Oslo"}', "{}"]


@feature(TOOLS_AREA, "Three rounds of tools; any ids that a client sends are accepted")
async def rounds_of_tools(place: Place) -> None:
    messages = list(QUESTION)
    for number in range(3):
        got = await place.whole(ONE_CALL, messages=messages, tools=[WEATHER], **ROOM)
        assert got.status == 200, got.body
        calls = got.calls or [a_call("x", "get_weather", '{"city":"Rome"}')]
        calls = [call | {"id": f"call_{number}{at}"} for at, call in enumerate(calls)]
        messages += answered(calls, *["4 degrees"] * len(calls), reasoning_content="Look.")
    got = await place.whole("text Cold.\nfinish stop", messages=messages, tools=[WEATHER])
    assert got.status == 200, got.body


@feature(TOOLS_AREA, "`tool_choice` `auto` and `none`")
async def choice_auto_and_none(place: Place) -> None:
    for choice in ("auto", "none", None):
        script = ONE_CALL if choice == "auto" else "text Cold.\nfinish stop"
        got = await place.both(script, messages=QUESTION, tools=[WEATHER], tool_choice=choice)
        if choice == "none":
            assert got.calls == []
        if place.http:
            assert got.sent.get("tool_choice") == choice
    got = await place.whole("text Cold.\nfinish stop", tool_choice="none")
    assert got.status == 200


NAMED = {"type": "function", "function": {"name": "get_weather"}}


@feature(TOOLS_AREA, "`tool_choice` `required` and a named tool, with thinking off")
async def choice_forced(place: Place) -> None:
    for choice in ("required", NAMED):
        got = await place.both(
            ONE_CALL.replace("think I should look.\n", ""),
            messages=user("Anything."),
            tools=[TIME, WEATHER] if choice == NAMED else [WEATHER],
            tool_choice=choice,
            thinking=OFF,
            **ROOM,
        )
        assert got.calls[0]["function"]["name"] == "get_weather"
        checked(got.calls[0])
        assert got.finish == "tool_calls"
        if place.http:
            assert got.sent["tool_choice"] == choice


@feature(TOOLS_AREA, "A forced tool with thinking on is 400 in Moonshot's words")
async def choice_forced_with_thinking(place: Place) -> None:
    for choice, word in (("required", "required"), (NAMED, "specified")):
        for policy in ("standard", "strict", "lenient"):
            fields = {"messages": QUESTION, "tools": [WEATHER], "tool_choice": choice}
            got = await place.refuses("invalid_value", key=policy, **fields)
            said = f"tool_choice '{word}' is incompatible with thinking enabled"
            assert (got.error["message"], got.error["param"]) == (said, "tool_choice")


@feature(TOOLS_AREA, "At most 128 tools; names by pattern, no doubles, `$` reserved")
async def tool_limits(place: Place) -> None:
    def tools(*names: str) -> list[dict[str, Any]]:
        parameters = {"type": "object", "properties": {}}
        return [
            {"type": "function", "function": {"name": name, "parameters": parameters}}
            for name in names
        ]

    ok = "text Io.\nfinish stop"
    few = tools("a" * 128, *(f"f-{at}" for at in range(127 if place.http else 3)))
    got = await place.whole(ok, messages=user("Hi."), tools=few, tool_choice="none")
    assert got.status == 200, got.body
    for wrong in (
        tools(*(f"f{at}" for at in range(129))),
        tools("f", "f"),
        tools("a b"),
        tools("$mine"),
        tools("1st"),
        tools("a" * 129),
    ):
        await place.refuses("invalid_value", tools=wrong)
    await place.refuses("invalid_value", tool_choice="required")
    await place.refuses("invalid_value", tools=[WEATHER], tool_choice="sometimes")


@feature(TOOLS_AREA, "Each call is answered by one tool message, else 400")
async def calls_and_their_results(place: Place) -> None:
    lost = [*QUESTION, {"role": "tool", "tool_call_id": "nobody", "content": "4"}]
    await place.refuses("invalid_tool_call_id", messages=lost, tools=[WEATHER])
    for content in ({}, {"content": None}, {"content": ""}):
        calls = [a_call("get_weather:0", "get_weather", '{"city":"Oslo"}')]
        replayed = {"role": "assistant", "tool_calls": calls, "reasoning_content": ""} | content
        result = {"role": "tool", "tool_call_id": "get_weather:0", "content": ""}
        got = await place.whole(
            "text Cold.\nfinish stop", messages=[*QUESTION, replayed, result], tools=[WEATHER]
        )
        assert got.status == 200, got.body


@feature(
    TOOLS_AREA,
    "A Kimi reads and writes `functions.NAME:IDX`, whatever ids the client has",
    also=("test_wire_ids.py::test_a_kimi_reads_its_own_ids",),
)
async def ids_of_calls(place: Place) -> None:
    calls = [a_call("call_abc", "get_weather", '{"city":"Oslo"}'), a_call("x:7", "get_time")]
    messages = [*QUESTION, *answered(calls, "4 degrees", "noon", reasoning_content="Both.")]
    messages += user("Tell me the weather of the city of Rome.")
    fields = {"messages": messages, "tools": [WEATHER, TIME], "thinking": OFF}
    got = await place.both(ONE_CALL, tool_choice=NAMED, **fields, **ROOM)
    ids = [call["id"] for call in got.sent["messages"][1]["tool_calls"]] if place.http else []
    assert got.calls[0]["id"] == "functions.get_weather:2"
    if place.http:
        assert ids == ["functions.get_weather:0", "functions.get_time:1"]
        results = [one["tool_call_id"] for one in got.sent["messages"][2:4]]
        assert results == ids[::-1]
        fields["model"] = "text-only"  # a model of another family reads no ids of Kimi's
        got = await place.whole("text Cold.\nfinish stop", **fields)
        ids = [call["id"] for call in got.sent["messages"][1]["tool_calls"]]
        assert ids == ["call_abc", "x:7"]


@feature(
    TOOLS_AREA,
    "Reasoning that a client dropped in a tool loop is put back for a Kimi",
    also=("test_upstream_replay.py::test_dropped_reasoning_is_restored_and_named",),
)
async def repaired_reasoning(place: Place) -> None:
    first = await place.whole(ONE_CALL, messages=QUESTION, tools=[WEATHER], **ROOM)
    known = answered(first.calls, "4 degrees") if place.http else []
    foreign = answered([a_call("z", "get_weather", '{"city":"Rome"}')], "9 degrees")
    for turn, thought in ((known, "I should look."), (foreign, "")):
        got = await place.both(
            "text Cold.\nfinish stop", messages=[*QUESTION, *turn], tools=[WEATHER]
        )
        if turn and place.http:
            assert got.sent["messages"][1]["reasoning_content"] == thought
            assert got.headers["x-moongate-repaired"] == "messages[1].reasoning_content"
        else:  # the stand-in reads none
            assert "x-moongate-repaired" not in got.headers


LEAKED = (
    "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0"
    '<|tool_call_argument_begin|>{"city":"Oslo"}<|tool_call_end|><|tool_calls_section_end|>'
)
PROSE = "Kimi writes <|tool_calls_section_begin|> and then its calls."


@feature(
    TOOLS_AREA,
    "Kimi's own markers, where an upstream leaks them, become calls; prose about them passes",
    also=(
        "test_upstream_markers.py::test_a_leaked_section_becomes_calls_wherever_it_is_cut",
        "test_upstream_markers.py::test_prose_about_markers_passes_as_it_is",
    ),
)
async def leaked_markers(place: Place) -> None:
    pieces = [LEAKED[at : at + 7] for at in range(0, len(LEAKED), 7)]
    script = "\n".join(f"text {json.dumps(piece)}" for piece in ["Look. ", *pieces])
    got = await place.both(f"{script}\nfinish stop", messages=QUESTION, tools=[WEATHER], **ROOM)
    assert got.finish == "tool_calls"
    checked(got.calls[0])
    assert "<|" not in json.dumps(got.body["choices"])
    said = await place.both(
        f"text {json.dumps(PROSE)}\nfinish stop", messages=QUESTION, tools=[WEATHER], **ROOM
    )
    if place.http:
        assert (said.text, said.finish) == (PROSE, "stop")
        fields = {"model": "text-only", "messages": QUESTION, "tools": [WEATHER]}
        got = await place.whole(f"{script}\nfinish stop", **fields)
        assert got.text == f"Look. {LEAKED}"  # of a model that is no Kimi this is text


SEARCH = {"type": "builtin_function", "function": {"name": "$web_search"}}


FOUND = 'tool web_search {"query":"moons of mars"}\nfinish tool_calls\n---\ntext Two [^1^].'


@feature(
    TOOLS_AREA,
    "`$web_search`, the built-in function: we search, the answer cites its sources",
    also=(
        "test_search_answers.py::test_three_rounds_of_searches_are_one_answer",
        "test_search_embedded.py::test_each_search_of_a_conversation_is_billed_once",
    ),
)
async def web_search(place: Place) -> None:
    fields = {"messages": QUESTION, "tools": [SEARCH], "thinking": OFF, "tool_choice": "required"}
    for asked in (place.whole, place.stream):
        got = await asked(FOUND, **fields, **ROOM)
        assert got.status == 200, got.body
        assert got.finish in ("stop", "length")
        assert not got.calls
        assert got.usage["searches"] == 1
        cited = [note["url_citation"] for note in got.message["annotations"]]
        assert cited[0]["url"] == "https://example.org/mars"
        if place.http:
            assert got.text[cited[0]["start_index"] : cited[0]["end_index"]] == "[^1^]"
            assert got.sent["messages"][-1]["role"] == "tool"


@feature(TOOLS_AREA, "`web_search_options`, as at OpenAI")
async def web_search_options(place: Place) -> None:
    options = {"search_context_size": "low", "user_location": {"type": "approximate"}}
    got = await place.whole("text Two.", messages=user("Hm"), web_search_options=options, **ROOM)
    assert got.status == 200
    assert got.usage["searches"] == 0
    dropped = got.headers["x-moongate-dropped"].split(",")
    assert "web_search_options.user_location" in dropped
    if place.http:
        assert [tool["function"]["name"] for tool in got.sent["tools"]] == ["web_search"]
        assert "web_search_options" not in got.sent
