"""`tool_choice` is kept, whatever an upstream makes of it: who is called, whether anybody is."""

from pathlib import Path
from typing import Any

import pytest

from moongate.core.events import Event, Finished, Text, Thinking, ToolArgs, ToolCall
from moongate.core.request import Format, Message, Request, Tool, ToolChoice
from moongate.guarantee import Guard
from test_gateway_promises import (
    BOTH,
    GOOD,
    PROSE,
    TOOL,
    WRONG,
    answer,
    asked,
    call,
    the_row,
    turn,
    upstream_says,
)

USER = Message("user", "x")
SAVE, PING = Tool("save", parameters={"type": "object"}), Tool("ping")
FORCED = [ToolChoice("required"), ToolChoice("named", "save")]


def a_request(choice: ToolChoice | None, *tools: Tool, form: Format | None = None) -> Request:
    return Request("k", (USER,), tools=tools or (SAVE, PING), tool_choice=choice, format=form)


def a_call(name: str = "save", index: int = 0, choice: int = 0) -> list[Event]:
    made = ToolCall(index, f"functions.{name}:{index}", name, choice=choice)
    return [made, ToolArgs(index, "{", choice), ToolArgs(index, "}", choice)]


async def passed(request: Request, *events: Event) -> tuple[list[Event], bool]:
    """What comes out of one event after the other, and whether it broke."""
    guard = Guard(request)
    out = [one for event in events for one in await guard.take([event])]
    return out, guard.broken


@pytest.mark.parametrize("choice", FORCED)
async def test_who_must_call_calls(choice: ToolChoice) -> None:
    events = [*a_call(), *a_call(index=1), Finished("tool_calls")]
    assert await passed(a_request(choice), *events) == (events, False)
    for silent in ([Text("No.")], [], [Text(" ")]):
        for reason in ("stop", "tool_calls"):
            out, broken = await passed(a_request(choice), *silent, Finished(reason))
            assert (out, broken) == ([], True)


@pytest.mark.parametrize("choice", FORCED)
async def test_what_is_said_waits_for_the_call(choice: ToolChoice) -> None:
    guard = Guard(a_request(choice))
    said: list[Event] = [Text("I "), Text("save.")]
    assert await guard.take([Thinking("hm")]) == [Thinking("hm")]
    assert await guard.take(said) == []
    assert await guard.take(a_call()) == [*said, *a_call()]
    after: list[Event] = [Text("Done."), Finished("tool_calls")]
    assert await guard.take(after) == after
    guard.restart()
    await guard.take([Text("Never mind.")])
    guard.restart()
    assert await guard.take(a_call()) == a_call()


async def test_an_answer_that_was_cut_short_need_not_have_called_yet() -> None:
    for reason in ("length", "content_filter"):
        events = [Text("I will"), Finished(reason)]
        assert await passed(a_request(FORCED[0]), *events) == (events, False)


async def test_nobody_else_is_called() -> None:
    for choice, name in (
        (ToolChoice("named", "save"), "ping"),
        (ToolChoice("required"), "made_up"),
        (ToolChoice("auto"), "made_up"),
        (None, "functions.save"),
    ):
        out, broken = await passed(a_request(choice), *a_call(name), Finished("tool_calls"))
        assert (out, broken) == ([], True)
    request = Request("k", (USER,))  # nothing is on offer
    assert (await passed(request, *a_call(), Finished("tool_calls"))) == ([], True)


async def test_nothing_is_called_where_nothing_may_be() -> None:
    never = ToolChoice("none")
    events = [
        Text("It is"),
        *a_call(),
        *a_call("made_up", 1),
        Text(" cold."),
        Finished("tool_calls"),
    ]
    out, broken = await passed(a_request(never), *events)
    assert (out, broken) == ([Text("It is"), Text(" cold."), Finished("stop")], False)
    out, broken = await passed(a_request(never), Text("\n"), *a_call(), Finished("tool_calls"))
    assert (out[1:], broken) == ([], True)
    out, broken = await passed(a_request(never), *a_call(), Finished("length"))
    assert (out, broken) == ([Finished("length")], False)
    form = a_request(never, form=Format("json_object"))
    out, broken = await passed(form, Text(GOOD), *a_call(), Finished("tool_calls"))
    assert (out, broken) == ([Text(GOOD), Finished("stop")], False)
    assert (await passed(form, Text("I look."), *a_call(), Finished("tool_calls")))[1]


async def test_the_finish_says_what_came() -> None:
    out, broken = await passed(a_request(None), *a_call(), Finished("stop"))
    assert (out[-1], broken) == (Finished("tool_calls"), False)
    for request in (a_request(None), Request("k", (USER,))):
        out, broken = await passed(request, Text("I call."), Finished("tool_calls"))
        assert (out, broken) == ([Text("I call.")], True)


async def test_every_choice_calls_for_itself() -> None:
    events = [Text("a", 1), *a_call(choice=0), Text("b", 0), Finished("tool_calls", 0)]
    out, broken = await passed(a_request(FORCED[0]), *events, Finished("stop", 1))
    assert (out, broken) == ([*events[1:]], True)


async def test_a_format_beside_a_forced_call_is_not_held() -> None:
    request = a_request(FORCED[0], form=Format("json_object"))
    events = [Text("I save."), *a_call(), Finished("tool_calls")]
    assert await passed(request, *events) == (events, False)
    out, broken = await passed(request, Text(GOOD), Finished("stop"))
    assert (out, broken) == ([], True)


OFF: dict[str, Any] = {"thinking": {"type": "disabled"}, "tools": [TOOL]}
NAMED = {"type": "function", "function": {"name": "save"}}


@BOTH
@pytest.mark.parametrize("choice", ["required", NAMED])
async def test_an_answer_without_the_call_is_asked_for_again_once(
    tmp_path: Path, choice: Any, stream: bool
) -> None:
    turns = [turn(PROSE), call(GOOD), turn(PROSE, finish="tool_calls"), turn(PROSE)]
    async with upstream_says(tmp_path, *turns) as (served, scripted):
        status, said = await answer(served, stream, tool_choice=choice, **OFF)
        assert (status, said["text"], said["reason"]) == (200, "", "tool_calls")
        assert said["calls"] == [{"name": "save", "arguments": GOOD}]
        assert said["usage"]["attempts"] == 2
        status, said = await answer(served, stream, tool_choice=choice, **OFF)
        assert (status, said["code"]) == (502, "upstream_error")
        row = await the_row(served, 2)
        assert (row.charge_nanos, row.attempts) == (0, 2)
        assert len(asked(scripted)) == 4


@BOTH
async def test_a_made_up_function_is_asked_for_again_once(tmp_path: Path, stream: bool) -> None:
    made_up = call(GOOD).replace("tool save", "tool made_up")
    async with upstream_says(tmp_path, made_up, call(GOOD)) as (served, _):
        status, said = await answer(served, stream, tools=[TOOL])
        assert (status, said["calls"]) == (200, [{"name": "save", "arguments": GOOD}])
        assert said["usage"]["attempts"] == 2


@BOTH
async def test_a_call_that_may_not_be_is_left_out(tmp_path: Path, stream: bool) -> None:
    both = "\n".join(["text Cold.", call(WRONG)])
    async with upstream_says(tmp_path, both, call(GOOD), turn("Mild.")) as (served, _):
        for text, attempts in (("Cold.", None), ("Mild.", 2)):
            status, said = await answer(served, stream, tool_choice="none", tools=[TOOL])
            assert (status, said["text"], said["calls"], said["reason"]) == (200, text, [], "stop")
            assert said["usage"].get("attempts") == attempts


async def test_what_was_said_beside_the_call_is_not_contradicted(tmp_path: Path) -> None:
    wrong = "\n".join(["text I save.", call(WRONG)])
    async with upstream_says(tmp_path, wrong, call(GOOD)) as (served, _):
        status, said = await answer(served, True, tool_choice="required", **OFF)
        assert (status, said["code"]) == (200, "upstream_error")  # its name was told
        assert (await the_row(served)).charge_nanos == 0
