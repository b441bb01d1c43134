"""What the model may write when its answer must be JSON: grammars that always come to an end.

The engine constrains with llguidance and, where it does not understand a schema, generates
freely with a success status; so every schema passes :func:`gate` first. A weak model loops in
whatever is unbounded, so an unnamed object gets a grammar whose longest text fits the tokens
that are left (:func:`object_grammar`), and a client's schema gets bounds where it has none
(:func:`tighten`; an instance of the tighter schema is an instance of the client's).
"""

import json
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote

import msgspec
from llguidance import LLMatcher

from moongate.core.errors import UpstreamRefused

NO_SPACE: Final[dict[str, Any]] = {
    "x-guidance": {
        "whitespace_flexible": False,
        "item_separator": ", ",
        "key_separator": ": ",
    }
}
_KEYWORD_LIST: Final = (
    "additionalItems additionalProperties allOf anyOf const contains dependentRequired "
    "dependentSchemas else enum exclusiveMaximum exclusiveMinimum format if items maxContains "
    "maxItems maxLength maxProperties maximum minContains minItems minLength minProperties "
    "minimum multipleOf not oneOf pattern patternProperties prefixItems properties propertyNames "
    "required then type unevaluatedItems unevaluatedProperties uniqueItems $ref $dynamicRef"
)
_KEYWORDS: Final = frozenset(_KEYWORD_LIST.split())
_HINTS: Final = (
    ("regex", "pattern"),
    ("format", "format"),
    ("registry", "$ref"),
    ("Invalid type", "type"),
    ("incompatible types", "type"),
    ("is unsatisfiable", "required"),
)
_ITEMS_MAX: Final = 8
_SCHEMA_BYTES_MAX: Final = 262_144
_ROUNDS_MAX: Final = 32
_END: Final = 1
"""Tokens: the end of the answer is a token too."""


class Shape(msgspec.Struct, frozen=True):
    """Bounds of a generic object: pairs, list items, pairs of an item; text and keys in tokens."""

    pairs: int
    text: int
    key: int = 6
    items: int = 0
    item_pairs: int = 0

    def tokens(self) -> int:
        """The most tokens that an object of this shape takes.

        Worst case: each character of the punctuation and of a number is a token of its own.
        """
        scalar = max(self.text + 2, _NUMBER_CHARS)
        pair = self.key + 2 + 2 + scalar
        total = 2 + self.pairs * (pair + 2)
        if self.items:
            item = 2 + self.item_pairs * (pair + 2)
            total += self.key + 2 + 2 + 2 + self.items * (item + 2)
        return total + _END


_NUMBER_CHARS: Final = 11
_SHAPES: Final = (
    Shape(pairs=8, text=48, items=12, item_pairs=6, key=8),
    Shape(pairs=6, text=40, items=8, item_pairs=5),
    Shape(pairs=5, text=32, items=6, item_pairs=5),
    Shape(pairs=4, text=20, items=4, item_pairs=4),
    Shape(pairs=3, text=12, items=3, item_pairs=2),
    Shape(pairs=5, text=20),
    Shape(pairs=4, text=12),
    Shape(pairs=3, text=11),
    Shape(pairs=2, text=10),
    Shape(pairs=1, text=16),
    Shape(pairs=1, text=9, key=3),
)


def object_grammar(tokens: int) -> str:
    """A grammar (llguidance's Lark form) of JSON objects that end within ``tokens`` tokens.

    Where not even one pair fits, the object is empty; that takes three tokens at most.
    """
    shape = next((shape for shape in _SHAPES if shape.tokens() <= tokens), None)
    if shape is None:
        return '%llguidance {}\nstart: "{}"\n'
    text = r'/[^"\\\x00-\x1f\x7f]'
    rules = [
        'start: "{" pairs "}"',
        f"pairs: {_times('pair', shape.pairs)}",
        'pair: key ": " value',
        'value: text | NUMBER | "true" | "false" | "null"',
        r'key: "\"" name "\""',
        r'text: "\"" words "\""',
        f"name[max_tokens={shape.key}]: {text}+/",
        f"words[max_tokens={shape.text}]: {text}*/",
        r"NUMBER: /-?(0|[1-9][0-9]{0,6})(\.[0-9]{1,2})?/",
    ]
    if shape.items:
        rules[1] += ' (", " listing)?'
        rules += [
            f'listing: key ": [" {_times("item", shape.items)} "]"',
            f'item: "{{" {_times("pair", shape.item_pairs)} "}}"',
        ]
    return "\n".join(["%llguidance {}", *rules, ""])


def _times(rule: str, most: int) -> str:
    """``rule`` one to ``most`` times, with commas between."""
    return f'{rule} (", " {rule}){{0,{most - 1}}}' if most > 1 else rule


def gate(schema: Any) -> None:
    """Raise UpstreamRefused naming the keyword when the engine could not hold ``schema``."""
    text = json.dumps(schema)
    if len(text) > _SCHEMA_BYTES_MAX:
        raise UpstreamRefused("unsupported_schema", keyword="schema")
    try:
        grammar = LLMatcher.grammar_from_json_schema(text)
        bad, messages = LLMatcher.validate_grammar_with_warnings(grammar)
    except ValueError:
        raise UpstreamRefused("unsupported_schema", keyword="schema") from None
    if bad:
        raise UpstreamRefused("unsupported_schema", keyword=_keyword(messages))
    if not ends(schema, schema):
        raise UpstreamRefused("unsupported_schema", keyword="$ref")


def ends(schema: Any, root: Any) -> bool:
    """Whether ``schema`` has an instance of finite size; one too deep to tell has none.

    Only what must be there can be endless: required properties, items below ``minItems``, every
    branch of ``allOf``; of ``anyOf``, ``oneOf`` and several types one that ends is enough. Each
    reference is followed once a round, and rounds go on while they find more that ends.
    """
    known: set[str] = set()
    for _ in range(_ROUNDS_MAX):
        before = len(known)
        try:
            if _ends(schema, root, known, set()):
                return True
        except RecursionError:
            return False
        if len(known) == before:
            return False
    return False


def _ends(schema: Any, root: Any, known: set[str], tried: set[str]) -> bool:
    if not isinstance(schema, dict):
        return True

    def each(one: Any) -> bool:
        return _ends(one, root, known, tried)

    target = schema.get("$ref")
    if isinstance(target, str) and target not in known:
        if target in tried:
            return False
        tried.add(target)
        if not each(_at(root, target)):
            return False
        known.add(target)
    if {"enum", "const"} & schema.keys():
        return True
    for word in ("anyOf", "oneOf"):
        branches = schema.get(word)
        if isinstance(branches, list) and not any(map(each, branches)):
            return False
    if not all(map(each, schema.get("allOf", ()))):
        return False
    named = schema.get("type")
    kinds = [named] if isinstance(named, str) else named or [""]
    return any(all(map(each, _musts(schema, kind))) for kind in kinds)


def _musts(schema: Mapping[str, Any], kind: str) -> list[Any]:
    """The schemas of what an instance of ``kind`` cannot do without."""
    if kind == "object":
        properties = schema.get("properties", {})
        rest = True if "patternProperties" in schema else schema.get("additionalProperties", True)
        musts = [properties.get(name, rest) for name in schema.get("required", ())]
        if not properties and schema.get("minProperties", 0) > len(musts):
            musts.append(rest)
        return musts
    if kind == "array" and schema.get("minItems", 0) > 0:
        first = list(schema.get("prefixItems", ()))[: schema["minItems"]]
        more = schema["minItems"] > len(first)
        return [*first, schema.get("items", True)] if more else first
    return []


def _at(root: Any, pointer: str) -> Any:
    """What a local reference points to; True (anything) where it is not plainly there."""
    if pointer != "#" and not pointer.startswith("#/"):
        return True
    place = root
    for step in pointer.removeprefix("#").split("/")[1:]:
        name = unquote(step).replace("~1", "/").replace("~0", "~")
        if isinstance(place, list) and name.isdecimal() and int(name) < len(place):
            place = place[int(name)]
        elif isinstance(place, dict) and name in place:
            place = place[name]
        else:
            return True
    return place


def constrain(schema: Mapping[str, Any], tokens: int) -> dict[str, Any]:
    """``schema`` as the engine gets it: bounded, without free white space, and gated."""
    plain = {**schema, **NO_SPACE}
    gate(plain)
    tight = tighten(plain, tokens)
    try:
        gate(tight)
    except UpstreamRefused:
        return plain
    return dict(tight)


def tighten(schema: Any, tokens: int) -> Any:
    """``schema`` with bounds where it has none, so that a weak model comes to an end.

    Strings get a length, lists a number of items, objects no properties beyond those named.
    Left alone: whatever a neighbouring keyword already rules (pattern, enum, references ...).
    """
    if not isinstance(schema, dict) or {"allOf", "$ref", "if", "not"} & schema.keys():
        return schema
    out = dict(schema)
    named = schema.get("type")
    kinds = set(named) if isinstance(named, list) else {named}
    if "string" in kinds and not {"pattern", "format", "enum", "const", "maxLength"} & out.keys():
        out["maxLength"] = max(out.get("minLength", 0), min(400, max(16, tokens)))
    if "array" in kinds:
        if "maxItems" not in out:
            out["maxItems"] = max(out.get("minItems", 0), _ITEMS_MAX)
        if "items" in out:
            out["items"] = tighten(out["items"], tokens // 4)
    if "object" in kinds and "patternProperties" not in out:
        properties = out.get("properties", {})
        if isinstance(properties, dict):
            share = tokens // max(1, len(properties))
            out["properties"] = {k: tighten(v, share) for k, v in properties.items()}
            if out.keys().isdisjoint(
                {"additionalProperties", "anyOf", "oneOf", "minProperties"}
            ) and set(out.get("required", ())) <= set(properties):
                out["additionalProperties"] = False
    if "anyOf" in out and named is None and isinstance(out["anyOf"], list):
        out["anyOf"] = [tighten(each, tokens) for each in out["anyOf"]]
    return out


def _keyword(messages: list[str]) -> str:
    """A JSON Schema keyword that the complaint is about; never a word of the client's own."""
    text = " ".join(messages)
    for word in re.findall(r"[$A-Za-z]+", text):
        if word in _KEYWORDS and word not in ("not", "type", "required", "format", "if", "pattern"):
            return str(word)
    for word in re.findall(r'"([$A-Za-z]+)"', text):
        if word in _KEYWORDS:
            return str(word)
    return next((keyword for hint, keyword in _HINTS if hint in text), "schema")
