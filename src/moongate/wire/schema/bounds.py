"""How large a schema may be, seen before anything is made of it.

Whoever compiles a schema (we, or the engine that constrains) writes its references out, so that is
how nodes are counted; a reference back to where it stands is not written out. The walks end as soon
as a bound is met, so a schema made to be huge costs no more than one at the bound.
"""

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from moongate.wire.schema.pointer import follow, resource
from moongate.wire.schema.words import Unsupported

BYTES_MAX: Final = 65_536
NODES_MAX: Final = 500
DEPTH_MAX: Final = 16
ENUM_VALUES_MAX: Final = 1000
VALUES_A_NODE: Final = 200
"""Looking at so many values for a name takes as long as a node."""

_ONE: Final = (
    *("additionalItems", "additionalProperties", "contains", "else", "if", "items", "not"),
    *("propertyNames", "then", "unevaluatedItems", "unevaluatedProperties"),
)
_LISTS: Final = ("allOf", "anyOf", "items", "oneOf", "prefixItems")
_TABLES: Final = ("dependencies", "dependentSchemas", "patternProperties", "properties")
_VALUES: Final = frozenset({"const", "default", "enum", "examples"})
_REFERENCES: Final = ("$ref", "$dynamicRef", "$recursiveRef")


def weigh(schema: Any) -> int:
    """The nodes of ``schema``. Raises Unsupported when it is too large or looks outside itself."""
    return _count_nodes(schema, _weigh_text(schema))


def _weigh_text(schema: Any) -> int:
    """How many values there are in it.

    Bytes, values of enums, and references to other documents are judged, wherever they stand.

    ``size`` is a lower bound of the bytes, until it is known that they may fit.
    """
    size = enums = values = 0
    left: list[tuple[Any, bool]] = [(schema, False)]
    while left and size <= BYTES_MAX:
        value, plain = left.pop()
        values += 1
        if isinstance(value, dict):
            size += 2 + 4 * len(value)
            if not plain:
                enums += len(value["enum"]) if isinstance(value.get("enum"), list) else 0
                if any(_outside(value.get(name)) for name in _REFERENCES):
                    raise Unsupported("$ref")
            if size <= BYTES_MAX:
                size += sum(map(len, value))
                left += [(each, plain or name in _VALUES) for name, each in value.items()]
        elif isinstance(value, list):
            size += 1 + len(value)
            if size <= BYTES_MAX:
                left += [(each, plain) for each in value]
        else:
            size += len(value) + 1 if isinstance(value, str) else 0
    if size > BYTES_MAX or len(msgspec.json.encode(schema)) > BYTES_MAX:
        raise Unsupported(f"size over {BYTES_MAX} bytes")
    if enums > ENUM_VALUES_MAX:
        raise Unsupported(f"enum over {ENUM_VALUES_MAX} values")
    return values


def _outside(reference: Any) -> bool:
    return isinstance(reference, str) and not reference.startswith("#")


def _by_name(reference: Any) -> bool:
    return isinstance(reference, str) and reference[1:2] not in ("", "/")


def _count_nodes(schema: Any, values: int) -> int:
    """Schemas within schemas, with references written out.

    A name (``$anchor``) is looked for among all ``values``, which counts as nodes too.
    """
    nodes = 0
    left: list[tuple[Any, Any, int, frozenset[int]]] = [(schema, schema, 1, frozenset())]
    while left:
        node, root, depth, above = left.pop()
        nodes += 1
        if nodes > NODES_MAX:
            raise Unsupported(f"nodes over {NODES_MAX}")
        if depth > DEPTH_MAX:
            raise Unsupported(f"depth over {DEPTH_MAX}")
        if not isinstance(node, dict):
            continue
        root = resource(node, root)
        above |= {id(node)}
        left += [(inner, root, depth + 1, above) for inner in _inner(node)]
        nodes += sum(_by_name(node.get(name)) for name in _REFERENCES) * (values // VALUES_A_NODE)
        if nodes > NODES_MAX:
            raise Unsupported(f"nodes over {NODES_MAX}")
        for name in _REFERENCES:
            place = follow(node.get(name), root)
            if place is not None and id(place.value) not in above:
                left.append((place.value, place.root, depth, above))
    return nodes


def _inner(node: dict[str, Any]) -> Iterator[Any]:
    """The schemas in ``node``; definitions count where something refers to them."""
    for name in _ONE:
        if isinstance(node.get(name), dict):
            yield node[name]
    for name in _LISTS:
        if isinstance(node.get(name), list):
            yield from node[name]
    for name in _TABLES:
        if isinstance(node.get(name), dict):
            yield from node[name].values()
