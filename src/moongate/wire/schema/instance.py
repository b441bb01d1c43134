"""Whether a JSON value is an instance of a schema, in bounded work.

A schema is compiled once into plain functions. A budget of steps ends what is large: a limit of
time would refuse good answers when the machine is busy. This module refuses to know requests.
"""

from graphlib import CycleError, TopologicalSorter
from typing import Any, Final

from moongate.wire.schema.keywords import KEYWORDS, REFUSED
from moongate.wire.schema.pattern import PATTERN_CHARS, PATTERN_CHARS_MAX, Pattern
from moongate.wire.schema.pointer import resource
from moongate.wire.schema.words import Check, Run, TooLong, Unsupported, Word

STEPS_MAX: Final = 400_000
"""Of one check: a quarter of a second at most, which is for a thread beside the event loop."""


class Instance:
    """A compiled schema, for one thread at a time. Raises Unsupported."""

    pattern_chars = 0
    """What its patterns come to: compiling them takes most of the time."""

    def __init__(self, schema: Any) -> None:
        self._schema = schema  # kept alive: its parts are known by their ids
        self._checks: dict[int, Check] = {}
        self._same: dict[int, set[int]] = {}
        self._patterns: dict[str, Pattern] = {}
        try:
            self._check = self._compile(schema, schema, None)
        except RecursionError:
            raise Unsupported("schema") from None
        try:
            TopologicalSorter(self._same).prepare()
        except CycleError:
            # It comes back to itself without going into the value: no check of it would end.
            raise Unsupported("$ref") from None

    def holds(self, value: Any, steps: int = STEPS_MAX) -> bool:
        """Whether ``value`` is an instance; what cannot be told in so many steps is none."""
        try:
            return self._check(value, Run(steps))
        except (RecursionError, TooLong):
            return False

    def part_holds(self, part: Any, value: Any, steps: int = STEPS_MAX) -> bool:
        """Whether ``value`` is an instance of a part of the schema, or of what refers to parts.

        The caller keeps ``part`` alive. Raises Unsupported.
        """
        try:
            return self._compile(part, self._schema, None)(value, Run(steps))
        except (RecursionError, TooLong):
            return False

    def pattern(self, text: str) -> Pattern:
        """``text`` as a pattern, compiled once. Raises ValueError when it is not safe to run."""
        if text not in self._patterns:
            self.pattern_chars += PATTERN_CHARS + len(text)
            if self.pattern_chars > PATTERN_CHARS_MAX:
                raise ValueError("too many patterns")
            self._patterns[text] = Pattern(text)
        return self._patterns[text]

    def _compile(self, schema: Any, root: Any, around: Any) -> Check:
        if isinstance(schema, bool):
            return _passes if schema else _fails
        if not isinstance(schema, dict):
            raise Unsupported("schema")
        mark = id(schema)
        if around is not None:
            self._same.setdefault(id(around), set()).add(mark)
        if mark not in self._checks:

            def later(value: Any, run: Run) -> bool:  # for what refers to it from within
                return self._checks[mark](value, run)

            self._checks[mark] = later
            self._checks[mark] = self._all(schema, resource(schema, root))
        return self._checks[mark]

    def _all(self, schema: dict[str, Any], root: Any) -> Check:
        checks: list[Check] = []
        for name in schema:
            if name in REFUSED:
                raise Unsupported(name)
            if name in KEYWORDS:
                check = KEYWORDS[name](Word(name, schema, root, self._compile, self.pattern))
                if check is not None:
                    checks.append(check)

        def every(value: Any, run: Run) -> bool:
            run.spend()
            for check in checks:  # noqa: SIM110 - the busiest loop of all: no generator in it
                if not check(value, run):
                    return False
            return True

        return every


def _passes(value: Any, run: Run) -> bool:  # noqa: ARG001 - checks have one form
    run.spend()  # a long list of anything is walked as well
    return True


def _fails(value: Any, run: Run) -> bool:  # noqa: ARG001 - as above
    return False
