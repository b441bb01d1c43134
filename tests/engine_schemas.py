"""Schemas of many shapes, as people write them, for whatever must hold an answer to one.

Each is a value's schema. :func:`tool` makes a tool's parameters of it; definitions move to the
root then, so that local pointers go on to point at them. ``REFUSED`` names what no engine of ours
can hold, with the keyword that the refusal must name (one of two, where two are at fault).
"""

from typing import Any

Schema = dict[str, Any]


def obj(*optional: str, **properties: Any) -> Schema:
    """An object of these properties and no other; ``optional`` ones need not be there."""
    needed = [name for name in properties if name not in optional]
    return {
        "type": "object",
        "properties": properties,
        "required": needed,
        "additionalProperties": False,
    }


def arr(items: Any, **more: Any) -> Schema:
    """A list of such items."""
    return {"type": "array", "items": items, **more}


def some(*branches: Any, **more: Any) -> Schema:
    """Any of these."""
    return {"anyOf": list(branches), **more}


def ref(pointer: str, **more: Any) -> Schema:
    """A reference."""
    return {"$ref": pointer, **more}


def tool(schema: Schema) -> Schema:
    """Parameters of a tool whose only argument is such a value."""
    value = dict(schema)
    moved = {word: value.pop(word) for word in ("$defs", "definitions", "$id") if word in value}
    return obj(value=value) | moved


STR, INT, NUM = {"type": "string"}, {"type": "integer"}, {"type": "number"}
BOOL, NULL = {"type": "boolean"}, {"type": "null"}
PERSON = obj(name=STR, age=INT)
NODE = obj(name=STR, next=some(NULL, ref("#/$defs/node")))
TREE = obj(value=INT, left=some(ref("#/$defs/tree"), NULL), right=some(ref("#/$defs/tree"), NULL))

WHOLE: dict[str, Schema] = {
    "string": STR,
    "integer": INT,
    "number": NUM,
    "boolean": BOOL,
    "null": NULL,
    "empty": {},
    "open object": {"type": "object"},
    "open array": {"type": "array"},
    "closed empty object": {"type": "object", "additionalProperties": False},
    "one type in a list": {"type": ["string"]},
    "two types": {"type": ["string", "null"]},
    "three types": {"type": ["integer", "string", "boolean"]},
    "all types": {"type": ["null", "boolean", "object", "array", "number", "string"]},
    "object or null": {"type": ["object", "null"], "properties": {"a": STR}, "required": ["a"]},
    "array or string": {"type": ["array", "string"], "items": INT},
    "described": {"type": "string", "description": "A city", "title": "City", "examples": ["Oslo"]},
    "with a default": {"type": "integer", "default": 3},
    "named by an address": {"$id": "https://example.org/schema", "type": "string"},
    "with a dialect": {"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "number"},
}
VALUES: dict[str, Schema] = {
    "enum of strings": {"type": "string", "enum": ["red", "green", "blue"]},
    "enum without a type": {"enum": ["on", "off"]},
    "enum of integers": {"type": "integer", "enum": [1, 2, 3, 5, 8]},
    "enum of numbers": {"type": "number", "enum": [0.5, 1.25, -3]},
    "enum of booleans": {"type": "boolean", "enum": [True]},
    "enum of null": {"type": "null", "enum": [None]},
    "enum of all kinds": {"enum": ["a", 1, 1.5, True, None, [1, 2], {"k": "v"}]},
    "nullable enum": {"type": ["string", "null"], "enum": ["low", "high", None]},
    "enum of one": {"enum": ["only"]},
    "enum of long strings": {"enum": ["lorem ipsum " * 6, "dolor sit amet " * 5]},
    "enum of two hundred": {"enum": [f"item-{n}" for n in range(200)]},
    "enum with quotes": {"enum": ['say "hi"', "back\\slash", "new\nline", "tab\t"]},
    "enum of scripts": {"enum": ["北京", "Zürich", "🌙 moon", "Ωμέγα"]},
    "enum that its type thins": {"type": "string", "enum": ["yes", 1, None]},
    "const string": {"const": "fixed"},
    "const number": {"const": 42},
    "const null": {"const": None},
    "const false": {"const": False},
    "const object": {"const": {"a": [1, {"b": None}]}},
    "const array": {"const": [1, "two", False]},
    "const empty string": {"const": ""},
}
NUMBERS: dict[str, Schema] = {
    "minimum": {"type": "integer", "minimum": 10},
    "maximum": {"type": "integer", "maximum": -5},
    "range": {"type": "integer", "minimum": 1, "maximum": 6},
    "range of one": {"type": "integer", "minimum": 7, "maximum": 7},
    "exclusive range": {"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 3},
    "number range": {"type": "number", "minimum": -1.5, "maximum": 2.5},
    "probability": {"type": "number", "minimum": 0, "maximum": 1},
    "open interval": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    "narrow decimals": {"type": "number", "minimum": 0.125, "maximum": 0.25},
    "positive number": {"type": "number", "exclusiveMinimum": 0},
    "large minimum": {"type": "integer", "minimum": 10**12},
    "int53": {"type": "integer", "minimum": -(2**53) + 1, "maximum": 2**53 - 1},
    "multiple of five": {"type": "integer", "multipleOf": 5},
    "cents": {"type": "number", "multipleOf": 0.01, "minimum": 0, "maximum": 100},
    "decimal limits of an integer": {"type": "integer", "minimum": 0.5, "maximum": 3.5},
    "year": {"type": "integer", "minimum": 1900, "maximum": 2100},
    "latitude": {"type": "number", "minimum": -90, "maximum": 90},
}
STRINGS: dict[str, Schema] = {
    "min length": {"type": "string", "minLength": 5},
    "max length": {"type": "string", "maxLength": 5},
    "exact length": {"type": "string", "minLength": 8, "maxLength": 8},
    "no length": {"type": "string", "maxLength": 0},
    "long maximum": {"type": "string", "maxLength": 5000},
    "fifty at least": {"type": "string", "minLength": 50, "maxLength": 60},
    "pattern": {"type": "string", "pattern": "^[A-Z]{3}-[0-9]{4}$"},
    "pattern without an end": {"type": "string", "pattern": "^[a-z]+$"},
    "pattern without anchors": {"type": "string", "pattern": "cat|dog"},
    "pattern and length": {"type": "string", "pattern": "^a", "minLength": 2, "maxLength": 4},
    "pattern of a sku": {"type": "string", "pattern": r"^(\d{2}\.){2}\w+$"},
    "date": {"type": "string", "format": "date"},
    "time": {"type": "string", "format": "time"},
    "date-time": {"type": "string", "format": "date-time"},
    "duration": {"type": "string", "format": "duration"},
    "email": {"type": "string", "format": "email"},
    "hostname": {"type": "string", "format": "hostname"},
    "ipv4": {"type": "string", "format": "ipv4"},
    "ipv6": {"type": "string", "format": "ipv6"},
    "uuid": {"type": "string", "format": "uuid"},
    "uri": {"type": "string", "format": "uri"},
}
ARRAYS: dict[str, Schema] = {
    "strings": arr(STR),
    "one integer": arr(INT, minItems=1, maxItems=1),
    "two to four": arr(NUM, minItems=2, maxItems=4),
    "none": arr(STR, maxItems=0),
    "twenty at least": arr({"type": "integer", "minimum": 0, "maximum": 9}, minItems=20),
    "of anything": arr({}),
    "of enums": arr({"enum": ["a", "b"]}, minItems=1),
    "of nulls": arr(NULL, minItems=2, maxItems=3),
    "of booleans": arr(BOOL),
    "of arrays": arr(arr(INT, minItems=2, maxItems=2), minItems=1, maxItems=3),
    "of objects": arr(PERSON, minItems=1),
    "of either": arr(some(STR, INT), minItems=2),
    "of two types": arr({"type": ["integer", "null"]}, minItems=1),
    "three deep": arr(arr(arr(STR))),
    "pair": {"type": "array", "prefixItems": [STR, INT], "items": False, "minItems": 2},
    "point": {"type": "array", "prefixItems": [NUM, NUM], "minItems": 2, "maxItems": 2},
    "prefix and rest": {"type": "array", "prefixItems": [STR], "items": INT, "minItems": 3},
    "prefix alone": {"type": "array", "prefixItems": [BOOL, PERSON]},
}
OBJECTS: dict[str, Schema] = {
    "person": PERSON,
    "optional property": obj("nick", name=STR, nick=STR),
    "all optional": obj("a", "b", "c", a=STR, b=INT, c=BOOL),
    "open": {"type": "object", "properties": {"a": INT}, "required": ["a"]},
    "map of integers": {"type": "object", "additionalProperties": INT},
    "map of objects": {"type": "object", "additionalProperties": PERSON, "minProperties": 1},
    "map of bounded size": {
        "type": "object",
        "additionalProperties": BOOL,
        "minProperties": 2,
        "maxProperties": 3,
    },
    "properties and map": {
        "type": "object",
        "properties": {"id": INT},
        "required": ["id"],
        "additionalProperties": STR,
    },
    "required but unnamed": {"type": "object", "required": ["x"], "additionalProperties": INT},
    "names by pattern": {
        "type": "object",
        "patternProperties": {"^x-": STR},
        "additionalProperties": False,
    },
    "names by pattern beside named ones": {
        "type": "object",
        "properties": {"id": INT},
        "required": ["id"],
        "patternProperties": {"^x-": STR},
        "additionalProperties": False,
    },
    "nested": obj(a=obj(b=obj(c=obj(d=STR)))),
    "deep as it goes": obj(a=obj(b=obj(c=obj(d=obj(e=obj(f=arr(obj(g=INT), minItems=1))))))),
    "list in object in list": arr(obj(tags=arr(STR), ok=BOOL), minItems=1),
    "twenty strings": obj(**{f"field_{n}": STR for n in range(20)}),
    "thirty flags": obj(**{f"flag{n}": BOOL for n in range(30)}),
    "forty optional": obj(*(f"o{n}" for n in range(40)), **{f"o{n}": STR for n in range(40)}),
    "dots": obj(**{"a.b.c": INT, "a..b": STR}),
    "slashes": obj(**{"a/b/c": STR, "~1": INT, "~0": BOOL}),
    "quotes in names": obj(**{'say "x"': STR, "it's": INT, "back\\slash": BOOL}),
    "spaces and signs": obj(**{" ": INT, "a b": STR, "$price%": NUM, "#": NULL, "[0]": BOOL}),
    "unicode names": obj(名前=STR, größe=INT, ключ=BOOL),
    "emoji names": obj(**{"🌙": INT, "👩‍🚀": STR, "❤️": BOOL}),
    "empty name": obj(**{"": INT, "b": STR}),
    "line break in a name": obj(**{"a\nb": INT, "tab\t": STR}),
    "keywords as names": obj(type=STR, properties=INT, required=BOOL, enum=STR, items=NULL),
    "more keywords as names": obj(**{"$ref": STR, "$defs": INT, "anyOf": BOOL, "not": STR}),
    "prototype names": obj(__proto__=INT, constructor=STR, toString=BOOL),
    "property of any value": obj(a={}, b=INT),
    "property that is true": obj(a=True, b=INT),
    "forbidden property": {"type": "object", "properties": {"a": STR, "b": False}},
    "without a type": {"properties": {"a": STR}, "required": ["a"]},
    "at least two of three": {
        "type": "object",
        "properties": {"a": INT, "b": INT, "c": INT},
        "additionalProperties": False,
    },
}
CHOICES: dict[str, Schema] = {
    "string or integer": some(STR, INT),
    "nullable object": some(PERSON, NULL),
    "object or list": some(obj(a=STR), arr(INT)),
    "ten branches": some(*(obj(kind={"const": f"k{n}"}, value=INT) for n in range(10))),
    "bounded branches": some({"type": "string", "maxLength": 3}, {"type": "integer", "minimum": 9}),
    "tagged": some(
        obj(kind={"const": "circle"}, radius=NUM), obj(kind={"const": "square"}, side=NUM)
    ),
    "anyOf beside properties": {
        "type": "object",
        "properties": {"id": INT, "a": STR, "b": STR},
        "required": ["id"],
        "additionalProperties": False,
        "anyOf": [{"required": ["a"]}, {"required": ["b"]}],
    },
    "anyOf in anyOf": some(some(STR, NULL), some(INT, BOOL)),
    "oneOf apart by type": {"oneOf": [STR, INT, NULL]},
    "oneOf apart by tag": {
        "oneOf": [
            obj(type={"const": "cat"}, lives=INT),
            obj(type={"const": "dog"}, tricks=arr(STR)),
        ]
    },
    "oneOf of constants": {"oneOf": [{"const": "a", "title": "A"}, {"const": "b", "title": "B"}]},
    "allOf of one": {"allOf": [PERSON]},
    "allOf of objects": {
        "allOf": [
            {"type": "object", "properties": {"a": STR}, "required": ["a"]},
            {"type": "object", "properties": {"b": INT}, "required": ["b"]},
        ]
    },
    "allOf that narrows": {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 9}]},
    "allOf with references": {
        "allOf": [ref("#/$defs/named"), {"type": "object", "properties": {"age": INT}}],
        "$defs": {"named": {"type": "object", "properties": {"name": STR}, "required": ["name"]}},
    },
    "allOf with a choice": {"allOf": [{"type": ["string", "integer"]}, some(STR, BOOL)]},
    "allOf of enums": {"allOf": [{"enum": ["a", "b", "c"]}, {"enum": ["b", "c", "d"]}]},
}
REFERENCES: dict[str, Schema] = {
    "defs": {**ref("#/$defs/p"), "$defs": {"p": PERSON}},
    "definitions": {**ref("#/definitions/p"), "definitions": {"p": PERSON}},
    "ref in items": arr(ref("#/$defs/p"), minItems=1, **{"$defs": {"p": PERSON}}),
    "ref to a ref": {**ref("#/$defs/a"), "$defs": {"a": ref("#/$defs/b"), "b": INT}},
    "deep pointer": {
        **obj(id=ref("#/$defs/player/properties/id"), at=ref("#/$defs/player/properties/at")),
        "$defs": {"player": obj(id={"type": "integer", "minimum": 1}, at=arr(NUM, maxItems=2))},
    },
    "pointer into a list": {
        **obj(a=ref("#/$defs/c/anyOf/1")),
        "$defs": {"c": some(STR, {"type": "integer", "maximum": 4})},
    },
    "escaped pointer": {
        **obj(a=ref("#/$defs/a~1b"), b=ref("#/$defs/c%20d")),
        "$defs": {"a/b": INT, "c d": STR},
    },
    "ref beside words": {
        **ref("#/$defs/n", maximum=5, description="small"),
        "$defs": {"n": {"type": "integer", "minimum": 1}},
    },
    "anchor": {**ref("#word"), "$defs": {"w": {"$anchor": "word", "type": "string"}}},
    "by its own address": {
        "$id": "https://example.org/own",
        **obj(a=ref("#/$defs/x")),
        "$defs": {"x": {"type": "string", "maxLength": 4}},
    },
    "linked list": {**ref("#/$defs/node"), "$defs": {"node": NODE}},
    "binary tree": {**ref("#/$defs/tree"), "$defs": {"tree": TREE}},
    "tree of children": {
        **ref("#/$defs/item"),
        "$defs": {"item": obj(name=STR, children=arr(ref("#/$defs/item")))},
    },
    "optional recursion": {
        **ref("#/$defs/c"),
        "$defs": {"c": obj("reply", text=STR, reply=ref("#/$defs/c"))},
    },
    "mutual recursion": {
        **ref("#/$defs/a"),
        "$defs": {
            "a": obj(b=some(ref("#/$defs/b"), NULL)),
            "b": obj(a=some(ref("#/$defs/a"), INT)),
        },
    },
    "expression": {
        **ref("#/$defs/e"),
        "$defs": {
            "e": some(INT, obj(op={"enum": ["+", "*"]}, l=ref("#/$defs/e"), r=ref("#/$defs/e")))
        },
    },
    "json itself": {
        **ref("#/$defs/any"),
        "$defs": {
            "any": some(
                {"type": ["string", "number", "boolean", "null"]},
                arr(ref("#/$defs/any")),
                {"type": "object", "additionalProperties": ref("#/$defs/any")},
            )
        },
    },
    "list by reference": {**arr(ref("#/$defs/row")), "$defs": {"row": arr(INT)}},
}
LIFELIKE: dict[str, Schema] = {
    "order": obj(
        "note",
        id={"type": "string", "pattern": "^ORD-[0-9]{6}$"},
        items=arr(
            obj(sku=STR, count={"type": "integer", "minimum": 1}, price={"type": "number"}),
            minItems=1,
        ),
        total={"type": "number", "minimum": 0},
        paid=BOOL,
        note={"type": ["string", "null"]},
    ),
    "calendar event": obj(
        "place",
        title=STR,
        start={"type": "string", "format": "date-time"},
        attendees=arr({"type": "string", "format": "email"}, maxItems=3),
        place=STR,
    ),
    "review": obj(
        stars={"type": "integer", "minimum": 1, "maximum": 5},
        mood={"enum": ["good", "bad", "mixed"]},
        summary={"type": "string", "maxLength": 80},
        reasons=arr(STR, minItems=1, maxItems=3),
    ),
    "weather call": obj(
        "unit", city=STR, unit={"type": "string", "enum": ["celsius", "fahrenheit"]}
    ),
    "search call": obj("filters", query=STR, filters={"type": "object"}, limit=INT),
    "file edit": obj(path=STR, edits=arr(obj(old=STR, new=STR), minItems=1)),
    "configuration": obj(
        host={"type": "string", "format": "hostname"},
        port={"type": "integer", "minimum": 1, "maximum": 65535},
        tls=BOOL,
        labels={"type": "object", "additionalProperties": STR},
    ),
}
GROUPS: dict[str, dict[str, Schema]] = {
    "whole": WHOLE,
    "values": VALUES,
    "numbers": NUMBERS,
    "strings": STRINGS,
    "arrays": ARRAYS,
    "objects": OBJECTS,
    "choices": CHOICES,
    "references": REFERENCES,
    "lifelike": LIFELIKE,
}
ALL: dict[str, Schema] = {
    f"{group}: {name}": schema for group, some in GROUPS.items() for name, schema in some.items()
}
REFUSED: dict[str, tuple[Schema, str]] = {
    "not": ({"not": {"type": "string"}}, "not"),
    "names ruled": ({"type": "object", "propertyNames": {"pattern": "a"}}, "propertyNames"),
    "look-ahead": ({"type": "string", "pattern": "(?=a)b"}, "pattern"),
    "elsewhere": (ref("https://example.invalid/x"), "$ref"),
    "no such type": ({"type": "text"}, "type"),
    "contradiction": ({"allOf": [STR, INT]}, "type or required"),
    "unique items": (arr(INT, uniqueItems=True), "uniqueItems"),
    "contains": ({"type": "array", "contains": INT}, "contains"),
    "condition": ({"if": STR, "then": {"minLength": 2}}, "if"),
    "branches that overlap": ({"oneOf": [STR, {"type": "string", "maxLength": 3}]}, "oneOf"),
    "unknown format": ({"type": "string", "format": "colour"}, "format"),
    "dependent": ({"type": "object", "dependentRequired": {"a": ["b"]}}, "dependentRequired"),
    "endless": (obj(x=ref("#")), "$ref"),
}
