"""Local references of JSON Schema: ``#``, ``#/…`` and ``#name``, found without fetching anything.

Another document is never looked at: what an address names is no place here.
"""

from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import msgspec


class Place(msgspec.Struct, frozen=True):
    """What a reference leads to, and the document that references in there start from."""

    value: Any
    root: Any


def resource(schema: Any, root: Any) -> Any:
    """The document that references in ``schema`` start from: a schema with an ``$id`` is one."""
    name = schema.get("$id") if isinstance(schema, dict) else None
    return schema if isinstance(name, str) and not name.startswith("#") else root


def follow(reference: Any, root: Any) -> Place | None:
    """Where ``reference`` leads to in ``root``; ``None`` where that is no place in it."""
    return Places().follow(reference, root)


class Places:
    """Follows many references: each document is walked once for the names in it.

    The caller keeps the documents alive and as they are.
    """

    def __init__(self) -> None:
        self._named: dict[int, dict[str, Place]] = {}

    def follow(self, reference: Any, root: Any) -> Place | None:
        """As the function :func:`follow`."""
        if not isinstance(reference, str) or not reference.startswith("#"):
            return None
        if reference[1:2] in ("", "/"):
            return _pointed(reference, root)
        if id(root) not in self._named:
            names: dict[str, Place] = {}
            for place in _anchors(root, root):
                names.setdefault(place.value["$anchor"], place)
            self._named[id(root)] = names
        return self._named[id(root)].get(reference[1:])


def _pointed(reference: str, root: Any) -> Place | None:
    """Where a pointer leads to."""
    value = root
    for step in reference[1:].split("/")[1:]:
        name = unquote(step).replace("~1", "/").replace("~0", "~")
        if isinstance(value, list) and name.isdecimal() and int(name) < len(value):
            value = value[int(name)]
        elif isinstance(value, dict) and name in value:
            value = value[name]
        else:
            return None
        root = resource(value, root)
    return Place(value, root)


def _anchors(value: Any, root: Any) -> Iterator[Place]:
    """The places in ``value`` with an ``$anchor``; other documents in there do not count."""
    if isinstance(value, dict) and isinstance(value.get("$anchor"), str):
        yield Place(value, root)
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            if resource(inner, root) is root:
                yield from _anchors(inner, root)
