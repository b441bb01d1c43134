"""An answer that goes on from a prefix: both together are an instance, or it is refused."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

import engine_schemas
from engine_writer import longest
from moongate.core.errors import UpstreamRefused
from moongate.upstream.engine_grammar import OBJECT, constrain
from moongate.upstream.engine_prefix import NOTHING, Begun, NoBegin, begun
from test_engine_names import VALUES

SEED = random.SystemRandom().randrange(10_000)
STYLES = ((", ", ": "), (",", ":"), (" ,\n\t", " : "))
# The only schemas whose prefixes may be refused as more than we can tell.
UNTOLD = {"strings: pattern without anchors", "objects: names by pattern"}


def rest(schema, prefix, tokens=200, seed=1):
    more, _ = longest(constrain(schema, tokens, prefix)["grammar"], seed, 600)
    return more.decode()


@pytest.mark.parametrize("name", engine_schemas.ALL)
def test_prefix_and_rest_are_an_instance_wherever_the_prefix_stops(name):
    print(f"seed {SEED}")
    dice = random.Random(f"{SEED} {name}")
    schema = engine_schemas.ALL[name]
    text = longest(constrain(schema, 200)["grammar"], dice.random(), 600)[0].decode()
    for comma, colon in STYLES:
        prefix = text[: dice.randrange(len(text) + 1)]
        if all(sign not in prefix.replace('", "', "").replace('": ', "") for sign in ("\\", "'")):
            prefix = prefix.replace('", "', f'"{comma}"').replace('": ', f'"{colon}')
        try:
            rests = constrain(schema, 200, prefix)["grammar"]
        except UpstreamRefused as refused:
            said = (name in UNTOLD, refused.row)
            assert said == (True, "unsupported_ability")
            continue
        whole = prefix + longest(rests, dice.random(), 600)[0].decode()
        assert Draft202012Validator(schema).is_valid(json.loads(whole)), (prefix, whole)


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        " ",
        "{",
        '{"',
        '{"na',
        '{"name"',
        '{"name":',
        '{"name": "J',
        '{"name": "J"',
        '{"name": 1,',
    ],
)
def test_an_object_goes_on_from_anywhere(prefix):
    value = json.loads(prefix + rest(OBJECT, prefix, 120))
    assert isinstance(value, dict)
    if "name" in prefix:
        assert any(key.startswith("name") for key in value)


def test_the_properties_that_stand_are_not_asked_for_again():
    schema = engine_schemas.obj(a={"type": "integer"}, b={"type": "boolean"}, c={"const": 1})
    value = json.loads('{"c": 1, "a": 4' + rest(schema, '{"c": 1, "a": 4'))
    assert list(value)[0::2] == ["c", "b"]


def test_a_whole_answer_needs_nothing_more():
    assert rest(engine_schemas.PERSON, '{"name": "A", "age": 3}\n') == ""


def test_an_escape_that_has_begun_is_ended():
    value = json.loads('["tab\\' + rest(engine_schemas.arr({"type": "string"}), '["tab\\'))
    assert value[0][:3] == "tab"


@pytest.mark.parametrize(
    ("schema", "prefix"),
    [
        (OBJECT, "["),
        (OBJECT, "Sure: {"),
        (OBJECT, "```json\n{"),
        (OBJECT, '{"a": 1]'),
        (OBJECT, "{'a"),
        (OBJECT, '{"a": 01'),
        (OBJECT, "{" * 100_000),
        (OBJECT, '{"a": "line\nbreak'),
        (engine_schemas.PERSON, '{"age": "old"'),
        (engine_schemas.PERSON, '{"name": "A", "shoe'),
        (engine_schemas.PERSON, '{"name": "A", "age": 3}{'),
        (engine_schemas.PERSON, '{"name": "A", "age": 3, '),
        ({"type": "string", "maxLength": 3}, '"four'),
        ({"type": "integer", "minimum": 10, "maximum": 20}, "3"),
        ({"type": "integer"}, "1.5"),
        ({"type": "array", "maxItems": 1}, "[1,"),
        ({"type": "array", "items": {"type": "string"}}, '["a", 2'),
        ({"enum": ["red", "green"]}, '"b'),
        ({"type": "boolean"}, "nu"),
        ({"type": "string", "pattern": "^[a-z]+$"}, '"A"'),
    ],
)
def test_a_prefix_that_begins_no_such_answer_is_refused(schema, prefix):
    with pytest.raises(UpstreamRefused) as caught:
        constrain(schema, 100, prefix)
    assert caught.value.row == "unsuitable_prefix"


@given(VALUES, st.integers(0, 500), st.sampled_from([None, 2]))
def test_every_begin_of_json_is_one(value, cut, indent):
    text = json.dumps(value, indent=indent)
    found = begun(text[: cut % (len(text) + 1)])
    assert isinstance(found, Begun)
    assert begun(text) == Begun("whole", value) or text.lstrip("-").isdigit()


@given(st.text(alphabet='{}[]",:1-.etrufalsn\\ \n', max_size=12))
def test_what_is_no_begin_of_json_is_told_apart(text):
    try:
        found = begun(text)
    except NoBegin:
        with pytest.raises(ValueError):
            json.loads(text)
    else:
        assert found == NOTHING or found.kind in ("whole", "text", "bare", "list", "pairs")
