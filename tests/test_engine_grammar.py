"""JSON within a number of tokens, whatever the model would like to write."""

import json
import random

import pytest
from jsonschema import Draft202012Validator
from llguidance import LLMatcher, LLTokenizer
from llguidance import numpy as masks

from moongate.core.errors import UpstreamRefused
from moongate.upstream.engine_grammar import (
    NO_SPACE,
    constrain,
    ends,
    gate,
    object_grammar,
    tighten,
)

BYTES = LLTokenizer("byte")
"""A vocabulary of single bytes: no text takes more tokens in any other."""


def longest(grammar, seed, tokens):
    """Write at random, never closing what need not be closed; the text and its tokens."""
    matcher = LLMatcher(BYTES, grammar)
    assert not matcher.get_error()
    dice = random.Random(seed)
    mask = masks.allocate_token_bitmask(1, BYTES.vocab_size)
    text = bytearray()
    for count in range(tokens + 1):
        if matcher.is_stopped():
            return bytes(text), count
        masks.fill_next_token_bitmask(matcher, mask)
        bits = mask.view("uint8")
        allowed = [t for t in range(BYTES.vocab_size) if bits[0, t // 8] >> t % 8 & 1]
        wanted = [t for t in allowed if t not in (*b'"}]', BYTES.eos_token)]
        # Plain letters: a character of several bytes may be cut where the tokens run out.
        plain = [t for t in wanted if t < 0x80]
        token = dice.choice(plain or wanted or allowed)
        if token == BYTES.eos_token:
            return bytes(text), count + 1
        text.append(token)
        matcher.consume_token(token)
    return bytes(text), tokens + 1


@pytest.mark.parametrize("tokens", [3, 8, 16, 24, 32, 64, 100, 250, 600, 1024, 4096])
def test_an_object_ends_within_its_tokens(tokens):
    grammar = object_grammar(tokens)
    for seed in range(6):
        text, used = longest(grammar, seed, tokens)
        assert used <= tokens
        assert isinstance(json.loads(text), dict)


def test_more_tokens_never_allow_less():
    sizes = [len(longest(object_grammar(tokens), 1, tokens)[0]) for tokens in (8, 64, 1024, 4096)]
    assert sizes == sorted(sizes)
    assert sizes[-1] > 500


@pytest.mark.parametrize(
    ("schema", "keyword"),
    [
        ({"not": {}}, "not"),
        ({"propertyNames": {"pattern": "a"}}, "propertyNames"),
        ({"type": "string", "pattern": "(?=a)b"}, "pattern"),
        ({"$ref": "http://example.invalid/x"}, "$ref"),
        ({"type": "foo"}, "type"),
        ({"allOf": [{"type": "string"}, {"type": "integer"}]}, "type"),
        ({"type": "object", "properties": {"hidden": False}, "required": ["hidden"]}, "required"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"oneOf": [{"type": "string"}, {"type": "string", "maxLength": 3}]}, "oneOf"),
        ({"type": "string", "format": "weird"}, "format"),
    ],
)
def test_what_cannot_be_held_is_refused_by_its_keyword(schema, keyword):
    with pytest.raises(UpstreamRefused) as caught:
        gate(schema)
    assert (caught.value.row, caught.value.facts) == ("unsupported_schema", {"keyword": keyword})


def test_a_clients_own_switches_do_not_pass_the_gate():
    with pytest.raises(UpstreamRefused):
        constrain({"not": {}, "x-guidance": {"lenient": True}}, 100)


def test_an_enormous_schema_is_refused_unread():
    with pytest.raises(UpstreamRefused):
        gate({"enum": ["x" * 300_000]})


SCHEMAS = [
    {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]},
    {"type": "object", "properties": {"a": {"type": ["string", "null"]}}},
    {"type": "object"},
    {"type": "array", "items": {"type": "object", "properties": {"b": {"type": "boolean"}}}},
    {"anyOf": [{"type": "string"}, {"type": "integer", "minimum": 3, "maximum": 9}]},
    {"type": "object", "properties": {"e": {"enum": [1, "x", None]}}, "required": ["e"]},
    {
        "type": "object",
        "properties": {"n": {"$ref": "#/$defs/n"}},
        "required": ["n"],
        "$defs": {"n": {"type": "string", "maxLength": 5}},
    },
]


@pytest.mark.parametrize("schema", SCHEMAS)
def test_the_tighter_schema_only_says_what_the_clients_allows(schema):
    grammar = LLMatcher.grammar_from_json_schema(json.dumps(constrain(schema, 40)))
    for seed in range(3):
        text, used = longest(grammar, seed, 3000)
        assert used <= 3000
        assert Draft202012Validator(schema).is_valid(json.loads(text))


def test_what_is_bounded_or_referenced_is_left_alone():
    bounded = {"type": "string", "maxLength": 7}
    assert tighten(bounded, 100) == bounded
    joint = {"allOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]}
    assert tighten(joint, 100) == joint
    assert constrain({"type": "string"}, 100)["x-guidance"] == NO_SPACE["x-guidance"]


@pytest.mark.parametrize(
    ("schema", "finite"),
    [
        ({"type": "object", "properties": {"x": {"$ref": "#"}}, "required": ["x"]}, False),
        ({"type": "object", "properties": {"x": {"$ref": "#"}}}, True),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, False),
        ({"type": "array", "items": {"$ref": "#"}, "minItems": 1}, False),
        ({"type": "array", "items": {"$ref": "#"}}, True),
        (
            {
                "$ref": "#/$defs/n",
                "$defs": {
                    "n": {
                        "type": "object",
                        "properties": {
                            "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/n"}]}
                        },
                        "required": ["next"],
                    }
                },
            },
            True,
        ),
        ({"allOf": [{"type": "object"}, {"$ref": "#"}]}, False),
    ],
)
def test_a_schema_without_a_finite_instance_is_refused(schema, finite):
    assert ends(schema, schema) is finite
    if not finite:
        with pytest.raises(UpstreamRefused) as caught:
            gate(schema)
        assert caught.value.row == "unsupported_schema"


OBJECT = {"type": "object", "properties": {"x": {"$ref": "#"}}, "required": ["x"]}


@pytest.mark.parametrize(
    ("schema", "finite"),
    [
        ({**OBJECT, "type": ["object", "array"], "items": OBJECT, "minItems": 1}, False),
        ({**OBJECT, "type": ["object", "null"]}, True),
        ({"$ref": "#/$defs/x", "$defs": {"x": {}}, **OBJECT}, False),
        ({"type": "object", "additionalProperties": {"$ref": "#"}, "minProperties": 1}, False),
        ({"anyOf": [{"$ref": "#/anyOf/0"}]}, False),
        ({"$ref": "#a", "$defs": {"a": {"$anchor": "a", "type": "string"}}}, True),
    ],
)
def test_an_end_is_found_only_where_there_is_one(schema, finite):
    assert ends(schema, schema) is finite


def test_references_that_fork_are_followed_in_no_time():
    defs = {"a60": {"type": "string"}}
    for at in range(60):
        one = {"$ref": f"#/$defs/a{at + 1}"}
        pair = {"x": one, "y": one}
        defs[f"a{at}"] = {"type": "object", "properties": pair, "required": ["x", "y"]}
    schema = {"$ref": "#/$defs/a0", "$defs": defs}
    assert ends(schema, schema)
    defs["a60"] = {"$ref": "#/$defs/a0"}
    assert not ends(schema, schema)
