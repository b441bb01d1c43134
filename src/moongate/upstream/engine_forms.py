"""A schema as a choice of plain forms: one kind each, without references or combinators.

``$ref``, ``allOf``, ``anyOf``, ``oneOf`` and lists of types are worked out one level deep, so
that whoever writes a grammar sees ``{"type": "object", ...}`` and nothing else. Every instance of
a form is an instance of its schema; not every instance has a form: a schema that names no type
but rules properties comes out as an object. What cannot be worked out raises :class:`Unplain`.
"""

import itertools
from collections.abc import Mapping
from typing import Any, Final

from moongate.core.sealed import Sealed
from moongate.wire.schema.instance import Instance
from moongate.wire.schema.pointer import follow

_FORMS_MAX: Final = 128
_OF_KIND: Final = {
    "object": (
        "properties required additionalProperties patternProperties minProperties maxProperties"
    ),
    "array": "items prefixItems minItems maxItems",
    "string": "minLength maxLength pattern format",
    "number": "minimum maximum exclusiveMinimum exclusiveMaximum multipleOf",
}
_KINDS: Final = {word: kind for kind, words in _OF_KIND.items() for word in words.split()}
_WORDS: Final = frozenset(_KINDS)
_LEAST: Final = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_MOST: Final = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_BEYOND: Final = (
    "not if then else contains minContains maxContains propertyNames dependentRequired "
    "dependentSchemas unevaluatedItems unevaluatedProperties $dynamicRef additionalItems"
)
_ENGINES: Final = frozenset(_BEYOND.split())
"""Words that the engine must judge; none of them has a form here."""


class Unplain(Exception):
    """The schema has no plain forms that we can tell; the engine may still hold it."""


class Form(Sealed, frozen=True):
    """``kind`` is a type, ``any``, or ``values`` with the ``values`` to choose from."""

    kind: str
    words: dict[str, Any] = {}
    values: tuple[Any, ...] = ()


class Forms:
    """The forms of the parts of one schema, remembered by part."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._known: dict[int, tuple[Any, tuple[Form, ...]]] = {}
        self.instance = Instance(root)

    def of(self, schema: Any) -> tuple[Form, ...]:
        """The forms of a part of the schema; none where it has no instance. Raises Unplain."""
        known = self._known.get(id(schema))
        if known is None:
            known = (schema, tuple(self._of(schema, frozenset())))
            self._known[id(schema)] = known  # keeps the part alive, and its id with it
        return known[1]

    def _of(self, schema: Any, seen: frozenset[str]) -> list[Form]:
        if schema is True:
            return [Form("any")]
        if schema is False:
            return []
        if not isinstance(schema, dict) or _ENGINES & schema.keys():
            raise Unplain
        if "$id" in schema and schema is not self._root:
            raise Unplain  # its references start elsewhere
        found = self._all(self._parts(schema, seen))
        return [kept for form in found if (kept := self._kept(form, schema)) is not None]

    def _parts(self, schema: Mapping[str, Any], seen: frozenset[str]) -> list[list[Form]]:
        """The forms of each thing that the schema asks for at once."""
        parts = [self._own(schema)]
        target = schema.get("$ref")
        if isinstance(target, str):
            # A reference that leads back to itself without a step inside adds no form.
            again = seen | {target}
            parts.append([] if target in seen else self._of(self._target(target), again))
        parts += [self._of(each, seen) for each in schema.get("allOf", ())]
        for word in ("anyOf", "oneOf"):
            if word in schema:
                parts.append([form for each in schema[word] for form in self._of(each, seen)])
        return parts

    def _target(self, target: str) -> Any:
        place = follow(target, self._root)
        if place is None or place.root is not self._root:
            raise Unplain
        return place.value

    def _own(self, schema: Mapping[str, Any]) -> list[Form]:
        """The forms by the schema's own words, without its combinators."""
        if "const" in schema:
            return [Form("values", values=(schema["const"],))]
        if "enum" in schema:
            return [Form("values", values=tuple(schema["enum"]))]
        words = {word: schema[word] for word in _WORDS & schema.keys()}
        named = schema.get("type")
        kinds = [named] if isinstance(named, str) else named
        if kinds is None:
            implied = {_KINDS[word] for word in words}
            kinds = sorted(implied) or ["any"]
        return [Form(kind, _of_kind(kind, words)) for kind in kinds]

    def _all(self, parts: list[list[Form]]) -> list[Form]:
        """What holds for every part at once."""
        found = parts[0]
        for part in parts[1:]:
            if len(found) * len(part) > _FORMS_MAX:
                raise Unplain
            pairs = itertools.product(found, part)
            found = [both for one, two in pairs if (both := _both(one, two)) is not None]
        return found

    def _kept(self, form: Form, schema: Any) -> Form | None:
        if form.kind != "values":
            return form
        holds = self.instance.part_holds
        values = tuple(value for value in form.values if holds(schema, value))
        return Form("values", values=values) if values else None


def _of_kind(kind: str, words: Mapping[str, Any]) -> dict[str, Any]:
    mine = "number" if kind == "integer" else kind
    return {word: rule for word, rule in words.items() if mine in ("any", _KINDS[word])}


def _both(one: Form, two: Form) -> Form | None:
    """What is an instance of both forms, or ``None``; values are checked by the caller."""
    if one.kind == "values" or two.kind == "values":
        valued = one if one.kind == "values" else two
        other = two if valued is one else one
        if other.kind == "values":
            return Form("values", values=tuple(v for v in one.values if v in other.values))
        return valued
    kinds = {one.kind, two.kind} - {"any"}
    if kinds == {"integer", "number"}:
        kinds = {"integer"}
    if len(kinds) > 1:
        return None
    kind = kinds.pop() if kinds else "any"
    return Form(kind, _of_kind(kind, _joined(one.words, two.words)))


def _joined(one: Mapping[str, Any], two: Mapping[str, Any]) -> dict[str, Any]:
    out = {**one, **two}
    for word in one.keys() & two.keys():
        a, b = one[word], two[word]
        if a == b:
            continue
        if word in _LEAST or word in _MOST:
            out[word] = max(a, b) if word in _LEAST else min(a, b)
        elif word == "required":
            out[word] = list(dict.fromkeys([*a, *b]))
        elif word == "items":
            out[word] = {"allOf": [a, b]}
        elif word not in ("properties", "additionalProperties"):
            raise Unplain
    for a, b in ((one, two), (two, one)):
        if "prefixItems" in a and "items" in b:
            raise Unplain
        if "patternProperties" in a and b.keys() & {"properties", "additionalProperties"}:
            raise Unplain
    if out.keys() & {"properties", "additionalProperties"}:
        out |= _joined_properties(one, two)
    return out


def _joined_properties(one: Mapping[str, Any], two: Mapping[str, Any]) -> dict[str, Any]:
    """Properties of both: one that only one side names is, to the other, an additional one."""
    sides = [(s.get("properties", {}), s.get("additionalProperties", True)) for s in (one, two)]
    names = dict.fromkeys(name for named, _ in sides for name in named)
    rest = _meet([more for _, more in sides])
    properties = {name: _meet([named.get(name, more) for named, more in sides]) for name in names}
    return {"properties": properties, "additionalProperties": rest}


def _meet(schemas: list[Any]) -> Any:
    if any(schema is False for schema in schemas):
        return False
    real = [schema for schema in schemas if schema is not True]
    if not real:
        return True
    return real[0] if len(real) == 1 else {"allOf": real}
