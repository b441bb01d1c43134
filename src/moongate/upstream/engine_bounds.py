"""A schema as a grammar whose longest text fits a number of tokens.

A weak model loops in whatever is unbounded: digits, strings, lists, references to itself. So each
part of an answer gets a share of the tokens that are left, and what its share does not pay for is
left out: optional properties, more items, the longer branch. What the schema demands is there
whatever it costs. What is written is always an instance of the schema.
"""

from collections.abc import Sequence
from typing import Any, Final

from moongate.upstream import engine_lark as lark
from moongate.upstream.engine_forms import Form, Forms, Unplain
from moongate.upstream.engine_numbers import number_choice
from moongate.upstream.engine_sizes import ENDLESS, Part, Sizes, any_forms
from moongate.upstream.engine_texts import ruled

_RULES_MAX: Final = 4000
_FORMAT_MAX: Final = 64
"""Characters: a date's fraction of a second, say, has no end of its own."""
_FINE: Final = 32
"""Tokens: larger shares are rounded down to eights, so that equal parts share rules."""


def bounded(schema: Any, tokens: int) -> str:
    """The grammar of instances of ``schema`` within ``tokens`` tokens. Raises Unplain."""
    return Bounds(schema).grammar(tokens)


class Bounds:
    """Writes the rules of one schema."""

    def __init__(self, root: Any) -> None:
        self.root = root
        self.forms = Forms(root)
        self.sizes = Sizes(self.forms)
        self._rules: list[str] = []
        self._names: dict[tuple[Any, ...], str] = {}

    def grammar(self, tokens: int) -> str:
        """Rules for the whole. Raises Unplain."""
        start = self.rule(self.root, tokens - 1)  # the end of the answer is a token too
        return self.closed(start)

    def closed(self, start: str) -> str:
        """All rules, with ``start`` as what the answer is."""
        return "\n".join([lark.START, f"start: {start}", *self._rules, ""])

    def rule(self, schema: Any, tokens: int) -> str:
        """The name of a rule for one part of the schema."""
        share = tokens if tokens < _FINE else tokens // 8 * 8
        key = (id(schema), share)
        if key not in self._names:
            self._names[key] = name = f"r{len(self._names)}"
            forms = self.affordable(schema, share)
            self.add(name, " | ".join(self.form(form, share) for form in forms))
        return self._names[key]

    def affordable(self, schema: Any, tokens: int) -> list[Form]:
        """The forms that the tokens pay for; else the cheapest."""
        forms = self.forms.of(schema)
        costs = [self.sizes.form(form) for form in forms]
        if not forms or min(costs) >= ENDLESS:
            raise Unplain
        top = max(tokens, min(costs))
        return [form for form, cost in zip(forms, costs, strict=True) if cost <= top]

    def add(self, name: str, *alternatives: str) -> str:
        """Write a rule down; returns its name."""
        if len(self._rules) >= _RULES_MAX:
            raise Unplain
        self._rules.append(f"{name}: {' | '.join(alternatives)}")
        return name

    def fresh(self) -> str:
        """A name that no rule has."""
        return f"c{len(self._rules)}"

    def named(self, *key: Any) -> tuple[str, bool]:
        """A name for what ``key`` stands for, and whether its rule is still to be written."""
        new = key not in self._names
        return self._names.setdefault(key, f"r{len(self._names)}"), new

    def form(self, form: Form, tokens: int) -> str:
        """What stands for one form."""
        match form.kind:
            case "values":
                return self._values(form.values, tokens)
            case "any":
                return " | ".join(self.form(each, tokens) for each in any_forms(tokens))
            case "string":
                return self._string(form, tokens)
            case "number" | "integer":
                return self._number(form)
            case "boolean":
                return '"true" | "false"'
            case "null":
                return '"null"'
            case "array":
                return self._array(form.words, tokens)
            case "object":
                return self._object(form.words, tokens)
        raise Unplain

    def leaf(self, schema: dict[str, Any]) -> str:
        """A part that the engine's own reading of JSON Schema bounds well."""
        text = lark.write(schema)
        name, new = self.named("leaf", text)
        if new:
            self.add(name, f"%json {text}")
        return name

    def text(self, tokens: int, least: int = 0, most: int | None = None) -> str:
        """The inside of a JSON string."""
        name, new = self.named("text", tokens, least, most)
        if new:
            self._rules += lark.text_rules(name, tokens, least, most)
        return name

    def _values(self, values: Sequence[Any], tokens: int) -> str:
        texts = [lark.write(value) for value in values]
        top = max(tokens, min(map(lark.cost, texts)))
        return " | ".join(lark.literal(text) for text in texts if lark.cost(text) <= top)

    def _string(self, form: Form, tokens: int) -> str:
        words = form.words
        if "pattern" in words or "format" in words:
            least = self.sizes.written(words)
            room = min(tokens - 2, _FORMAT_MAX) if "format" in words else tokens - 2
            most = min(max(least, room), words.get("maxLength", ENDLESS))
            return self.leaf({**ruled(words), "maxLength": most})
        least, most = words.get("minLength", 0), words.get("maxLength")
        if most == 0:
            return lark.literal('""')
        return f'"\\"" {self.text(max(1, tokens - 2), least, most)} "\\""'

    def _number(self, form: Form) -> str:
        choice = number_choice(form.kind, form.words)
        parts = [*choice.rules, *map(lark.literal, choice.texts)]
        parts += [self.leaf(each) for each in choice.leaves]
        if choice.whole is not None:
            parts.append(f"{self.leaf(choice.whole)} {lark.FRACTION}")
        if not parts:
            raise Unplain
        return " | ".join(parts)

    def _array(self, words: dict[str, Any], tokens: int) -> str:
        if "prefixItems" in words:
            return self._tuple(self.sizes.entries(words), tokens)
        count, each = self.sizes.items(words, tokens)
        if count == 0:
            return lark.literal("[]")
        rule = self.rule(each.schema, each.tokens)
        return f'"[" {self.times(rule, words.get("minItems", 0), count)} "]"'

    def times(self, rule: str, least: int, most: int) -> str:
        """``rule`` as often, with commas between."""
        more = f'{rule} (", " {rule}){{{max(least - 1, 0)},{most - 1}}}' if most > 1 else rule
        return more if least else f"({more})?"

    def _tuple(self, parts: list[Part], tokens: int) -> str:
        kept = self.sizes.shared(parts, tokens, ordered=True)
        out = ""
        for at in range(len(kept) - 1, -1, -1):
            part = kept[at]
            comma = '", " ' if at else ""
            out = f"{comma}{self.rule(part.schema, part.tokens)} {out}"
            out = out if part.must else f"({out})?"
        return f'"[" {out} "]"'

    def _object(self, words: dict[str, Any], tokens: int) -> str:
        parts = self.sizes.pairs(words)
        if parts is None:
            return self._map(words, tokens)
        kept = self.sizes.shared(parts, tokens, most=words.get("maxProperties"))
        return f'"{{" {self.chain(kept)} "}}"' if kept else lark.literal("{}")

    def chain(self, kept: list[Part], *, begun: bool = False) -> str:
        """Pairs in their order, what need not be there optional; ``begun``: some stand already."""
        pairs = [f"{lark.literal(p.head)} {self.rule(p.schema, p.tokens)}" for p in kept]
        after = [""] * (len(pairs) + 1)
        for at in range(len(pairs) - 1, 0 if not begun else -1, -1):
            group = f'", " {pairs[at]}'
            group = group if kept[at].must else f"({group})?"
            name = self.fresh()
            after[at] = self.add(name, f"{group} {after[at + 1]}")
        if begun:
            return after[0]
        must = next((at for at, part in enumerate(kept) if part.must), None)
        firsts = range(len(pairs) if must is None else must + 1)
        first = " | ".join(f"{pairs[at]} {after[at + 1]}" for at in firsts)
        return f"({first}){'?' if must is None else ''}"

    def _map(self, words: dict[str, Any], tokens: int) -> str:
        """An object whose names the schema leaves open."""
        least, count, key, each = self.sizes.free(words, tokens)
        if count == 0:
            return lark.literal("{}")
        name = self.leaf(key) if key else f'"\\"" {self.text(lark.KEY_TOKENS, 1)} "\\""'
        pair = f'{name} ": " {self.rule(each.schema, each.tokens)}'
        rule = self.add(self.fresh(), pair)
        return f'"{{" {self.times(rule, max(least, 1), count)} "}}"'
