"""Instances of schemas: our check and an independent one say the same, and ours always ends."""

import json
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from moongate.wire.schema.instance import Instance

NUMBERS = st.integers(-3, 5) | st.sampled_from([0.5, 1.0, 2.0, -1.5])
NAMES = st.sampled_from(["a", "b", "名", "x1"])
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.sampled_from(["", "a", "ab", "名前", "x1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)
KINDS = st.sampled_from(
    ["null", "boolean", "object", "array", "number", "integer", "string", ["string", "null"]]
)
COUNTS = st.integers(0, 3)
PATTERNS = st.sampled_from(["^a", "b$", "^x\\d$", "^[^a]*$", "名"])


def some(inner):
    """Schemas that put ``inner`` ones together, several words at once."""
    table, many = st.dictionaries(NAMES, inner, max_size=3), st.lists(inner, min_size=1, max_size=3)
    words = {
        "type": KINDS,
        "enum": st.lists(VALUES, min_size=1, max_size=3),
        "const": VALUES,
        "properties": table,
        "patternProperties": st.dictionaries(PATTERNS, inner, max_size=2),
        "additionalProperties": inner,
        "propertyNames": inner,
        "required": st.lists(NAMES, max_size=2, unique=True),
        "dependentRequired": st.dictionaries(NAMES, st.lists(NAMES, max_size=2, unique=True)),
        "dependentSchemas": table,
        "minProperties": COUNTS,
        "maxProperties": COUNTS,
        "prefixItems": many,
        "items": inner,
        "contains": inner,
        "minContains": COUNTS,
        "maxContains": COUNTS,
        "minItems": COUNTS,
        "maxItems": COUNTS,
        "uniqueItems": st.booleans(),
        "minimum": NUMBERS,
        "maximum": NUMBERS,
        "exclusiveMinimum": NUMBERS,
        "exclusiveMaximum": NUMBERS,
        "multipleOf": st.sampled_from([1, 2, 0.5]),
        "minLength": COUNTS,
        "maxLength": COUNTS,
        "pattern": PATTERNS,
        "allOf": many,
        "anyOf": many,
        "oneOf": many,
        "not": inner,
        "if": inner,
        "then": inner,
        "else": inner,
        "$ref": st.sampled_from(["#/$defs/d", "#/$defs/e"]),
    }
    chosen = st.lists(st.sampled_from(sorted(words)), max_size=4, unique=True)
    return chosen.flatmap(lambda names: st.fixed_dictionaries({n: words[n] for n in names}))


LEAVES = st.booleans() | st.fixed_dictionaries({"type": KINDS})
SCHEMAS = st.recursive(LEAVES, some, max_leaves=6)
DEFS = {
    "d": {"type": "array", "items": {"$ref": "#/$defs/d"}},
    "e": {"anyOf": [{"type": "string"}, {"properties": {"a": {"$ref": "#/$defs/e"}}}]},
}


@settings(max_examples=1500, deadline=None)
@given(SCHEMAS, VALUES)
def test_an_independent_validator_says_the_same(schema, value):
    whole = {"allOf": [schema], "$defs": DEFS}
    assert Instance(whole).holds(value) is Draft202012Validator(whole).is_valid(value)


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"const": 1}, [1, 1.0], [True, "1", [1]]),
        ({"enum": [False, [1, {"a": 0}]]}, [False, [1.0, {"a": 0.0}]], [0, [1, {"a": False}]]),
        ({"uniqueItems": True}, [[1, True, "1"], [{"a": 1}, {"a": 2}]], [[1, 1.0], [[], []]]),
        ({"type": "integer"}, [3, 3.0, 10**30], [3.5, True, "3"]),
        ({"multipleOf": 0.1}, [0.3, 1, "x"], [0.35]),
        ({"maxLength": 2}, ["名前", "😀😀"], ["abc"]),
        ({"pattern": "b"}, ["abc", 5], ["xyz", ""]),
        ({"pattern": '^"\\\\?\x7f?\\n$'}, ['"\n', '"\\\x7f\n'], ['"']),
        (
            {
                "properties": {"p": {"$id": "p", "items": {"$ref": "#/$defs/x"}}},
                "$defs": {"x": {"type": "null"}},
            }
            | {"properties": {"p": {"$id": "p", "items": {"$ref": "#/x"}, "x": {"const": 1}}}},
            [{"p": [1]}],
            [{"p": [2]}],
        ),
        (
            {"properties": {"a/b": {"const": 1}, "c": {"$ref": "#/properties/a~1b"}}},
            [{"c": 1}],
            [{"c": 2}],
        ),
    ],
)
def test_values_are_told_apart_as_json_tells_them(schema, good, bad):
    check = Instance(schema)
    assert [check.holds(value) for value in [*good, *bad]] == [True] * len(good) + [False] * len(
        bad
    )


def nested(depth):
    value = {}
    for _ in range(depth):
        value = {"x": value}
    return value


ONE = {"properties": {"x": {"$ref": "#"}}}


@pytest.mark.parametrize(
    ("schema", "value", "holds"),
    [
        ({"allOf": [ONE, ONE]}, nested(60), True),
        ({"oneOf": [ONE, {**ONE, "required": ["y"]}]}, nested(60), True),
        ({"type": "string", "pattern": "^(a+)+$"}, "a" * 50_000 + "!", False),
        ({"patternProperties": {"^(a+)+$": {}}}, {"a" * 60 + "!": 1}, True),
        ({"uniqueItems": True}, [{"a": i} for i in range(20_000)], True),
        ({"items": {"$ref": "#"}}, json.loads("[" * 400 + "]" * 400), False),
        ({"items": {"items": {"type": "integer"}}}, [list(range(1000))] * 1000, False),
    ],
)
def test_a_check_ends_whatever_it_is_given(schema, value, holds):
    found = []
    check = threading.Thread(target=lambda: found.append(Instance(schema).holds(value)))
    started = time.perf_counter()
    check.start()
    check.join(5)
    assert found == [holds]
    assert time.perf_counter() - started < 1


def test_steps_are_counted_where_anything_passes():
    many = {"allOf": [{"items": True} for _ in range(300)]}
    assert not Instance(many).holds([0] * 5_000)
    assert Instance(many).holds([0] * 500)
