"""The rest of an answer that has begun: prefix and rest together are an instance of the schema.

What is whole in the prefix is checked, what is open goes on where it stops. Where nothing could
follow the prefix it is refused; where a rest would need more than we can tell (the middle of a
text under a pattern), it is refused as well, never guessed.
"""

import json
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from moongate.upstream import engine_lark as lark
from moongate.upstream.engine_bounds import Bounds
from moongate.upstream.engine_forms import Form, Unplain
from moongate.upstream.engine_numbers import number_rest
from moongate.upstream.engine_prefix import NOTHING, Begun
from moongate.upstream.engine_sizes import ENDLESS, Part
from moongate.upstream.engine_texts import endings


class NoRest(Exception):
    """No instance of the schema begins like that."""


def resumed(schema: Any, begun: Begun, tokens: int) -> str:
    """The grammar of what may follow ``begun`` in ``tokens``. Raises NoRest, Unplain."""
    return Rest(schema).grammar_after(begun, tokens)


class Rest(Bounds):
    """Writes the rules of what is still to come.

    A rest is a list of alternatives; an empty list means that there is none.
    """

    def grammar_after(self, begun: Begun, tokens: int) -> str:
        """Rules for the rest of the whole."""
        return self.closed(self._one(self.rest(self.root, begun, tokens - 1)))

    def rest(self, schema: Any, begun: Begun, tokens: int) -> list[str]:
        """Ways in which a value of ``schema`` goes on."""
        if begun.kind == "none":
            return [self.rule(schema, tokens)]
        if begun.kind == "whole":
            return [lark.literal("")] if self._fits(schema, begun.value) else []
        ways: list[str] = []
        for form in self.forms.of(schema):
            with suppress(NoRest):
                ways += self._form_rest(form, begun, tokens)
        return ways

    def _fits(self, schema: Any, value: Any) -> bool:
        return self.forms.instance.part_holds(schema, value)

    def _one(self, ways: Iterable[str]) -> str:
        """A rule that is one of ``ways``. Raises NoRest where there is none."""
        found = list(dict.fromkeys(ways))
        if not found:
            raise NoRest
        return self.add(self.fresh(), *found)

    def _form_rest(self, form: Form, begun: Begun, tokens: int) -> list[str]:
        kind = form.kind
        if kind == "values":
            start = _written(begun)
            texts = [lark.write(value) for value in form.values]
            return [lark.literal(t[len(start) :]) for t in texts if t.startswith(start)]
        if kind == "any":
            kinds = {"text": ["string"], "list": ["array"], "pairs": ["object"]}
            kinds_now = kinds.get(begun.kind, ["number", "boolean", "null"])
            return [way for k in kinds_now for way in self._form_rest(Form(k), begun, tokens)]
        match begun.kind, kind:
            case "text", "string":
                return self._text_rest(form.words, begun.raw, tokens)
            case "bare", "number" | "integer":
                return number_rest(kind, form.words, begun.raw)
            case "bare", "boolean" | "null":
                words = ("true", "false") if kind == "boolean" else ("null",)
                return [
                    lark.literal(w.removeprefix(begun.raw))
                    for w in words
                    if w.startswith(begun.raw)
                ]
            case "list", "array":
                return self._list_rest(form.words, begun, tokens)
            case "pairs", "object":
                return self._pairs_rest(form.words, begun, tokens)
        return []

    def _text_rest(self, words: dict[str, Any], raw: str, tokens: int) -> list[str]:
        if words.keys() & {"pattern", "format"}:
            found = endings(words, raw)
            if not found:
                raise Unplain
            return [lark.literal(ending) for ending in found]
        escape, raw = _unescaped(raw)
        length = len(json.loads(f'"{raw}"'))
        least = max(0, words.get("minLength", 0) - length)
        most = words.get("maxLength")
        if most is not None and length > most:
            return []
        left = None if most is None else most - length
        inside = lark.literal("") if left == 0 else self.text(max(1, tokens - 1), least, left)
        return [f'{escape}{inside} "\\""']

    def _list_rest(self, words: dict[str, Any], begun: Begun, tokens: int) -> list[str]:
        done, inside = len(begun.items), begun.place == "inside"
        first = words.get("prefixItems", [])
        more = words.get("items", True)
        schemas = [*first[:done], *[more] * (done - len(first))]
        if not all(map(self._fits, schemas, begun.items)):
            return []
        least, most = words.get("minItems", 0), words.get("maxItems")
        stands = done + inside
        if most is not None and stands + (begun.place == "comma") > most:
            return []
        head = ""
        if inside:
            assert begun.last is not None
            schema = first[done] if done < len(first) else more
            ways = self.rest(schema, begun.last, tokens // 2)
            if not ways:
                return []
            head, tokens = self._one(ways) + " ", tokens // 2
        parts = [Part(each, stands + at < least) for at, each in enumerate(first[stands:most])]
        parts += self._more_items(words, max(stands, len(first)), tokens)
        return [f'{head}{self._follow(parts, tokens, begun.place)} "]"']

    def _more_items(self, words: dict[str, Any], stands: int, tokens: int) -> list[Part]:
        """Items after the ruled first ones, as far as the tokens go."""
        if "prefixItems" in words:
            return [Part(words.get("items", True))] * (words.get("minItems", 0) - stands)
        count, each = self.sizes.items(words, tokens)
        least = words.get("minItems", 0) - stands
        room = words.get("maxItems", count + stands) - stands
        return [Part(each.schema, at < least) for at in range(max(least, min(count, room)))]

    def _follow(self, parts: list[Part], tokens: int, place: str) -> str:
        """The items still to come; after a comma one must come."""
        if place == "comma":
            if not parts:
                raise NoRest
            parts = [Part(parts[0].schema), *parts[1:]]
        kept = self.sizes.shared(parts, tokens, ordered=True)
        out = ""
        for at in range(len(kept) - 1, -1, -1):
            part = kept[at]
            comma = '", " ' if at or place in ("value", "inside") else ""
            out = f"{comma}{self.rule(part.schema, part.tokens)} {out}"
            out = out if part.must else f"({out})?"
        return out

    def _pairs_rest(self, words: dict[str, Any], begun: Begun, tokens: int) -> list[str]:
        if "patternProperties" in words and not words.get("properties"):
            raise Unplain
        named, more = words.get("properties", {}), words.get("additionalProperties", True)
        if not all(self._fits(named.get(k, more), v) for k, v in begun.pairs.items()):
            return []
        parts = self.sizes.pairs(words)
        if parts is None:
            return self._map_rest(words, begun, tokens)
        gone = {f"{lark.write(name)}: " for name in begun.pairs}
        if begun.place in ("named", "colon", "inside"):
            gone.add(f"{lark.write(begun.name)}: ")
        parts = [part for part in parts if self.sizes.least(part.schema) < ENDLESS]
        left = [part for part in parts if part.head not in gone]
        match begun.place:
            case "open":
                return [f'{self._kept(left, tokens)} "}}"']
            case "value":
                return [f'{self._kept(left, tokens, begun=True)} "}}"']
            case "comma":
                return [self._pair(part, 0, left, tokens) for part in left]
            case "name":
                start = f'"{begun.raw}'
                fit = [part for part in left if part.head.startswith(start)]
                return [self._pair(part, len(start), left, tokens) for part in fit]
        value = self._value_rest(named.get(begun.name, more), begun, tokens // 2)
        return [f'{v} {self._kept(left, tokens // 2, begun=True)} "}}"' for v in value]

    def _value_rest(self, schema: Any, begun: Begun, tokens: int) -> list[str]:
        """What follows a name: its colon where it is missing, and the value."""
        ways = self.rest(schema, begun.last or NOTHING, tokens) if schema is not False else []
        if not ways:
            return []
        colon = '": " ' if begun.place == "named" else ""
        return [f"{colon}{self._one(ways)}"]

    def _kept(self, parts: list[Part], tokens: int, *, begun: bool = False) -> str:
        kept = self.sizes.shared(parts, tokens)
        return self.chain(kept, begun=begun) if kept else ""

    def _pair(self, part: Part, start: int, left: list[Part], tokens: int) -> str:
        """One pair whose name has begun, and the others after it."""
        others = [other for other in left if other is not part]
        value = self.rule(part.schema, tokens // 2)
        after = self._kept(others, tokens // 2, begun=True)
        return f'{lark.literal(part.head[start:])} {value} {after} "}}"'

    def _map_rest(self, words: dict[str, Any], begun: Begun, tokens: int) -> list[str]:
        """An object whose names are open."""
        least, count, _, each = self.sizes.free(words, tokens)
        stands = len(begun.pairs) + (begun.place in ("name", "named", "colon", "inside"))
        left = max(min(count, words.get("maxProperties", count + stands) - stands), 0)
        musts = max(least - stands, 0)
        rule = self.rule(each.schema, each.tokens)
        pair = self.add(self.fresh(), f'"\\"" {self.text(lark.KEY_TOKENS, 1)} "\\"" ": " {rule}')
        more = f'{self._repeated(pair, musts, max(left, musts))} "}}"'
        match begun.place:
            case "open":
                return [f'{self.times(pair, max(musts, 1), max(left, musts, 1))} "}}"']
            case "value":
                return [more]
            case "comma":
                after = self._repeated(pair, max(musts - 1, 0), max(left, musts, 1) - 1)
                return [f'{pair} {after} "}}"']
            case "name":
                escape, _ = _unescaped(begun.raw)
                return [f'{escape}{self.text(lark.KEY_TOKENS)} "\\"" ": " {rule} {more}']
        value = self._value_rest(words.get("additionalProperties", True), begun, tokens // 2)
        return [f"{way} {more}" for way in value]

    def _repeated(self, rule: str, least: int, most: int) -> str:
        """``rule`` as often, each with a comma before it."""
        return f'(", " {rule}){{{least},{most}}}' if most else ""


def _unescaped(raw: str) -> tuple[str, str]:
    """What ends an escape that the inside of a string stops in, and the inside with it."""
    backslashes = len(raw) - len(raw.rstrip("\\"))
    end, raw = (r'/["\\nt]/ ', raw + "n") if backslashes % 2 else ("", raw)
    try:
        json.loads(f'"{raw}"')
    except ValueError:
        raise Unplain from None  # the middle of a \\u escape
    return end, raw


def _written(begun: Begun) -> str:
    """The prefix as the grammars would have written it."""
    if begun.kind == "none":
        return ""
    if begun.kind == "whole":
        return lark.write(begun.value)
    if begun.kind == "bare":
        return begun.raw
    if begun.kind == "text":
        return f'"{begun.raw}'
    last = _written(begun.last) if begun.last else ""
    comma = ", " if begun.place in ("comma", "inside", "name", "named", "colon") else ""
    if begun.kind == "list":
        done = ", ".join(map(lark.write, begun.items))
        return f"[{done}{comma if begun.items else ''}{last}"
    done = ", ".join(f"{lark.write(k)}: {lark.write(v)}" for k, v in begun.pairs.items())
    comma = comma if begun.pairs else ""
    match begun.place:
        case "name":
            return f'{{{done}{comma}"{begun.raw}'
        case "named":
            return f"{{{done}{comma}{lark.write(begun.name)}"
        case "colon" | "inside":
            return f"{{{done}{comma}{lark.write(begun.name)}: {last}"
    return f"{{{done}{comma}"
