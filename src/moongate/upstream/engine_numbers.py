"""Numbers of few digits within a schema's limits, as what a grammar can write.

Whole numbers in a range are left to the engine's own reading of JSON Schema. Decimals get one or
two digits behind the point, above a whole number whose successor is still in the range; where
no whole number is, and for multiples of a decimal, a few values are spelled out.
"""

import json
import math
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, Final

from moongate.core.sealed import Sealed
from moongate.upstream import engine_lark as lark
from moongate.wire.schema.instance import Instance

_FAR: Final = 999_999
_TEXTS_MAX: Final = 64
_DIGITS_MAX: Final = 18


class Choice(Sealed, frozen=True):
    """Ways to write a number: rules, spelled values, schemas of whole numbers.

    ``whole`` is the schema of a whole number that takes a fraction behind it.
    """

    rules: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    leaves: tuple[dict[str, Any], ...] = ()
    whole: dict[str, Any] | None = None


def number_choice(kind: str, words: dict[str, Any]) -> Choice:
    """How a number of that kind under those words is written."""
    step = words.get("multipleOf")
    if not words:
        return Choice(rules=(lark.INTEGER if kind == "integer" else lark.NUMBER,))
    low, high = _range(words)
    if step is not None and (kind == "number" or step != int(step)):
        found = _texts(_multiples(Decimal(str(step)), low, high), kind, words)
        return Choice(texts=tuple(found))
    first, last = math.ceil(low), math.floor(high)
    if "exclusiveMinimum" in words and first == _exact(words["exclusiveMinimum"]):
        first += 1
    if "exclusiveMaximum" in words and last == _exact(words["exclusiveMaximum"]):
        last -= 1
    more = {} if step is None else {"multipleOf": int(step)}
    leaves = (_whole(first, last) | more,) if first <= last else ()
    if kind == "integer":
        return Choice(leaves=leaves)
    start = max(first, 0)
    if start < last:
        return Choice(leaves=leaves, whole=_whole(start, last - 1))
    return Choice(leaves=leaves, texts=tuple(_texts(_decimals(low, high), kind, words)))


def _whole(first: int, last: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": first, "maximum": last}


def _exact(number: Any) -> Decimal:
    return Decimal(str(number))


def _range(words: dict[str, Any]) -> tuple[Decimal, Decimal]:
    """Both ends, as far as the schema or our patience with digits goes."""
    lows = [_exact(words[w]) for w in ("minimum", "exclusiveMinimum") if w in words]
    highs = [_exact(words[w]) for w in ("maximum", "exclusiveMaximum") if w in words]
    far = Decimal(_FAR)
    low = max(lows) if lows else min([-far, *(high - far for high in highs)])
    high = min(highs) if highs else max([far, low + far])
    near = min(max(low, Decimal(0)), high)  # the value of fewest digits
    wide = max(far, abs(near) * 2)
    return max(low, near - wide), min(high, near + wide)


def _multiples(step: Decimal, low: Decimal, high: Decimal) -> Iterator[Decimal]:
    first = math.ceil(max(low, min(Decimal(0), high)) / step)
    for count in range(first, first + 4 * _TEXTS_MAX):
        yield count * step
    for count in range(math.floor(low / step), math.floor(low / step) + _TEXTS_MAX):
        yield count * step


def _decimals(low: Decimal, high: Decimal) -> Iterator[Decimal]:
    """Values in the range of as few digits behind the point as it takes."""
    for digits in range(1, _DIGITS_MAX):
        step = Decimal(1).scaleb(-digits)
        first, last = math.ceil(low / step), math.floor(high / step)
        if last - first >= 2:
            apart = max(1, (last - first) // 20)
            for count in range(first, last + 1, apart):
                yield count * step
            return
    yield low


def _texts(values: Iterator[Decimal], kind: str, words: dict[str, Any]) -> list[str]:
    """Those that are valid, in plain writing; multiples also to whoever divides in binary."""
    holds, step = Instance({"type": kind, **words}).holds, words.get("multipleOf", 1)
    found: dict[str, None] = {}
    for value in values:
        text = f"{value:f}"
        if "." in text:
            text = text.rstrip("0").rstrip(".")
        text = text or "0"
        number = float(text) if "." in text else int(text)
        whole = "multipleOf" not in words or (number / step).is_integer()
        if whole and holds(number) and len(found) < _TEXTS_MAX:
            found[text] = None
    return list(found)


def number_rest(kind: str, words: dict[str, Any], raw: str) -> list[str]:
    """Ways in which a number that begins with ``raw`` may go on, as grammar parts."""
    if raw == "-":
        tails = {digit: number_rest(kind, words, raw + digit) for digit in "0123456789"}
        return [f"{lark.literal(digit)} {way}" for digit, ways in tails.items() for way in ways]
    ways = [lark.literal("")] if _is_valid(kind, words, raw) else []
    if "." in raw:
        behind = len(raw) - raw.index(".") - 1
        most = 3 - behind if kind == "number" else 0
    else:
        most = 0 if raw.lstrip("-") == "0" else 8 - len(raw.lstrip("-"))
    ways += [f"/[0-9]{{{n}}}/" for n in range(1, most) if _all_valid(kind, words, raw, n)]
    ways += [lark.literal(text[len(raw) :]) for text in _longer(kind, words, raw)]
    if kind == "number" and "." not in raw and _all_valid(kind, words, raw + ".", 2):
        ways.append(lark.FRACTION)
    return list(dict.fromkeys(ways))


def _longer(kind: str, words: dict[str, Any], raw: str) -> list[str]:
    """Spelled values, and some of the whole numbers in the range, that begin with ``raw``."""
    choice = number_choice(kind, words)
    texts = list(choice.texts)
    for leaf in () if "." in raw else choice.leaves:
        step = leaf.get("multipleOf", 1)
        for more in range(1, _DIGITS_MAX):
            ends = sorted((int(raw + "0" * more), int(raw + "9" * more)))
            first = math.ceil(max(ends[0], leaf["minimum"]) / Decimal(step)) * step
            last = min(ends[1], leaf["maximum"])
            texts += map(str, range(first, last + 1, step)[:_DIGITS_MAX])
    return [text for text in texts if text.startswith(raw) and text != raw]


def _all_valid(kind: str, words: dict[str, Any], raw: str, more: int) -> bool:
    """Whether ``raw`` may be followed by any digits, ``more`` of them."""
    ends = (raw + "0" * more, raw + "9" * more)
    return "multipleOf" not in words and all(_is_valid(kind, words, text) for text in ends)


def _is_valid(kind: str, words: dict[str, Any], text: str) -> bool:
    try:
        value = json.loads(text)
    except ValueError:
        return False
    return Instance({"type": kind, **words}).holds(value)
