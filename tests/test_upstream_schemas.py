"""Schemas on their way to Moonshot: strict where its own API takes them, loose where not."""

import json
from typing import Any

import pytest

from moongate.core.request import Format, Tool
from moongate.upstream.kimi_rules import complaints
from moongate.upstream.quirks import QUIRKS, shape
from moongate.wire.chat import ChatCodec
from moongate.wire.schema.mfjs import is_mfjs
from upstream_kit import an_ask

TEXT = {"type": "string"}


def an_object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = TEXT
    for _ in range(levels - 1):
        schema = an_object(a=schema)
    return schema


OF_THE_SUBSET = [
    {},
    {"type": "object", "properties": {}},
    an_object(a={**TEXT, "description": "d", "title": "t", "default": "x", "pattern": "^x"}),
    an_object(a={}),
    an_object(a={"type": "object", "additionalProperties": {}}),
    an_object(a={"type": ["string", "null"], "description": "d"}),
    an_object(a={"type": ["string", "null"], "enum": ["x", None]}),
    an_object(a={"type": "boolean", "enum": [True]}, b={"type": "null", "enum": [None]}),
    an_object(a={"anyOf": [TEXT, {"type": "null"}], "description": "d"}),
    an_object(a={"type": "array", "items": TEXT, "minItems": 1, "maxItems": 1}),
    an_object(a={"type": "integer", "minimum": -(2**53) + 1, "maximum": 2**53 - 1}),
    {**an_object(a={"$ref": "#/$defs/b"}, c={"$ref": "#"}), "$defs": {"b": TEXT}, "$id": "s"},
    {**an_object(a={"$ref": "#/$defs/b/properties/id"}), "$defs": {"b": an_object(id=TEXT)}},
    an_object(**{f"p{n}": TEXT for n in range(100)}),
    nested(5),
]

OUTSIDE = [
    an_object(a={"description": "no type"}),
    an_object(a={"allOf": [TEXT]}),
    an_object(a={"oneOf": [TEXT]}),
    an_object(a={"const": "x"}),
    an_object(a={**TEXT, "format": "date"}),
    an_object(a={"type": "array", "prefixItems": [TEXT]}),
    an_object(a={"type": ["string", "integer"], "minimum": 1}),
    an_object(a={"type": ["string", "integer", "null"], "enum": ["x"]}),
    an_object(a={"type": "string", "enum": ["x", 1]}),
    an_object(a={"type": "string", "enum": [None]}),
    an_object(a={"type": "integer", "enum": [True]}),
    an_object(a={"type": "integer", "default": "x"}),
    an_object(a={"type": "array", "items": TEXT, "default": []}),
    an_object(a={"anyOf": [TEXT], "type": "string"}),
    an_object(a={"anyOf": [TEXT] * 11}),
    an_object(a={"anyOf": [TEXT, {"description": "no type"}]}),
    an_object(a={"$ref": "#/properties/b"}, b=TEXT),
    an_object(a={"type": "object", "$defs": {"b": TEXT}}),
    {**an_object(a={"$ref": "#/$defs/b"}), "$defs": {"b": TEXT, "c/d": TEXT}},
    {**an_object(a=TEXT), "definitions": {"b": TEXT}},
    {**an_object(a=TEXT), "$schema": "https://json-schema.org/draft/2020-12/schema"},
    {**an_object(a=TEXT), "required": ["b"]},
    an_object(required=TEXT),
    an_object(a={"type": "integer", "minimum": 2, "maximum": 1}),
    an_object(a={"type": "integer", "maximum": 2**53}),
    an_object(**{f"p{n}": TEXT for n in range(101)}),
    an_object(a={"type": "integer", "enum": list(range(501))}),
    nested(6),
    {"anyOf": [an_object(a=TEXT)]},
]


@pytest.mark.parametrize("schema", OF_THE_SUBSET)
def test_what_moonshot_takes_as_strict_goes_as_it_is(schema: dict[str, Any]) -> None:
    assert is_mfjs(schema)
    for strict in (None, True, False):
        sent = sent_to("moonshot", schema, strict)
        assert [one.get("strict") for one in sent] == [strict, strict]


@pytest.mark.parametrize("schema", OUTSIDE[:-1])
def test_what_moonshot_would_refuse_goes_without_strict(schema: dict[str, Any]) -> None:
    assert not is_mfjs(schema)
    for strict in (None, True, False):
        assert [one["strict"] for one in sent_to("moonshot", schema, strict)] == [False, False]
        for kind in QUIRKS.keys() - {"moonshot"}:
            assert [one.get("strict") for one in sent_to(kind, schema, strict)] == [strict, strict]


def sent_to(kind: Any, schema: dict[str, Any], strict: bool | None) -> list[dict[str, Any]]:
    """The tool's function and the format as that kind is sent them."""
    ask = an_ask(
        tools=(Tool("f", parameters=schema, strict=strict),),
        format=Format("json_schema", "a", schema, strict=strict),
    )
    body = shape(ChatCodec().write_request(ask.request), ask, kind)
    function, form = body["tools"][0]["function"], body["response_format"]["json_schema"]
    assert function["parameters"] == schema == form["schema"]
    return [function, form]


def test_moonshot_is_told_what_a_function_takes_even_when_it_did_not_say() -> None:
    ask = an_ask(tools=(Tool("now"),))
    written = ChatCodec().write_request(ask.request)
    before = json.dumps(written)
    for kind in QUIRKS:
        (tool,) = shape(written, ask, kind)["tools"]
        said = {"type": "object", "properties": {}} if kind == "moonshot" else None
        assert tool["function"].get("parameters") == said
    assert complaints(shape(written, ask, "moonshot")) == []
    assert json.dumps(written) == before
    assert ChatCodec().read_request(before.encode()).tools == ask.request.tools
