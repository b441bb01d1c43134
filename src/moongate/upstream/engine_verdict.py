"""A second look at the engine's JSON, by another library than the one that constrained it.

Patterns alone are judged by the engine's matcher: Python's could be made to run for ever.
"""

from collections.abc import Iterator
from typing import Any, Final

from jsonschema.exceptions import ValidationError
from jsonschema.validators import Draft202012Validator, extend
from referencing import Registry

from moongate.wire.schema.pattern import Pattern


def _pattern(_validator: Any, rule: Any, value: Any, _schema: Any) -> Iterator[Any]:
    if isinstance(value, str) and not Pattern(rule).found_in(value):
        yield ValidationError("pattern")


def _pattern_properties(validator: Any, rule: Any, value: Any, _schema: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for pattern, schema in rule.items():
            found = Pattern(pattern).found_in
            for name, one in value.items():
                if found(name):
                    yield from validator.descend(one, schema)


def _additional(validator: Any, rule: Any, value: Any, schema: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        named = schema.get("properties", {})
        patterns = [Pattern(each) for each in schema.get("patternProperties", ())]
        for name, one in value.items():
            ruled = name in named or any(pattern.found_in(name) for pattern in patterns)
            if not ruled:
                yield from validator.descend(one, rule)


_Validator: Final = extend(  # type: ignore[no-untyped-call]  # its stubs say nothing of it
    Draft202012Validator,
    {
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": _additional,
    },
)


def validator(schema: Any) -> Any:
    """A jsonschema validator of ``schema`` that fetches nothing and takes linear time."""
    return _Validator(schema, registry=Registry())
