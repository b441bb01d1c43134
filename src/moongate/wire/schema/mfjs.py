"""Whether a schema is of the subset that Moonshot's own API takes where ``strict`` holds (MFJS).

Source: Moonshot's documentation of tools and its ``walle`` validator; `pattern` and an empty schema
as a property are in Moonshot's own test suite. What is doubtful counts as outside: a schema that
is outside is not refused by us, but sent without ``strict`` and kept by our own check.
"""

from collections.abc import Iterator
from typing import Any, Final

_KEYWORDS: Final = frozenset(
    {"type", "properties", "required", "additionalProperties", "items", "anyOf", "enum", "$ref"}
    | {"minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "pattern"}
    | {"description", "title", "default"}
)
_ROOT_ONLY: Final = frozenset({"$defs", "$id"})
_REMARKS: Final = frozenset({"description", "title"})
_NAMES_KEPT: Final = frozenset({"$defs", "$ref", "anyOf", "required", "additionalProperties"})
_KINDS: Final[dict[str, type | tuple[type, ...]]] = {
    "null": type(None),
    "boolean": bool,
    "object": dict,
    "array": list,
    "number": (int, float),
    "integer": int,
    "string": str,
}
_BOUNDS: Final = (
    ("minimum", "maximum"),
    ("minLength", "maxLength"),
    ("minItems", "maxItems"),
)
_DEPTH_MAX: Final = 5
_PROPERTIES_MAX: Final = 100
_ENUM_VALUES_MAX: Final = 500
_BRANCHES_MAX: Final = 10
_INTEGER_MAX: Final = 2**53 - 1


def is_mfjs(schema: dict[str, Any]) -> bool:
    """Whether Moonshot would take ``schema`` as strict; it passed our own gate before."""
    if not schema:
        return True
    own = {name: rule for name, rule in schema.items() if name not in _ROOT_ONLY}
    definitions = schema.get("$defs", {})
    if not isinstance(definitions, dict) or any("/" in name for name in definitions):
        return False
    nodes = [own, *definitions.values()]
    found = [one for node in nodes for one in _walk(node, 1)]
    properties = sum(len(node.get("properties", ())) for node in found if isinstance(node, dict))
    values = sum(len(node.get("enum", ())) for node in found if isinstance(node, dict))
    return (
        properties <= _PROPERTIES_MAX
        and values <= _ENUM_VALUES_MAX // 2  # beyond that the length of the texts counts as well
        and all(isinstance(node, dict) and _fits(node) for node in found)
    )


def _walk(node: Any, depth: int) -> Iterator[Any]:
    """``node`` and the schemas in it; something that is none where they stand too deep."""
    if depth > _DEPTH_MAX:
        yield None
        return
    yield node
    if not isinstance(node, dict):
        return
    inner = [node[name] for name in ("items", "additionalProperties") if name in node]
    inner = [one for one in inner if not isinstance(one, bool)]
    table = node.get("properties", {})
    inner += table.values() if isinstance(table, dict) else [None]
    for one in inner:
        yield from _walk(one, depth + 1)
    for one in node.get("anyOf", ()):
        yield from _walk(one, depth)


def _fits(node: dict[str, Any]) -> bool:
    """One schema by itself."""
    words = node.keys()
    if not words:
        return True
    if not words <= _KEYWORDS:
        return False
    if "$ref" in words or "anyOf" in words:
        reference, branches = node.get("$ref", "#"), node.get("anyOf", [{}])
        plain = len(words - _REMARKS) == 1
        local = reference == "#" or reference.startswith("#/$defs/")
        return plain and local and 1 <= len(branches) <= _BRANCHES_MAX and {} not in branches[1:]
    kind = node.get("type")
    if isinstance(kind, list):
        return words <= _REMARKS | {"type"} or _is_nullable_enum(node, kind)
    if kind not in _KINDS:
        return False
    table = node.get("properties", {})
    return (
        not table.keys() & _NAMES_KEPT
        and set(node.get("required", ())) <= table.keys()
        and _values_fit(node, [kind])
        and _bounds_fit(node)
    )


def _is_nullable_enum(node: dict[str, Any], kinds: list[str]) -> bool:
    plain = node.keys() <= _REMARKS | {"type", "enum"}
    return plain and (len(kinds) == 1 or kinds[1:] == ["null"]) and _values_fit(node, kinds)


def _values_fit(node: dict[str, Any], kinds: list[str]) -> bool:
    values = [*node.get("enum", ()), *([node["default"]] if "default" in node else [])]
    return not isinstance(node.get("default"), dict | list) and all(
        any(_is_a(value, kind) for kind in kinds) for value in values
    )


def _is_a(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    small = not isinstance(value, int) or abs(value) <= _INTEGER_MAX
    return small and isinstance(value, _KINDS[kind])


def _bounds_fit(node: dict[str, Any]) -> bool:
    for low, high in _BOUNDS:
        if low in node and high in node and node[low] > node[high]:
            return False
    bounds = [node[name] for pair in _BOUNDS for name in pair if name in node]
    return all(abs(bound) <= _INTEGER_MAX for bound in bounds)
