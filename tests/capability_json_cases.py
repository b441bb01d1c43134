"""Rows of the capability matrix: structured output and partial mode."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import msgspec
from jsonschema import Draft202012Validator

from capability_kit import Place, feature
from capability_request_cases import OFF, user
from capability_tools_cases import QUESTION, ROOM, WEATHER, checked
from moongate.upstream import embedded
from moongate.upstream.engine_goal import Goal, constraint

JSON_AREA = "Structured output"
CITY: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}, "cold": {"type": "boolean"}},
    "required": ["city", "cold"],
    "additionalProperties": False,
}


def json_schema(schema: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "city", "schema": schema, **more}}


@feature(JSON_AREA, "`json_object` yields an object")
async def json_object(place: Place) -> None:
    script = 'think JSON.\ntext {"moons":\ntext  ["Io"]}\nfinish stop'
    got = await place.both(script, response_format={"type": "json_object"}, **ROOM)
    assert isinstance(json.loads(got.text), dict)
    assert got.finish == "stop"
    if place.http:
        assert got.sent["response_format"] == {"type": "json_object"}


@feature(JSON_AREA, "`json_schema` yields an instance of the schema")
async def json_of_a_schema(place: Place) -> None:
    script = 'text {"city": "Oslo",\ntext  "cold": true}\nfinish stop'
    for more in ({}, {"strict": True}):
        form = json_schema(CITY, **more)
        got = await place.both(script, messages=QUESTION, response_format=form, **ROOM)
        Draft202012Validator(CITY).validate(json.loads(got.text))
        assert got.finish == "stop"


@feature(JSON_AREA, "A format that is none is 400 and names the field")
async def wrong_formats(place: Place) -> None:
    at = "response_format"
    for form, param in (
        ({"type": "xml"}, f"{at}.type"),
        ({}, f"{at}.type"),
        ({"type": "json_schema"}, f"{at}.json_schema"),
        ({"type": "json_schema", "json_schema": {"schema": CITY}}, f"{at}.json_schema.name"),
        ({"type": "json_schema", "json_schema": {"name": "n"}}, f"{at}.json_schema.schema"),
        (json_schema(CITY, strict=1), f"{at}.json_schema.strict"),
        ({"type": "json_schema", "json_schema": {"name": "n", "schema": []}},
         f"{at}.json_schema.schema"),
    ):  # fmt: skip
        got = await place.whole("text no", response_format=form)
        assert (got.status, got.error["param"]) == (400, param)


SCHEMAS: list[tuple[dict[str, Any], Any]] = [
    # A schema, and an instance that is not the first that comes to mind.
    ({}, [1, None]),
    ({"enum": [None, True, 1, "月", [2]]}, "月"),
    ({"const": {"a": [1]}}, {"a": [1]}),
    ({"type": ["integer", "null"], "minimum": 3, "exclusiveMaximum": 9}, 8),
    ({"type": "string", "pattern": "^[a-c]{2,4}$"}, "abc"),
    ({"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 2}, [True]),
    ({"type": "array", "prefixItems": [{"const": "x"}], "items": False, "minItems": 1}, ["x"]),
    ({"anyOf": [{"type": "null"}, {"type": "boolean"}]}, False),
    ({"oneOf": [{"const": 1}, {"const": "one"}]}, "one"),
    ({"allOf": [{"type": "integer"}, {"minimum": 2, "maximum": 5}]}, 4),
    (
        {
            "type": "object",
            "properties": {"a.b/c": {"type": "string", "maxLength": 4}, "名": {"type": "null"}},
            "required": ["名", "a.b/c"],
            "additionalProperties": False,
        },
        {"a.b/c": "x", "名": None},
    ),
]
TREE: dict[str, Any] = {
    "type": "object",
    "properties": {"value": {"$ref": "#/$defs/node"}},
    "required": ["value"],
    "additionalProperties": False,
    "$defs": {
        "node": {
            "type": "object",
            "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 9},
                           "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
            "required": ["n", "next"],
            "additionalProperties": False,
        }
    },
}  # fmt: skip


def valued(schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"value": schema},
        "required": ["value"],
        "additionalProperties": False,
    }


@feature(
    JSON_AREA,
    "Schemas of every shape of Draft 2020-12: as a format, and as a forced tool's parameters",
    also=(
        "test_engine_schemas.py::test_thirty_schemas_are_kept",
        "test_wire_schema_gate.py::test_what_an_answer_can_be_held_to_is_taken",
        "test_wire_schema_instance.py::test_an_independent_validator_says_the_same",
    ),
)
async def schemas_of_every_shape(place: Place) -> None:
    cases = [(valued(schema), {"value": value}) for schema, value in SCHEMAS]
    cases.append((TREE, {"value": {"n": 1, "next": {"n": 2, "next": None}}}))
    room = {"max_completion_tokens": 64, "thinking": OFF}
    for schema, instance in cases:
        whole = json.dumps(instance)
        script = f"text {json.dumps(whole[:9])}\ntext {json.dumps(whole[9:])}\nfinish stop"
        form = json_schema(schema, strict=True)
        got = await place.both(script, messages=QUESTION, response_format=form, **room)
        Draft202012Validator(schema).validate(json.loads(got.text))
        tool = {"type": "function", "function": {"name": "record", "parameters": schema}}
        script = f"tool record\nargs {json.dumps(whole)}\nfinish tool_calls"
        fields = {"tools": [tool], "tool_choice": "required", **room}
        got = await place.both(script, messages=QUESTION, **fields)
        checked(got.calls[0], tool)


@feature(
    JSON_AREA,
    "What no answer can be held to, and a schema that is a bomb, is 400 by its keyword",
    also=("test_wire_schema_gate.py::test_a_bomb_is_refused_before_any_work",),
)
async def schemas_that_are_refused(place: Place) -> None:
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(45):
        deep = {"type": "array", "items": deep}
    endless = {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}
    for schema in (
        deep,
        endless,
        {"$ref": "https://example.org/schema.json"},
        {"type": "string", "pattern": "(?=a)b"},
        {"enum": list(range(100_000))},
    ):
        form = json_schema(schema)
        got = await place.refuses("unsupported_schema", response_format=form)
        assert got.error["param"] == "response_format.json_schema.schema"
        if "$defs" not in schema:
            function = {"name": "f", "parameters": valued(schema), "strict": True}
            tools = [{"type": "function", "function": function}]
            await place.refuses("unsupported_schema", tools=tools)


SORRY = "text I am sorry.\nfinish stop"
GOOD = '{"city": "Oslo", "cold": true}'
SAID = f"text {json.dumps(GOOD)}\nfinish stop"


@feature(
    JSON_AREA,
    "An answer that breaks the promise is asked for again once; only the good one is charged",
    also=(
        "test_gateway_promises.py::test_an_answer_that_is_not_as_promised_is_asked_for_again_once",
        "test_guarantee.py::test_instances_pass_unchanged_and_others_never_as_whole",
    ),
)
async def broken_promises(place: Place) -> None:
    form = json_schema(CITY)
    if not place.http:
        with grammars({"const": "I am sorry."}, CITY):
            await broken_promises_of(place, form, "", "")
        return
    await broken_promises_of(place, form, f"{SORRY}\n---\n{SAID}", f"{SORRY}\n---\n{SORRY}")
    fenced = f"text {json.dumps(f'```json{chr(10)}{GOOD}{chr(10)}```')}\nfinish stop"
    got = await place.both(fenced, response_format=form, **ROOM)
    assert got.text == GOOD


async def broken_promises_of(place: Place, form: dict[str, Any], mended: str, broken: str) -> None:
    """Of the first answers, streamed and not, the second one holds; later ones all break."""
    for ask in (place.whole, place.stream):
        got = await ask(mended, messages=QUESTION, response_format=form, **ROOM)
        Draft202012Validator(CITY).validate(json.loads(got.text))
        assert got.usage["attempts"] == 2
        row = (await place.served.usage())[-1]
        assert (row.attempts, row.charge_nanos) == (2, got.usage["cost_nanos"])
        assert row.spoiled_nanos > 0
    got = await place.whole(broken, messages=QUESTION, response_format=form, **ROOM)
    assert (got.status, got.error["code"]) == (502, "upstream_error")
    assert (await place.served.usage())[-1].charge_nanos == 0


@contextlib.contextmanager
def grammars(wrong: dict[str, Any], right: dict[str, Any]) -> Iterator[None]:
    """Holds the engine's answers to these schemas instead, two answers twice, and then to wrong."""
    left = [wrong, right, wrong, right]

    def instead(goal: Goal, tokens: int) -> dict[str, Any]:
        schema = left.pop(0) if left else wrong
        return constraint(msgspec.structs.replace(goal, schema=schema), tokens)

    with patch.object(embedded, "constraint", instead):
        yield


PARTIAL_AREA = "Partial mode"


def prefixed(prefix: str, **more: Any) -> dict[str, Any]:
    partial = {"role": "assistant", "content": prefix, "partial": True, **more}
    return {"messages": [*user("Name three moons of Jupiter."), partial]}


def check_prefill(place: Place, sent: dict[str, Any], prefix: str) -> None:
    """The prefix went out as this kind continues it."""
    if not place.http:
        return
    last = sent["messages"][-1]
    assert last["content"] == prefix
    assert (last.get("partial") is True) == (place.kind == "moonshot")
    template = place.kind in ("vllm", "sglang")
    assert sent.get("continue_final_message") is (True if template else None)
    assert sent.get("add_generation_prompt") is (False if template else None)


BY_PREFIX: dict[str, Any] = {
    "refused": {"openai": "prefix"},
    "body": prefixed("The moons are"),
}


@feature(PARTIAL_AREA, "Text continues a prefix; the answer leaves the prefix out", **BY_PREFIX)
async def partial_text(place: Place) -> None:
    for mode in ({}, {"thinking": OFF}):
        got = await place.both("text  Io.\nfinish stop", **prefixed("The moons are"), **mode)
        assert not got.text.startswith("The moons are")
        check_prefill(place, got.sent, "The moons are")


@feature(PARTIAL_AREA, "Code continues a prefix", **BY_PREFIX)
async def partial_code(place: Place) -> None:
    prefix = "```python\ndef moons():\n    return ["
    got = await place.both('text "Io"]\nfinish stop', **prefixed(prefix))
    assert not got.text.startswith("```python")
    check_prefill(place, got.sent, prefix)


@feature(PARTIAL_AREA, "`name` as part of the prefix, with empty content", **BY_PREFIX)
async def partial_name(place: Place) -> None:
    got = await place.both("text I am.\nfinish stop", **prefixed("", name="Dr. Moon"))
    assert got.status == 200
    if place.http:
        assert got.sent["messages"][-1]["name"] == "Dr. Moon"


@feature(PARTIAL_AREA, "With tools on offer", **BY_PREFIX)
async def partial_with_tools(place: Place) -> None:
    got = await place.both("text  Io.\nfinish stop", tools=[WEATHER], **prefixed("The moons are"))
    check_prefill(place, got.sent, "The moons are")


@feature(PARTIAL_AREA, "With thinking on: earlier reasoning goes along, none is added", **BY_PREFIX)
async def partial_with_reasoning(place: Place) -> None:
    body = prefixed("The moons are", reasoning_content="Four large ones.")
    got = await place.both("text  Io.\nfinish stop", **body)
    assert not got.message.get("reasoning_content")
    if place.http:
        assert got.sent["messages"][-1]["reasoning_content"] == "Four large ones."


@feature(PARTIAL_AREA, "Elsewhere than on a last message of the assistant it is 400")
async def partial_elsewhere(place: Place) -> None:
    for messages in (
        [{"role": "user", "content": "x", "partial": True}],
        [{"role": "assistant", "content": "x", "partial": True}, *user("y")],
    ):
        got = await place.refuses("invalid_value", messages=messages)
        assert got.error["param"] == "messages[0].partial"


@feature(
    PARTIAL_AREA,
    "With a JSON format: prefix and continuation together satisfy it",
    refused={"openai": "prefix"},
    body={**prefixed('{"city": "'), "response_format": {"type": "json_object"}},
)
async def partial_json(place: Place) -> None:
    for prefix, form in (
        ("{", {"type": "json_object"}),
        ('{"city": "', json_schema(CITY)),
    ):
        rest = '{"city": "Oslo", "cold": true}'[len(prefix) :]
        script = f"text {json.dumps(rest)}\nfinish stop"
        fields = prefixed(prefix) | {"response_format": form, "max_completion_tokens": 64}
        got = await place.both(script, **fields)
        whole = json.loads(prefix + got.text)
        assert isinstance(whole, dict)
        if "json_schema" in form:
            Draft202012Validator(CITY).validate(whole)
        check_prefill(place, got.sent, prefix)
