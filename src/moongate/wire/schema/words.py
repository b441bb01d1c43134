"""What the functions of the keywords share: a keyword where it stands, one run, JSON's equality."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from moongate.wire.schema.pattern import Pattern
from moongate.wire.schema.pointer import Place, follow


class Unsupported(ValueError):
    """``keyword`` is what no answer can be held to, or is not what the draft says it is."""

    def __init__(self, keyword: str) -> None:
        super().__init__(keyword)
        self.keyword = keyword


class TooLong(Exception):
    """A check took more steps than it may."""


class Run:
    """One check of one value: the steps left, and what references have come to."""

    __slots__ = ("left", "seen")

    def __init__(self, steps: int) -> None:
        self.left = steps
        self.seen: dict[tuple[int, int], bool] = {}

    def spend(self, steps: int = 1) -> None:
        """Raises TooLong when no step is left."""
        self.left -= steps
        if self.left < 0:
            raise TooLong


Check = Callable[[Any, Run], bool]
"""From a value to whether it passes. One of a type that the keyword does not speak of passes."""

Compile = Callable[[Any, Any, Any], Check]
"""From a schema, its document and the schema around it, if both see the same value."""


class Word:
    """A keyword where it stands: its ``name``, its ``rule``, and the ``schema`` around it.

    ``root`` is the document that its references start from. Raises Unsupported where the rule is
    not what the draft says.
    """

    def __init__(
        self,
        name: str,
        schema: Mapping[str, Any],
        root: Any,
        compile: Compile,
        pattern: Callable[[str], Pattern],
    ) -> None:
        self.name, self.schema, self.rule, self.root = name, schema, schema[name], root
        self._compile, self._pattern = compile, pattern

    def wrong(self) -> Unsupported:
        """The complaint that names this keyword."""
        return Unsupported(self.name)

    def here(self, schema: Any) -> Check:
        """The check of a schema that sees the same value."""
        return self._compile(schema, self.root, self.schema)

    def inside(self, schema: Any) -> Check:
        """The check of a schema that sees a part of the value."""
        return self._compile(schema, self.root, None)

    def target(self) -> tuple[Check, int]:
        """The check of what the rule refers to, and a mark of that place."""
        place: Place | None = follow(self.rule, self.root)
        if place is None:
            raise self.wrong()
        return self._compile(place.value, place.root, self.schema), id(place.value)

    def list(self) -> list[Any]:
        """The rule as a list that is not empty."""
        if not isinstance(self.rule, list) or not self.rule:
            raise self.wrong()
        return self.rule

    def table(self) -> dict[str, Any]:
        if not isinstance(self.rule, dict):
            raise self.wrong()
        return self.rule

    def names(self, rule: Any) -> frozenset[str]:
        """``rule`` as names."""
        if not isinstance(rule, list) or not all(isinstance(name, str) for name in rule):
            raise self.wrong()
        return frozenset(rule)

    def pattern(self, text: Any) -> Pattern:
        """``text`` as a pattern that is safe to run."""
        try:
            return self._pattern(text)
        except (TypeError, ValueError):
            raise self.wrong() from None

    def number(self) -> int | float:
        if not is_number(self.rule):
            raise self.wrong()
        number: int | float = self.rule
        return number

    def count(self) -> int:
        """The rule as a whole number that is not negative."""
        if not is_integer(self.rule) or self.rule < 0:
            raise self.wrong()
        return int(self.rule)

    def beside(self, name: str, kind: type, default: Any) -> Any:
        """What stands beside under ``name``, as far as it is of that kind."""
        found = self.schema.get(name, default)
        return found if isinstance(found, kind) else default


def is_number(value: Any) -> bool:
    """Whether ``value`` is a number to JSON."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_integer(value: Any) -> bool:
    """Whether ``value`` has no fraction: 1.0 has none."""
    return is_number(value) and (isinstance(value, int) or value.is_integer())


TYPES: Final[dict[str, Callable[[Any], bool]]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "number": is_number,
    "integer": is_integer,
    "string": lambda value: isinstance(value, str),
}


def key(value: Any, run: Run) -> Any:
    """``value`` as something hashable; equal keys are equal values: 1 is 1.0 and not true."""
    run.spend()
    if isinstance(value, bool):
        return (bool, value)
    if isinstance(value, list):
        return (list, tuple(key(each, run) for each in value))
    if isinstance(value, dict):
        return (dict, frozenset((name, key(each, run)) for name, each in value.items()))
    return value
