"""How the tokens of an answer are shared among its parts.

:meth:`Sizes.form` tells what a form takes at least (a short text counts eight tokens), as a bound
for the worst case; what is left after that goes in equal shares to the parts that can use it.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from llguidance import LLMatcher

from moongate.core.sealed import Sealed
from moongate.upstream import engine_lark as lark
from moongate.upstream.engine_forms import Form, Forms, Unplain
from moongate.upstream.engine_numbers import number_choice
from moongate.upstream.engine_texts import ruled
from moongate.wire.schema.pattern import Pattern

ENDLESS: Final = 10**9
ITEMS_MAX: Final = 8
SCALAR: Final = {"type": ["string", "number", "boolean", "null"]}
_RECORD: Final = {"type": "object", "additionalProperties": SCALAR, "minProperties": 1}
_SCALARS: Final = tuple(Form(kind) for kind in SCALAR["type"])
_CONTAINERS: Final = (
    Form("array", {"items": {"anyOf": [SCALAR, _RECORD]}}),
    Form("object", {"additionalProperties": SCALAR, "minProperties": 1}),
)
_CONTAINER_TOKENS: Final = 60
_COUNTED: Final = ("Length", "Items", "Properties")
_TEXT: Final = 6
_DEPTH_MAX: Final = 64
_LENGTHS: Final = (0, 1, 2, 4, 8, 12, 16, 20, 24, 32, 40, 64, 128, 256)


def any_forms(tokens: int) -> tuple[Form, ...]:
    """What stands for a value of any kind."""
    return _SCALARS + (_CONTAINERS if tokens >= _CONTAINER_TOKENS else ())


class Part(Sealed, frozen=True):
    """A value of an object or a list: what stands before it, its schema, its share of tokens."""

    schema: Any
    must: bool = True
    head: str = ""
    tokens: int = 0


class Sizes:
    """Costs and shares within one schema."""

    def __init__(self, forms: Forms) -> None:
        self._forms = forms
        self._known: dict[tuple[int, int], int] = {}
        self._written: dict[str, int] = {}

    def form(self, form: Form, depth: int = 0) -> int:
        """What a form takes at least."""
        words = form.words
        if any(words.get(f"min{of}", 0) > words.get(f"max{of}", ENDLESS) for of in _COUNTED):
            return ENDLESS
        match form.kind:
            case "values":
                return min(lark.cost(lark.write(value)) for value in form.values)
            case "string":
                return 2 + self.written(form.words)
            case "number" | "integer":
                return self._number(form)
            case "array":
                return self._array(form.words, depth)
            case "object":
                return self._object(form.words, depth)
            case "any":
                return 2 + _TEXT
        return 3

    def least(self, schema: Any, depth: int = 0) -> int:
        """What a part takes at least; ``ENDLESS`` where it has no end or no instance."""
        if depth > _DEPTH_MAX:
            return ENDLESS
        key = (id(schema), depth)
        if key not in self._known:
            forms = self._forms.of(schema)
            self._known[key] = min((self.form(form, depth) for form in forms), default=ENDLESS)
        return self._known[key]

    def written(self, words: dict[str, Any]) -> int:
        """The characters that a string needs."""
        least = int(words.get("minLength", 0))
        most = int(words.get("maxLength", ENDLESS))
        if words.keys() & {"pattern", "format"}:
            text = lark.write(words)
            if text not in self._written:
                self._written[text] = _shortest(words, least, most)
            return self._written[text]
        return max(least, min(_TEXT, most))

    def pairs(self, words: dict[str, Any]) -> list[Part] | None:
        """The named pairs of an object; ``None`` where its names are all open."""
        named = words.get("properties", {})
        required = dict.fromkeys(words.get("required", ()))
        more = words.get("additionalProperties", True)
        patterns = [Pattern(each) for each in words.get("patternProperties", ())]
        if any(pattern.found_in(name) for pattern in patterns for name in (*named, *required)):
            raise Unplain  # two schemas rule one value
        names = [*named, *(name for name in required if name not in named)]
        if not names and (more is not False or patterns):
            return None
        least = words.get("minProperties", 0)
        musts = sum(name in required for name in names)
        parts = []
        for name in names:
            must = name in required
            schema = named.get(name, more)
            if not must and musts < least and self.least(schema) < ENDLESS:
                must, musts = True, musts + 1
            parts.append(Part(schema, must, f"{lark.write(name)}: "))
        while musts < least:
            musts += 1
            parts.append(Part(more, head=f"{lark.write(f'more_{musts}')}: "))
        return parts

    def entries(self, words: dict[str, Any]) -> list[Part]:
        """The items of a list whose first ones are ruled one by one."""
        least = words.get("minItems", 0)
        first = words["prefixItems"][: words.get("maxItems")]
        parts = [Part(schema, at < least) for at, schema in enumerate(first)]
        return parts + [Part(words.get("items", True))] * (least - len(parts))

    def shared(
        self, parts: Sequence[Part], tokens: int, *, ordered: bool = False, most: int | None = None
    ) -> list[Part]:
        """The parts that the tokens pay for, each with its share. ``ordered``: no gaps."""
        costs = [lark.cost(part.head) + 2 + self.least(part.schema) for part in parts]
        spent = 2 + sum(cost for cost, part in zip(costs, parts, strict=True) if part.must)
        room = (len(parts) if most is None else most) - sum(part.must for part in parts)
        kept = []
        for part, cost in zip(parts, costs, strict=True):
            if not part.must:
                if spent + cost > tokens or room < 1:
                    if ordered:
                        break
                    continue
                spent, room = spent + cost, room - 1
            kept.append(part)
        greedy = [part for part in kept if self._stretches(part.schema)]
        spare = tokens - spent
        out = []
        for part in kept:
            share = self.least(part.schema)
            if spare < 0:
                share = max(1, share + share * spare // spent)
            elif self._stretches(part.schema):
                share += spare // len(greedy)
            out.append(msgspec.structs.replace(part, tokens=share))
        return out

    def items(self, words: dict[str, Any], tokens: int) -> tuple[int, Part]:
        """How many items a list may have, and what each of them is."""
        schema = words.get("items", True)
        if not isinstance(schema, dict | bool):
            raise Unplain
        least, most = words.get("minItems", 0), words.get("maxItems", ENDLESS)
        return self._repeated(schema, 2, tokens, (least, min(most, max(least, ITEMS_MAX))))

    def free(
        self, words: dict[str, Any], tokens: int
    ) -> tuple[int, int, dict[str, Any] | None, Part]:
        """Of an object with open names: least and most pairs, the names' schema, the values."""
        least, most = words.get("minProperties", 0), words.get("maxProperties", ENDLESS)
        patterns = words.get("patternProperties")
        key = None
        if patterns:
            if len(patterns) > 1 or least > 1:
                raise Unplain
            (pattern, schema), most = next(iter(patterns.items())), min(most, 1)
            key = {"type": "string", "pattern": pattern}
            key["maxLength"] = max(lark.KEY_TOKENS, self.written(key))
        else:
            schema = words.get("additionalProperties", True)
        head = 6 + (key["maxLength"] if key else lark.KEY_TOKENS)
        range_ = (least, min(most, max(least, ITEMS_MAX)))
        count, part = self._repeated(schema, head, tokens, range_)
        return least, count, key, part

    def _repeated(
        self, schema: Any, head: int, tokens: int, limits: tuple[int, int]
    ) -> tuple[int, Part]:
        least, most = limits
        cost = head + self.least(schema)
        fit = (tokens - 2) // cost
        wanted = (tokens - 2) // (cost + 2 * _TEXT) if self._stretches(schema) else fit
        count = max(least, min(most, max(wanted, min(fit, 1))))
        share = (tokens - 2) // count - head if count else 0
        return count, Part(schema, tokens=max(1, share))

    def _number(self, form: Form) -> int:
        choice = number_choice(form.kind, form.words)
        texts = [len(text) for text in choice.texts]
        ends = [len(str(leaf[end])) for leaf in choice.leaves for end in ("minimum", "maximum")]
        return max([*texts, *(length + 3 for length in ends)], default=lark.NUMBER_TOKENS)

    def _array(self, words: dict[str, Any], depth: int) -> int:
        if "prefixItems" in words:
            musts = [part.schema for part in self.entries(words) if part.must]
            return min(ENDLESS, 2 + sum(2 + self.least(each, depth + 1) for each in musts))
        least = int(words.get("minItems", 0))
        if not least:
            return 2
        return min(ENDLESS, 2 + least * (2 + self.least(words.get("items", True), depth + 1)))

    def _object(self, words: dict[str, Any], depth: int) -> int:
        parts = self.pairs(words)
        if parts is None:
            least = int(words.get("minProperties", 0))
            if not least:
                return 2
            value = self.least(words.get("additionalProperties", True), depth + 1)
            return min(ENDLESS, 2 + least * (6 + lark.KEY_TOKENS + value))
        musts = [part for part in parts if part.must]
        if len(musts) > words.get("maxProperties", ENDLESS):
            return ENDLESS
        total = sum(lark.cost(p.head) + 2 + self.least(p.schema, depth + 1) for p in musts)
        return min(ENDLESS, 2 + total)

    def _stretches(self, schema: Any) -> bool:
        kinds = {form.kind for form in self._forms.of(schema)}
        return bool(kinds & {"any", "string", "array", "object"})


def _shortest(words: dict[str, Any], least: int, most: int) -> int:
    """The shortest length, of some, of which the engine finds a string."""
    for length in _LENGTHS:
        if least <= length <= most or length >= most:
            tried = {**ruled(words), "maxLength": min(length, most)}
            grammar = LLMatcher.grammar_from_json_schema(lark.write(tried))
            if not LLMatcher.validate_grammar_with_warnings(grammar)[0]:
                return max(_TEXT, min(length, most)) if most > _TEXT else min(length, most)
    raise Unplain
