"""The keywords of JSON Schema (Draft 2020-12) that an answer is held to, one function each.

``format`` is an annotation, as the draft says, and so is every word that is on neither list here.
"""

from collections.abc import Callable, Sized
from fractions import Fraction
from typing import Any, Final

from moongate.wire.schema.words import (
    TYPES,
    Check,
    Run,
    Unsupported,
    Word,
    is_number,
    key,
)

_PATTERN_STEPS: Final = 40
_KEY_STEPS: Final = 1 << 20
"""For values of a schema, whose size is bounded before."""


def _type(word: Word) -> Check:
    names = word.names([word.rule] if isinstance(word.rule, str) else word.rule)
    if not names or not TYPES.keys() >= names:
        raise word.wrong()
    kinds = [TYPES[name] for name in names]
    if len(kinds) == 1:
        only = kinds[0]
        return lambda value, _: only(value)
    return lambda value, _: any(kind(value) for kind in kinds)


def _enum(word: Word) -> Check:
    return _one_of(word.list())


def _const(word: Word) -> Check:
    return _one_of([word.rule])


def _one_of(values: list[Any]) -> Check:
    allowed = {key(value, Run(_KEY_STEPS)) for value in values}
    kinds = tuple({type(value) for value in values} | {int, float})
    return lambda value, run: isinstance(value, kinds) and key(value, run) in allowed


def _ref(word: Word) -> Check:
    check, mark = word.target()

    def there(value: Any, run: Run) -> bool:
        at = (mark, id(value))  # once for each value: references that fork cost no more for it
        if at not in run.seen:
            run.seen[at] = check(value, run)
        return run.seen[at]

    return there


def _all_of(word: Word) -> Check:
    checks = [word.here(schema) for schema in word.list()]
    return lambda value, run: all(check(value, run) for check in checks)


def _any_of(word: Word) -> Check:
    checks = [word.here(schema) for schema in word.list()]
    return lambda value, run: any(check(value, run) for check in checks)


def _exactly_one_of(word: Word) -> Check:
    checks = [word.here(schema) for schema in word.list()]
    return lambda value, run: sum(check(value, run) for check in checks) == 1


def _not(word: Word) -> Check:
    check = word.here(word.rule)
    return lambda value, run: not check(value, run)


def _if(word: Word) -> Check:
    check = word.here(word.rule)
    then, other = (word.here(word.schema.get(name, True)) for name in ("then", "else"))
    return lambda value, run: (then if check(value, run) else other)(value, run)


def _properties(word: Word) -> Check:
    checks = {name: word.inside(schema) for name, schema in word.table().items()}

    def check(value: Any, run: Run) -> bool:
        if not isinstance(value, dict):
            return True
        return all(checks[name](value[name], run) for name in checks.keys() & value.keys())

    return check


def _pattern_properties(word: Word) -> Check:
    checks = [(word.pattern(text), word.inside(schema)) for text, schema in word.table().items()]

    def check(value: Any, run: Run) -> bool:
        if not isinstance(value, dict):
            return True
        run.spend(len(value) * len(checks) * _PATTERN_STEPS)
        return all(
            check(inner, run)
            for name, inner in value.items()
            for pattern, check in checks
            if pattern.found_in(name)
        )

    return check


def _additional_properties(word: Word) -> Check:
    check, named = word.inside(word.rule), word.beside("properties", dict, {})
    patterns = [word.pattern(text) for text in word.beside("patternProperties", dict, {})]

    def rest(value: Any, run: Run) -> bool:
        if not isinstance(value, dict):
            return True
        run.spend(len(value) * len(patterns) * _PATTERN_STEPS)
        return all(
            check(inner, run)
            for name, inner in value.items()
            if name not in named and not any(pattern.found_in(name) for pattern in patterns)
        )

    return rest


def _property_names(word: Word) -> Check:
    check = word.inside(word.rule)
    return lambda value, run: not isinstance(value, dict) or all(check(n, run) for n in value)


def _required(word: Word) -> Check:
    names = word.names(word.rule)
    return lambda value, _: not isinstance(value, dict) or value.keys() >= names


def _dependent_required(word: Word) -> Check:
    needs = {name: word.names(rule) for name, rule in word.table().items()}
    return lambda value, _: (
        not isinstance(value, dict)
        or all(value.keys() >= names for name, names in needs.items() if name in value)
    )


def _dependent_schemas(word: Word) -> Check:
    checks = {name: word.here(schema) for name, schema in word.table().items()}
    return lambda value, run: (
        not isinstance(value, dict)
        or all(check(value, run) for name, check in checks.items() if name in value)
    )


def _prefix_items(word: Word) -> Check:
    checks = [word.inside(schema) for schema in word.list()]
    return lambda value, run: (
        not isinstance(value, list)
        or all(check(inner, run) for check, inner in zip(checks, value, strict=False))
    )


def _items(word: Word) -> Check:
    check, skipped = word.inside(word.rule), len(word.beside("prefixItems", list, []))
    return lambda value, run: (
        not isinstance(value, list) or all(check(inner, run) for inner in value[skipped:])
    )


def _contains(word: Word) -> Check:
    check = word.inside(word.rule)
    least = word.schema.get("minContains", 1)
    most = word.schema.get("maxContains", float("inf"))
    for name, bound in (("minContains", least), ("maxContains", most)):
        if not is_number(bound) or bound < 0:
            raise Unsupported(name)
    return lambda value, run: (
        not isinstance(value, list) or (least <= sum(check(inner, run) for inner in value) <= most)
    )


def _unique_items(word: Word) -> Check | None:
    if not isinstance(word.rule, bool):
        raise word.wrong()
    if not word.rule:
        return None
    return lambda value, run: (
        not isinstance(value, list) or (len({key(inner, run) for inner in value}) == len(value))
    )


def _pattern(word: Word) -> Check:
    pattern = word.pattern(word.rule)

    def check(value: Any, run: Run) -> bool:
        if not isinstance(value, str):
            return True
        run.spend(_PATTERN_STEPS + len(value))
        return pattern.found_in(value)

    return check


def _size(kind: type[Sized], *, most: bool) -> Callable[[Word], Check]:
    """A bound on the length of a string, a list or an object."""

    def make(word: Word) -> Check:
        bound = word.count()
        if most:
            return lambda value, _: not isinstance(value, kind) or len(value) <= bound
        return lambda value, _: not isinstance(value, kind) or len(value) >= bound

    return make


def _minimum(word: Word) -> Check:
    bound = word.number()
    return lambda value, _: not is_number(value) or value >= bound


def _maximum(word: Word) -> Check:
    bound = word.number()
    return lambda value, _: not is_number(value) or value <= bound


def _over(word: Word) -> Check:
    bound = word.number()
    return lambda value, _: not is_number(value) or value > bound


def _under(word: Word) -> Check:
    bound = word.number()
    return lambda value, _: not is_number(value) or value < bound


def _multiple_of(word: Word) -> Check:
    if word.number() <= 0:
        raise word.wrong()
    step = Fraction(str(word.number()))
    # By the decimal digits, as people mean it: 0.3 is a multiple of 0.1.
    return lambda value, _: not is_number(value) or (Fraction(str(value)) / step).denominator == 1


KEYWORDS: Final[dict[str, Callable[[Word], Check | None]]] = {
    "$ref": _ref,
    "additionalProperties": _additional_properties,
    "allOf": _all_of,
    "anyOf": _any_of,
    "const": _const,
    "contains": _contains,
    "dependentRequired": _dependent_required,
    "dependentSchemas": _dependent_schemas,
    "enum": _enum,
    "exclusiveMaximum": _under,
    "exclusiveMinimum": _over,
    "if": _if,
    "items": _items,
    "maxItems": _size(list, most=True),
    "maxLength": _size(str, most=True),
    "maxProperties": _size(dict, most=True),
    "maximum": _maximum,
    "minItems": _size(list, most=False),
    "minLength": _size(str, most=False),
    "minProperties": _size(dict, most=False),
    "minimum": _minimum,
    "multipleOf": _multiple_of,
    "not": _not,
    "oneOf": _exactly_one_of,
    "pattern": _pattern,
    "patternProperties": _pattern_properties,
    "prefixItems": _prefix_items,
    "properties": _properties,
    "propertyNames": _property_names,
    "required": _required,
    "type": _type,
    "uniqueItems": _unique_items,
}
"""Read with their neighbours: ``then`` and ``else`` (if), ``minContains`` and ``maxContains``."""

REFUSED: Final = frozenset(
    {"$dynamicRef", "$recursiveRef", "additionalItems", "dependencies"}
    | {"unevaluatedItems", "unevaluatedProperties"}
)
"""Words that rule what an instance is, in this draft or an older one, and are not checked here."""
