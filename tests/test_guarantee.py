"""What the guard lets through of an answer, however it is cut, and when it says that it broke."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from moongate.core.errors import Refused
from moongate.core.events import Event, Finished, Text, Thinking, ToolArgs, ToolCall
from moongate.core.request import Format, Message, Request, Tool
from moongate.guarantee import Guard

USER = Message("user", "x")
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
ANNA = '{"name": "Anna {\\"x\\"}", "age": 31}'


def a_request(schema: Any = None, *, prefix: str | None = None, **more: Any) -> Request:
    messages = (USER,) if prefix is None else (USER, Message("assistant", prefix, partial=True))
    form = Format("json_object") if schema is None else Format("json_schema", "a", schema)
    return Request("k", messages, **{"format": form, **more})


async def passed(request: Request, *events: Event) -> tuple[list[Event], bool]:
    """What comes out, and whether it broke."""
    guard = Guard(request)
    out = [one for event in events for one in await guard.take([event])]
    return out, guard.broken


def said(out: list[Event]) -> str:
    return "".join(event.text for event in out if isinstance(event, Text | ToolArgs))


def ended(out: list[Event]) -> list[str]:
    return [event.reason for event in out if isinstance(event, Finished)]


def cut(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


SIZES = [1, 2, 3, 5, 8, 1000]
GOOD = {
    "plain": ANNA,
    "after space": f"\n\n {ANNA}",
    "before space": f"{ANNA}\n\n",
    "fenced": f"```json\n{ANNA}\n```",
    "fenced without a name": f"```\n{ANNA}\n```\n",
    "with words behind": f"{ANNA}\n\nI hope {{this}} helps!",
    "with words before": f"Here you are:\n{ANNA}",
    "with words all around": f"Sure! As {{name}} says:\n```json\n{ANNA}\n```\nAnything else?",
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", GOOD)
async def test_the_one_value_is_passed_on_and_nothing_around_it(name: str, size: int) -> None:
    pieces = [Text(piece) for piece in cut(GOOD[name], size)]
    for request in (a_request(), a_request(PERSON)):
        out, broken = await passed(request, Thinking("hm"), *pieces, Finished("stop"))
        assert (said(out), ended(out), broken) == (ANNA, ["stop"], False)
        assert out[0] == Thinking("hm")


@pytest.mark.parametrize("size", SIZES)
async def test_json_is_passed_on_as_it_comes_but_for_its_last_piece(size: int) -> None:
    pieces = [Text(piece) for piece in cut(ANNA, size)]
    guard = Guard(a_request(PERSON))
    for piece in pieces:
        assert await guard.take([piece]) == [piece]
    wrong = [Text(piece) for piece in cut(ANNA.replace("31", "-1"), size)]
    guard.restart()
    for piece in wrong[:-1]:
        assert await guard.take([piece]) == [piece]
    assert (await guard.take(wrong[-1:]), guard.broken) == ([], True)
    assert await guard.take([Finished("stop")]) == []


BROKEN = {
    "nothing": "",
    "words": "I cannot do that.",
    "a list": "[1]",
    "a list of objects": f"[{ANNA}]",
    "a string": '"x"',
    "two objects in words": f"Either {ANNA} or {ANNA}",
    "cut short": ANNA[:-1],
    "not JSON": "{name: 1}",
    "a comma too many": '{"name": "A", "age": 1,}',
    "single quotes": "{'name': 'A'}",
    "a number too large to be one": '{"name": "A", "age": 1e999}',
    "half a character": '{"name": "\\ud800", "age": 1}',
    "too deep": '{"a":' * 100 + "1" + "}" * 100,
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", BROKEN)
async def test_what_holds_no_such_value_is_broken_and_never_whole(name: str, size: int) -> None:
    pieces = [Text(piece) for piece in cut(BROKEN[name], size)]
    for request in (a_request(), a_request(PERSON)):
        out, broken = await passed(request, *pieces, Finished("stop"))
        assert (ended(out), broken) == ([], True)
        with pytest.raises(ValueError, match=r".*"):
            json.loads(said(out))


@pytest.mark.parametrize("name", ["words", "cut short", "nothing", "a list of objects"])
async def test_an_answer_that_was_cut_short_passes_as_it_is(name: str) -> None:
    text = BROKEN[name]
    for reason in ("length", "content_filter"):
        pieces = [Text(piece) for piece in cut(text, 3)]
        out, broken = await passed(a_request(PERSON), *pieces, Finished(reason))
        assert (said(out), ended(out), broken) == (text, [reason], False)


async def test_a_value_that_is_whole_at_the_last_token_is_whole() -> None:
    out, _ = await passed(a_request(PERSON), Text(f"```json\n{ANNA}\n"), Finished("length"))
    assert (said(out), ended(out)) == (ANNA, ["stop"])


async def test_any_value_may_be_asked_for() -> None:
    for schema, text in (
        ({}, "[1, 2]"),
        ({"type": "array", "items": {"type": "integer"}}, "[1, 2]"),
        ({"type": "string"}, '"a\\nb"'),
        ({"type": "integer"}, "12"),
        ({"enum": [True, None]}, "null"),
    ):
        for dressed in (text, f" {text}\n", f"```json\n{text}\n```"):
            for size in SIZES:
                pieces = [Text(piece) for piece in cut(dressed, size)]
                out, broken = await passed(a_request(schema), *pieces, Finished("stop"))
                assert (said(out).strip(), broken) == (text, False), (schema, dressed, size)
    for schema, text in (({"type": "integer"}, "12.5"), ({"type": "integer"}, "[1]"), ({}, "hm")):
        assert (await passed(a_request(schema), Text(text), Finished("stop")))[1]


async def test_a_schema_that_is_not_strict_promises_an_object() -> None:
    loose = Format("json_schema", "a", PERSON, strict=False)
    out, broken = await passed(a_request(format=loose), Text('{"b": 1}'), Finished("stop"))
    assert (said(out), broken) == ('{"b": 1}', False)
    assert (await passed(a_request(format=loose), Text("[1]"), Finished("stop")))[1]


def a_tool(strict: bool | None = None, schema: Any = PERSON) -> tuple[Tool, ...]:
    return (Tool("save", parameters=schema, strict=strict), Tool("ping", parameters={}))


def calls(*args: str, size: int = 4, name: str = "save") -> list[Event]:
    out: list[Event] = []
    for index, text in enumerate(args):
        out.append(ToolCall(index, f"functions.{name}:{index}", name))
        out += [ToolArgs(index, piece) for piece in cut(text, size)]
    return [*out, Finished("tool_calls")]


@pytest.mark.parametrize("size", SIZES)
async def test_arguments_are_held_to_their_tool(size: int) -> None:
    request = Request("k", (USER,), tools=a_tool())
    events = [Text("I save both."), *calls(ANNA, ANNA, size=size)]
    assert await passed(request, *events) == (events, False)
    out, broken = await passed(request, *calls(ANNA, '{"name": "B"}', size=size))
    assert (said(out).count(ANNA), ended(out), broken) == (1, [], True)
    for wrong in ("", "no", "[1]", ANNA[:-1]):
        out, broken = await passed(request, *calls(wrong, size=size))
        assert (ended(out), broken) == ([], True)


async def test_arguments_are_freed_of_fences_and_none_are_an_empty_object() -> None:
    request = Request("k", (USER,), tools=a_tool())
    out, broken = await passed(request, *calls(f"```json\n{ANNA}\n```"))
    assert (said(out), broken) == (ANNA, False)
    out, broken = await passed(request, *calls("", name="ping"))
    assert (said(out), ended(out), broken) == ("{}", ["tool_calls"], False)


async def test_a_tool_that_is_not_strict_or_cannot_be_held_takes_any_object() -> None:
    odd = {"type": "object", "unevaluatedProperties": False}
    for tools in (a_tool(strict=False), a_tool(schema=odd), a_tool(schema=None)):
        request = Request("k", (USER,), tools=tools)
        assert not (await passed(request, *calls('{"b": 1}')))[1]
        assert (await passed(request, *calls("[1]")))[1]


async def test_what_a_call_interrupts_is_no_answer_to_be_held() -> None:
    request = a_request(PERSON, tools=a_tool())
    events = [Text("I look it up first."), *calls(ANNA)]
    out, broken = await passed(request, *events)
    assert (said(out), ended(out), broken) == (f"I look it up first.{ANNA}", ["tool_calls"], False)
    out, broken = await passed(request, Text('{"name": '), *calls(ANNA))
    assert (ended(out), broken) == (["tool_calls"], False)


async def test_what_the_platform_runs_itself_is_left_alone() -> None:
    request = Request("k", (USER,), tools=(Tool("$web_search", type="builtin_function"),))
    events = [
        ToolCall(0, "a", "$web_search", "builtin_function"),
        ToolArgs(0, "receipt"),
        Finished("tool_calls"),
    ]
    assert await passed(request, *events) == (events, False)


@pytest.mark.parametrize("size", SIZES)
async def test_prefix_and_continuation_are_one_value(size: int) -> None:
    for at in range(1, len(ANNA)):
        request = a_request(PERSON, prefix=ANNA[:at])
        pieces = [Text(piece) for piece in cut(ANNA[at:] + "\nDone.", size)]
        out, broken = await passed(request, *pieces, Finished("stop"))
        assert (ANNA[:at] + said(out), broken) == (ANNA, False)
    for prefix, rest in (('{"name": "A", ', '"b": 1}'), ("{", ANNA), ("{", "```json")):
        out, broken = await passed(a_request(PERSON, prefix=prefix), Text(rest), Finished("stop"))
        assert (ended(out), broken) == ([], True)
    out, broken = await passed(a_request(PERSON, prefix=ANNA), Finished("stop"))
    assert (said(out), broken) == ("", False)
    out, broken = await passed(a_request(PERSON, prefix=" "), Text(ANNA), Finished("stop"))
    assert (said(out), broken) == (ANNA, False)


@pytest.mark.parametrize("prefix", ["Here:", "[1", "{}x", "```json\n{", "12"])
def test_a_prefix_that_begins_no_such_value_is_refused(prefix: str) -> None:
    with pytest.raises(Refused) as caught:
        Guard(a_request(PERSON, prefix=prefix))
    assert (caught.value.code, caught.value.param) == ("unsuitable_prefix", "messages[1].content")
    Guard(Request("k", (USER, Message("assistant", prefix, partial=True))))


async def test_every_choice_is_held_for_itself() -> None:
    events = [Text(ANNA[:9], 0), Text(ANNA[:5], 1), Text(ANNA[9:], 0), Finished("stop", 0)]
    out, broken = await passed(a_request(PERSON), *events, Text("}", 1), Finished("stop", 1))
    assert out[: len(events)] == events
    assert broken


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
KINDS = {
    "string": str,
    "integer": int,
    "boolean": bool,
    "array": list,
    "object": dict,
    "null": type(None),
}


def schema_of(value: Any) -> dict[str, Any]:
    """A schema that ``value`` fits, and little else."""
    kind = next(name for name, kind in KINDS.items() if type(value) is kind)
    if isinstance(value, dict):
        inner = {name: schema_of(one) for name, one in value.items()}
        return {"type": kind, "properties": inner, "required": list(inner)}
    if isinstance(value, list):
        return (
            {"type": kind, "prefixItems": [schema_of(v) for v in value], "items": False}
            if value
            else {"type": kind}
        )
    return {"type": kind, "enum": [value]}


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.text(max_size=3), VALUES, max_size=4), st.data())
async def test_instances_pass_unchanged_and_others_never_as_whole(
    value: dict[str, Any], data: st.DataObject
) -> None:
    schema, text = schema_of(value), json.dumps(value, ensure_ascii=data.draw(st.booleans()))
    edges = sorted({0, len(text), *data.draw(st.lists(st.integers(0, len(text))))})
    events: list[Event] = [Text(text[a:b]) for a, b in itertools.pairwise(edges)]
    events.append(Finished("stop"))
    assert await passed(a_request(schema), *events) == (events, False)

    at = data.draw(st.integers(0, len(text) - 1))
    spoilt = text[:at] + data.draw(st.text(alphabet='{}[]",:1a\\', max_size=2)) + text[at + 1 :]
    out, broken = await passed(a_request(schema), *map(Text, spoilt), Finished("stop"))
    if broken:
        assert ended(out) == []
    else:
        assert Draft202012Validator(schema).is_valid(json.loads(said(out)))
