"""The gate: every schema of a request passes it before any work is done with it.

All are held to the bounds. What a client asks to be held to exactly (a tool with ``strict: true``,
a ``json_schema`` format unless ``strict: false``) is refused where no answer could be held to it;
of the rest a valid object is promised, or the schema where it can be held to (:func:`instance`), so
a schema that only other types fit is refused.
"""

from typing import Any, Final

from moongate.core.errors import Refused
from moongate.wire.schema.bounds import weigh
from moongate.wire.schema.ends import ends
from moongate.wire.schema.instance import Instance
from moongate.wire.schema.pattern import PATTERN_CHARS_MAX
from moongate.wire.schema.words import TYPES, Unsupported

OBJECT: Final[dict[str, Any]] = {"type": "object"}
NODES_MAX: Final = 5000
"""Of all schemas of one request together."""


class Gate:
    """The gate of one request. Both ways through raise Refused ``unsupported_schema``."""

    def __init__(self) -> None:
        self._nodes = self._pattern_chars = 0

    def tool(self, schema: Any, path: str, *, strict: bool | None) -> None:
        """Let a tool's parameters through, which stand at ``path``."""
        self._check(schema, path, exact=strict is True, only_object=True)

    def format(self, schema: Any, path: str, *, strict: bool | None) -> None:
        """Let an answer's schema through, which stands at ``path``."""
        self._check(schema, path, exact=strict is not False, only_object=False)

    def _check(self, schema: Any, path: str, *, exact: bool, only_object: bool) -> None:
        try:
            self._nodes += weigh(schema)
            keyword = self._unheld(schema) if exact else None
            if keyword is None and (only_object or not exact) and _never_object(schema):
                keyword = "type"  # what is promised is an object
        except Unsupported as error:
            keyword = error.keyword
        if self._nodes > NODES_MAX:
            keyword = f"nodes over {NODES_MAX} in all"
        if keyword is not None:
            raise Refused("unsupported_schema", path, keyword=keyword)

    def _unheld(self, schema: Any) -> str | None:
        """The keyword by which no answer could be held to it. Raises Unsupported as well."""
        self._pattern_chars += Instance(schema).pattern_chars
        if self._pattern_chars > PATTERN_CHARS_MAX:
            return "pattern"
        return None if ends(schema, schema) else "$ref"


def _never_object(schema: Any) -> bool:
    """Whether the types that ``schema`` names leave no room for an object."""
    named = schema.get("type", "object")
    kinds = [named] if isinstance(named, str) else named
    known = isinstance(kinds, list) and all(isinstance(k, str) and k in TYPES for k in kinds)
    return known and bool(kinds) and "object" not in kinds


def instance(schema: Any) -> Instance | None:
    """What a value can be held to; ``None`` where ``schema`` is not one that we can hold to."""
    try:
        made = Instance(schema)
    except Unsupported:
        return None
    return made if ends(schema, schema) else None
