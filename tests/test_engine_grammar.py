"""JSON within a number of tokens, whatever the model would like to write."""

import json
import time

import pytest
from jsonschema import Draft202012Validator

import engine_schemas
from engine_writer import longest
from moongate.core.errors import UpstreamRefused
from moongate.upstream.engine_gate import gate
from moongate.upstream.engine_grammar import NO_SPACE, OBJECT, constrain


@pytest.mark.parametrize("tokens", [3, 8, 16, 24, 32, 64, 100, 250, 600, 1024, 4096])
def test_an_object_ends_within_its_tokens(tokens):
    grammar = constrain(OBJECT, tokens)["grammar"]
    for seed in range(6):
        text, used = longest(grammar, seed, tokens)
        assert used <= tokens
        assert isinstance(json.loads(text), dict)


def test_more_tokens_never_allow_less():
    grammars = [(constrain(OBJECT, tokens)["grammar"], tokens) for tokens in (8, 64, 1024, 4096)]
    sizes = [max(len(longest(g, seed, most)[0]) for seed in range(6)) for g, most in grammars]
    assert sizes == sorted(sizes)
    assert sizes[-1] > 300


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
        ({"type": "number", "exclusiveMaximum": False}, "exclusiveMaximum"),
        ({"type": "array", "items": {"type": "string", "minLength": "3"}}, "minLength"),
    ],
)
def test_what_cannot_be_held_is_refused_by_its_keyword(schema, keyword):
    with pytest.raises(UpstreamRefused) as caught:
        gate(schema)
    assert (caught.value.row, caught.value.facts) == ("unsupported_schema", {"keyword": keyword})


def test_a_property_may_have_any_name():
    named = {"$id": {"type": "string"}, "enum": {"const": {"$id": 1}}, "properties": {}}
    gate({"type": "object", "properties": named})


def test_a_clients_own_switches_do_not_pass_the_gate():
    with pytest.raises(UpstreamRefused):
        constrain({"not": {}, "x-guidance": {"lenient": True}}, 100)


@pytest.mark.parametrize("name", engine_schemas.ALL)
def test_what_a_schemas_grammar_lets_through_is_an_instance(name):
    for schema in (engine_schemas.ALL[name], engine_schemas.tool(engine_schemas.ALL[name])):
        grammar = constrain(schema, 200)["grammar"]
        text, _ = longest(grammar, len(name), 600)
        assert Draft202012Validator(schema).is_valid(json.loads(text))


@pytest.mark.parametrize("name", engine_schemas.REFUSED)
def test_what_cannot_be_held_is_refused(name):
    schema, keyword = engine_schemas.REFUSED[name]
    with pytest.raises(UpstreamRefused) as caught:
        constrain(schema, 200)
    assert caught.value.facts["keyword"] in keyword.split(" or ")


ENDLESS = {
    "digits": {"type": "number"},
    "text": {"type": "string"},
    "list": {"type": "array", "items": {"type": "string"}},
    "map": {"type": "object", "additionalProperties": {"type": "array"}},
    "list of itself": {"type": "array", "items": {"$ref": "#"}},
    "any value": {},
    "fraction of a second": {"type": "string", "format": "date-time"},
    "pattern": {"type": "string", "pattern": "^a*$"},
}


@pytest.mark.parametrize("tokens", [40, 100, 256])
@pytest.mark.parametrize("name", ENDLESS)
def test_what_has_no_end_of_its_own_ends_within_its_tokens(name, tokens):
    grammar = constrain(ENDLESS[name], tokens)["grammar"]
    for seed in range(3):
        text, used = longest(grammar, seed, tokens)
        assert used <= tokens
        assert Draft202012Validator(ENDLESS[name]).is_valid(json.loads(text))


@pytest.mark.parametrize(
    "never",
    [
        {"type": "string", "minLength": 3, "maxLength": 2},
        {"type": "array", "minItems": 2, "maxItems": 1},
        {"type": "object", "required": ["a", "b"], "maxProperties": 1},
        {"type": "object", "properties": {"a": False}, "required": ["a"]},
        {"allOf": [{"type": "integer"}, {"enum": ["a"]}]},
    ],
)
def test_a_branch_that_nothing_fits_is_not_taken(never):
    schema = {"anyOf": [never, {"type": "null"}]}
    held = constrain(schema, 100)
    assert longest(held["grammar"], 1, 100)[0] == b"null"


def test_few_tokens_leave_out_what_need_not_be_there():
    schema = engine_schemas.ALL["objects: forty optional"]
    few, many = (len(constrain(schema, tokens)["grammar"]) for tokens in (30, 1000))
    assert few < many
    short, _ = longest(constrain(schema, 30)["grammar"], 1, 400)
    assert len(json.loads(short)) <= 2


def test_what_cannot_be_worked_out_is_held_unbounded():
    two = {"type": "object", "patternProperties": {"^a": {"type": "integer"}, "^b": {}}}
    held = constrain({**two, "properties": {"ab": {"type": "integer"}}}, 100)
    assert held["json_schema"]["x-guidance"] == NO_SPACE["x-guidance"]


def test_a_schema_of_hundreds_of_properties_is_worked_out_in_a_moment():
    names = [f"p{n}" for n in range(400)]
    schema = engine_schemas.obj(*names, **{name: {"type": "string"} for name in names})
    began = time.monotonic()
    assert "grammar" in constrain(schema, 4000)
    assert time.monotonic() - began < 5


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
    if finite:
        gate(schema)
    else:
        with pytest.raises(UpstreamRefused) as caught:
            gate(schema)
        assert caught.value.row == "unsupported_schema"
