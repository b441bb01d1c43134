"""Schemas at the gate: what is taken, what is refused by which name, how little a bomb costs."""

import json
import sys
import time

import pytest

from moongate.core.errors import Refused
from moongate.wire.chat import ChatCodec
from moongate.wire.schema.bounds import BYTES_MAX, DEPTH_MAX, ENUM_VALUES_MAX, NODES_MAX
from moongate.wire.schema.ends import ends
from moongate.wire.schema.gate import NODES_MAX as NODES_IN_ALL_MAX
from moongate.wire.schema.gate import Gate, instance
from moongate.wire.schema.keywords import KEYWORDS, REFUSED

TOOL_AT = "tools[0].function.parameters"
FORMAT_AT = "response_format.json_schema.schema"


def read(**fields):
    messages = [{"role": "user", "content": "x"}]
    body = {"model": "kimi-k2.5", "messages": messages, **fields}
    return ChatCodec().read_request(json.dumps(body).encode())


def tool(schema, strict=None, name="f"):
    function = {"name": name, "parameters": schema}
    return {
        "type": "function",
        "function": function if strict is None else {**function, "strict": strict},
    }


def fmt(schema, **more):
    return {"type": "json_schema", "json_schema": {"name": "a", "schema": schema, **more}}


def refused(**fields):
    with pytest.raises(Refused) as caught:
        read(**fields)
    error = caught.value
    assert (error.status, error.code) == (400, "unsupported_schema")
    word = error.message.removeprefix("Schema feature not supported: ").removesuffix(".")
    return error.param, word


TAKEN = [
    {},
    {"type": "object"},
    {"properties": {"a": {}}},
    {"type": "object", "properties": {"名前": {"type": "string"}, "a.b/c": {"type": "null"}}},
    {"type": "object", "properties": {"$ref": {"type": "string"}, "enum": {"type": "integer"}}},
    {"type": "object", "properties": {"a": {"type": ["string", "null"], "format": "date"}}},
    {"type": "object", "properties": {"a": {"enum": [None, True, 1, 1.5, "x", [1], {"b": 2}]}}},
    {"type": "object", "properties": {"a": {"const": {"b": [1, None]}}}},
    {"anyOf": [{"type": "object"}, {"type": "object", "required": ["a"]}]},
    {"oneOf": [{"type": "object", "required": ["a"]}, {"type": "object", "required": ["b"]}]},
    {"allOf": [{"required": ["a"]}, {"properties": {"a": {"minLength": 2}}}], "type": "object"},
    {"type": "object", "properties": {"n": {"$ref": "#"}}},
    {"$ref": "#/$defs/a", "$defs": {"a": {"type": "object"}}},
    {"$ref": "#/definitions/a", "definitions": {"a": {"type": "object"}}},
    {"$ref": "#here", "$defs": {"a": {"$anchor": "here", "type": "object"}}},
    {"$id": "https://example.invalid/s", "properties": {"p": {"$ref": "#/properties/q"}, "q": {}}},
    {"properties": {"p": {"$id": "p", "items": {"$ref": "#/$defs/x"}, "$defs": {"x": {}}}}},
    {"properties": {"a": {"type": "string", "pattern": "^[A-Z]{3}-\\d+$"}}},
    {"properties": {"a": {"type": "array", "prefixItems": [{}, {}], "items": False}}},
    {"properties": {"a": {"type": "array", "minItems": 1, "maxItems": 3, "uniqueItems": True}}},
    {"properties": {"a": {"minimum": 1, "exclusiveMaximum": 2, "multipleOf": 0.1}}},
    {"patternProperties": {"^x-": {"type": "string"}}, "additionalProperties": False},
    {"if": {"required": ["a"]}, "then": {"required": ["b"]}, "else": {"required": ["c"]}},
    {"not": {"required": ["a"]}, "minProperties": 1, "maxProperties": 4},
    {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "T",
        "examples": [{"$ref": "x"}],
    },
    {"properties": {"a": {"enum": list(range(ENUM_VALUES_MAX))}}},
]


@pytest.mark.parametrize("schema", TAKEN)
def test_what_an_answer_can_be_held_to_is_taken(schema):
    request = read(tools=[tool(schema, strict=True)], response_format=fmt(schema))
    assert request.tools[0].parameters == schema == request.format.schema
    assert instance(schema) is not None


UNHELD = [
    ({"unevaluatedProperties": False}, "unevaluatedProperties"),
    ({"properties": {"a": {"unevaluatedItems": False}}}, "unevaluatedItems"),
    ({"dependencies": {"a": ["b"]}}, "dependencies"),
    ({"properties": {"a": {"items": [{}, {}]}}}, "schema"),
    ({"properties": {"a": {"additionalItems": False}}}, "additionalItems"),
    ({"$dynamicRef": "#a"}, "$dynamicRef"),
    ({"$ref": "#/$defs/missing"}, "$ref"),
    ({"type": "object", "properties": {"x": {"$ref": "#"}}, "required": ["x"]}, "$ref"),
    ({"anyOf": [{"$ref": "#"}, {"type": "object"}]}, "$ref"),
    ({"$ref": "#"}, "$ref"),
    ({"type": "text"}, "type"),
    ({"type": []}, "type"),
    ({"properties": {"a": {"type": "string", "pattern": "(?=a)b"}}}, "pattern"),
    ({"properties": {"a": {"type": "string", "pattern": r"(a)\1"}}}, "pattern"),
    ({"properties": {"a": {"pattern": "("}}}, "pattern"),
    ({"patternProperties": {"(?!a)": {}}}, "patternProperties"),
    ({"properties": {f"p{i}": {"pattern": f"^{i}$"} for i in range(200)}}, "pattern"),
    ({"required": "a"}, "required"),
    ({"enum": []}, "enum"),
    ({"properties": []}, "properties"),
    ({"properties": {"a": 1}}, "schema"),
    ({"anyOf": []}, "anyOf"),
    ({"minLength": -1}, "minLength"),
    ({"exclusiveMinimum": True}, "exclusiveMinimum"),
    ({"multipleOf": 0}, "multipleOf"),
    ({"uniqueItems": "yes"}, "uniqueItems"),
    ({"contains": {}, "minContains": "1"}, "minContains"),
]


@pytest.mark.parametrize(("schema", "keyword"), UNHELD)
def test_what_no_answer_can_be_held_to_is_refused_by_its_keyword(schema, keyword):
    assert refused(tools=[tool(schema, strict=True)]) == (TOOL_AT, keyword)
    assert refused(response_format=fmt(schema)) == (FORMAT_AT, keyword)
    assert refused(response_format=fmt(schema, strict=True)) == (FORMAT_AT, keyword)


@pytest.mark.parametrize("strict", [None, False])
@pytest.mark.parametrize(("schema", "keyword"), UNHELD)
def test_a_tool_that_is_not_strict_may_have_an_odd_schema(schema, keyword, strict):
    del keyword
    assert read(tools=[tool(schema, strict)]).tools[0].parameters == schema
    assert read(response_format=fmt(schema, strict=False)).format.schema == schema
    assert instance(schema) is None


@pytest.mark.parametrize("strict", [None, False, True])
def test_a_tool_takes_an_object_and_so_does_a_format_that_promises_no_more(strict):
    for schema in ({"type": "string"}, {"type": ["array", "null"]}):
        assert refused(tools=[tool(schema, strict=strict)]) == (TOOL_AT, "type")
        assert refused(response_format=fmt(schema, strict=False)) == (FORMAT_AT, "type")
        assert read(response_format=fmt(schema)).format.schema == schema
    for schema in ({"type": ["object", "null"]}, {}, {"properties": {}}):
        assert read(tools=[tool(schema, strict=strict)])
        assert read(response_format=fmt(schema, strict=False))


def forking(depth, pair):
    """References that fork at each step: 2 ** depth ways through."""
    defs = {f"a{i}": pair({"$ref": f"#/$defs/a{i + 1}"}) for i in range(depth)}
    return {"$ref": "#/$defs/a0", "$defs": {**defs, f"a{depth}": {"type": "object"}}}


def deep(levels):
    schema = {"type": "string"}
    for _ in range(levels - 1):
        schema = {"type": "array", "items": schema}
    return schema


def wide(count):
    return {"type": "object", "properties": {f"p{i}": {} for i in range(count)}}


BOMBS = {
    "doubling allOf": (forking(60, lambda one: {"allOf": [one, one]}), "depth"),
    "doubling properties": (forking(12, lambda one: {"properties": {"a": one, "b": one}}), "nodes"),
    "doubling anyOf": (forking(12, lambda one: {"anyOf": [one, one]}), "nodes"),
    "a chain of references": (
        {"$ref": "#/$defs/0", "$defs": {str(i): {"$ref": f"#/$defs/{i + 1}"} for i in range(999)}},
        "nodes",
    ),
    "too deep": (deep(DEPTH_MAX + 1), "depth"),
    "too wide": (wide(NODES_MAX), "nodes"),
    "a long enum": ({"enum": list(range(ENUM_VALUES_MAX + 1))}, "enum"),
    "a huge enum": ({"enum": ["x" * 10] * 200_000}, "size"),
    "huge text": ({"description": "x" * 5_000_000}, "size"),
    "huge text in two bytes": ({"description": "é" * (BYTES_MAX // 2)}, "size"),
    "huge names": ({"properties": {"x" * BYTES_MAX: {}}}, "size"),
    "another document": ({"properties": {"a": {"$ref": "http://10.0.0.1/x"}}}, "$ref"),
    "another document, unused": ({"$defs": {"a": {"$ref": "other.json#/a"}}}, "$ref"),
}


@pytest.mark.parametrize("strict", [None, False, True])
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_before_any_work(name, strict):
    schema, word = BOMBS[name]
    started = time.thread_time()
    with pytest.raises(Refused) as caught:
        Gate().tool(schema, "p", strict=strict)
    passed_s = time.thread_time() - started
    assert f": {word}" in caught.value.message
    assert passed_s < 0.05


def test_what_just_fits_is_taken():
    for schema in (deep(DEPTH_MAX), wide(NODES_MAX - 1), {"enum": list(range(ENUM_VALUES_MAX))}):
        Gate().format(schema, "p", strict=True)
    text = {"description": ""}
    text["description"] = "x" * (BYTES_MAX - len(json.dumps(text, separators=(",", ":"))))
    Gate().format(text, "p", strict=True)


def test_names_that_are_looked_for_everywhere_are_bounded():
    def named(count, values):
        refs = {f"p{at}": {"$ref": f"#a{at}"} for at in range(count)}
        defs = {f"d{at}": {"$anchor": f"a{at}", "type": "null"} for at in range(count)}
        return {"type": "object", "properties": refs, "$defs": defs, "default": [[]] * values}

    Gate().tool(named(40, 200), "p", strict=True)
    with pytest.raises(Refused) as caught:
        Gate().tool(named(100, 12_000), "p", strict=None)
    assert "nodes over 500" in caught.value.message


def calls_made(schema, at):
    """The calls of Python functions that it takes to tell whether ``schema`` has an end."""
    count = 0

    def profile(_frame, event, _argument):
        nonlocal count
        count += event == "call"

    sys.setprofile(profile)
    try:
        assert ends(schema, schema)
    finally:
        sys.setprofile(None)
    assert count > at
    return count


def test_names_are_looked_for_once_in_all():
    def chained(count):
        # Each is known to end only once the next one is, and a round comes to each but once.
        last = {"$anchor": f"a{count}", "type": "null"}
        defs = {
            f"d{at}": {
                "$anchor": f"a{at}",
                "type": "object",
                "required": ["x"],
                "properties": {"x": {"anyOf": [{"$ref": f"#a{at + 1}"}, {"$ref": "#a0"}]}},
            }
            for at in range(count)
        }
        values = [[1, 2, 3]] * count  # a name is looked for among them as well
        return {"$ref": "#a0", "$defs": {"n": {"default": values}, **defs, "z": last}}

    assert calls_made(chained(60), 600) < 2.2 * calls_made(chained(30), 300)


def test_the_tools_of_one_request_are_bounded_together():
    tools = [tool(wide(400), name=f"f{i}") for i in range(NODES_IN_ALL_MAX // 401 + 1)]
    assert read(tools=tools[:-1])
    path, word = refused(tools=tools)
    assert path == f"tools[{len(tools) - 1}].function.parameters"
    assert word == f"nodes over {NODES_IN_ALL_MAX} in all"
    patterns = [{"properties": {"a": {"pattern": f"^{i}" + "x" * 500}}} for i in range(9)]
    path, word = refused(tools=[tool(p, True, f"f{i}") for i, p in enumerate(patterns)])
    assert (path, word) == ("tools[7].function.parameters", "pattern")


def test_the_same_words_are_not_on_both_lists():
    assert not KEYWORDS.keys() & REFUSED


OBJECT = {"type": "object", "properties": {"x": {"$ref": "#"}}, "required": ["x"]}


@pytest.mark.parametrize(
    ("schema", "finite"),
    [
        (OBJECT, False),
        ({**OBJECT, "required": []}, True),
        ({**OBJECT, "type": ["object", "null"]}, True),
        ({**OBJECT, "type": ["object", "array"], "items": OBJECT, "minItems": 1}, False),
        ({"$ref": "#/$defs/x", "$defs": {"x": {}}, **OBJECT}, False),
        ({"type": "array", "items": {"$ref": "#"}, "minItems": 1}, False),
        ({"type": "array", "items": {"$ref": "#"}}, True),
        ({"type": "object", "additionalProperties": {"$ref": "#"}, "minProperties": 1}, False),
        ({"allOf": [{"type": "object"}, {"$ref": "#"}]}, False),
        ({"anyOf": [{"type": "null"}, {"$ref": "#"}]}, True),
    ],
)
def test_recursion_must_be_able_to_end(schema, finite):
    assert ends(schema, schema) is finite


def test_an_end_is_looked_for_in_no_time_where_references_fork():
    needs = {"type": "object", "required": ["a", "b"]}
    schema = forking(60, lambda one: {**needs, "properties": {"a": one, "b": one}})
    assert ends(schema, schema)
    schema["$defs"]["a60"] = {"$ref": "#/$defs/a0"}
    assert not ends(schema, schema)
