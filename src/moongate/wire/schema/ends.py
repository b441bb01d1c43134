"""Whether a schema has an instance of finite size: recursion must be able to end."""

from collections.abc import Mapping
from typing import Any, Final

from moongate.wire.schema.pointer import Places

_ROUNDS_MAX: Final = 32


def ends(schema: Any, root: Any) -> bool:
    """Whether ``schema`` has an instance of finite size; one too deep to tell has none.

    Only what must be there can be endless: required properties, items below ``minItems``, every
    branch of ``allOf``; of ``anyOf``, ``oneOf`` and several types one that ends is enough. Each
    reference is followed once a round, and rounds go on while they find more that ends; names are
    looked for once in all, so that the work grows as the schema does.
    """
    known: set[int] = set()
    places = Places()
    for _ in range(_ROUNDS_MAX):
        before = len(known)
        try:
            if _ends(schema, root, places, known, set()):
                return True
        except RecursionError:
            return False
        if len(known) == before:
            return False
    return False


def _ends(schema: Any, root: Any, places: Places, known: set[int], tried: set[int]) -> bool:
    if not isinstance(schema, dict):
        return True

    def each(one: Any) -> bool:
        return _ends(one, root, places, known, tried)

    place = places.follow(schema.get("$ref"), root)
    if place is not None and id(place.value) not in known:
        mark = id(place.value)
        if mark in tried:
            return False
        tried.add(mark)
        if not _ends(place.value, place.root, places, known, tried):
            return False
        known.add(mark)
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
        count = int(schema["minItems"])
        first = list(schema.get("prefixItems", ()))[:count]
        return [*first, schema.get("items", True)] if count > len(first) else first
    return []
