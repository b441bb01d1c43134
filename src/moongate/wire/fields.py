"""Reading untrusted JSON: every complaint names its field path and repeats nothing of the input.

A body is weighed before it is parsed (a parse holds the interpreter), parsed once, and then picked
apart field by field: each reader takes the object that holds the field, its key and the object's
path, and returns the value, or ``None`` when it is absent or null. All raise :class:`Refused`. This
module knows JSON; it refuses to know any dialect.
"""

import re
from array import array
from collections.abc import Collection, Sequence
from itertools import accumulate
from typing import Any, Final

import msgspec

from moongate.core.errors import Refused, safe_name
from moongate.wire import apart
from moongate.wire.bulk import DEPTH_MAX, check, outside, weigh

_BOM: Final = b"\xef\xbb\xbf"
_DEPTH_STEP: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_BYTE: Final = re.compile(r"\(byte (\d+)\)")
_LONE_SURROGATE: Final = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F]"
)
_STRING_OR_NUMBER: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"|(-?\d[\d.eE+-]*)', re.DOTALL)


class _Key:
    """A top-level key that equals only itself, so that a repeated one stays visible."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


_BODY: Final = msgspec.json.Decoder(dict[_Key, Any], dec_hook=lambda _type, name: _Key(name))


def parse(body: bytes) -> dict[str, Any]:
    """The JSON object in ``body``; integers of any size stay integers.

    Raises Refused: ``invalid_json`` with a byte offset, ``invalid_unicode`` (bad UTF-8, lone
    surrogates), ``json_too_complex``, ``duplicate_key`` (top level), ``invalid_type`` when the
    body is JSON and no object.
    """
    if body.startswith(_BOM):
        raise Refused("invalid_json", byte=0)
    short, taken = apart.take(body) if len(body) > apart.WORTH else (body, {})
    if not taken:
        return _parse(body)
    try:
        value = _parse(short)
    except Refused:
        return _parse(body)  # which tells where it goes wrong
    found: dict[str, Any] = apart.put_back(value, taken)
    return found


def _parse(body: bytes) -> dict[str, Any]:
    weigh(body)
    try:
        pairs = _BODY.decode(body)
    except UnicodeDecodeError:
        raise Refused("invalid_unicode") from None
    except RecursionError:
        raise Refused("json_too_complex") from None
    except msgspec.DecodeError as error:
        _check_depth_of_text(body)
        raise _explain(body, error) from None
    check(body, pairs)
    value = {key.name: inner for key, inner in pairs.items()}
    if len(value) != len(pairs):
        seen: set[str] = set()
        for key in pairs:
            if key.name in seen:
                raise Refused("duplicate_key", safe_name(key.name))
            seen.add(key.name)
    return value


def _check_depth_of_text(body: bytes) -> None:
    """Refuse ``body``, which is no JSON, where it opens more than it may before it goes wrong."""
    steps = array("b", b"".join(outside(body)).translate(_DEPTH_STEP, _NOT_BRACKETS))
    if max(accumulate(steps), default=0) > DEPTH_MAX:
        raise Refused("json_too_complex")


def _explain(body: bytes, error: msgspec.DecodeError) -> Refused:
    """Why ``body`` is no JSON object. The parser's text is read for its byte offset only."""
    if isinstance(error, msgspec.ValidationError):
        try:
            msgspec.json.decode(body)
        except msgspec.DecodeError as plainer:
            error = plainer
        except UnicodeDecodeError:
            return Refused("invalid_unicode")
        else:
            return refusal("invalid_type", None, "Body must be a JSON object.")
    reason = str(error)
    try:
        body.decode()
    except UnicodeDecodeError:
        return Refused("invalid_unicode")
    found = _BYTE.search(reason)
    in_escape = "surrogate" in reason or "hex escape" in reason or "truncated" in reason
    if in_escape and _LONE_SURROGATE.search(body.replace(b"\\\\", b"")):
        return Refused("invalid_unicode")
    if found:
        return Refused("invalid_json", byte=int(found[1]))
    if "range" in reason:
        return Refused("invalid_json", byte=_huge_number(body))
    return Refused("invalid_json", byte=len(body))


def _huge_number(body: bytes) -> int:
    """Where the first number stands that no float can hold."""
    for found in _STRING_OR_NUMBER.finditer(body):
        text = found[1]
        if text and len(text) > 3 and not _is_finite(text):
            return found.start()
    return len(body)


def _is_finite(text: bytes) -> bool:
    try:
        return abs(float(text)) != float("inf")
    except ValueError:
        return True


def refusal(code: str, path: str | None, sentence: str) -> Refused:
    """A refusal of the rows whose message is a sentence of ours (``{what}``)."""
    return Refused(code, path, what=sentence)


def join(at: str, key: str) -> str:
    """The path of ``key`` in the object at ``at`` (``""``: the body itself)."""
    return f"{at}.{key}" if at else key


def missing(path: str, sentence: str = "") -> Refused:
    """The refusal for a required field that is absent, null or empty."""
    leaf = path.rpartition(".")[2]
    return refusal("missing_required_parameter", path, sentence or f"{leaf} is required.")


def wrong_type(path: str, expected: str) -> Refused:
    """The refusal for a value of another JSON type; ``expected`` reads "a string"."""
    leaf = path.rpartition(".")[2]
    return refusal("invalid_type", path, f"{leaf} must be {expected}.")


def wrong_value(path: str, expected: str) -> Refused:
    """The refusal for a value of the right type; ``expected`` reads "from 1 to 8"."""
    leaf = path.rpartition(".")[2]
    return refusal("invalid_value", path, f"{leaf} must be {expected}.")


def string(obj: dict[str, Any], key: str, at: str = "") -> str | None:
    """A string, or ``None``."""
    value = obj.get(key)
    if value is None or isinstance(value, str):
        return value
    raise wrong_type(join(at, key), "a string")


def flag(obj: dict[str, Any], key: str, at: str = "") -> bool | None:
    """True or false, or ``None``."""
    value = obj.get(key)
    if value is None or isinstance(value, bool):
        return value
    raise wrong_type(join(at, key), "true or false")


def number(obj: dict[str, Any], key: str, low: float, high: float) -> float | None:
    """A top-level number from ``low`` to ``high``, or ``None``."""
    value = obj.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong_type(key, "a number in range")
    if not low <= value <= high:
        raise wrong_value(key, "a number in range")
    return float(value)


def whole(obj: dict[str, Any], key: str, high: int, low: int = 1) -> int | None:
    """A top-level integer from ``low`` to ``high``, or ``None``."""
    value = obj.get(key)
    if value is None:
        return None
    expected = f"an integer from {low} to {high}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong_type(key, expected)
    if isinstance(value, float) or not low <= value <= high:
        raise wrong_value(key, expected)
    return value


def table(obj: dict[str, Any], key: str, at: str = "") -> dict[str, Any] | None:
    """An object, or ``None``."""
    value = obj.get(key)
    if value is None or isinstance(value, dict):
        return value
    raise wrong_type(join(at, key), "an object")


def items(obj: dict[str, Any], key: str, at: str = "") -> list[Any] | None:
    """A list of anything, or ``None``."""
    value = obj.get(key)
    if value is None or isinstance(value, list):
        return value
    raise wrong_type(join(at, key), "an array")


def entry(value: Any, path: str) -> dict[str, Any]:
    """A list's entry that must be an object."""
    if isinstance(value, dict):
        return value
    raise wrong_type(path, "an object")


def word(value: Any, allowed: Sequence[str], path: str) -> str:
    """One of ``allowed``; anything else, of whatever type, is a wrong value."""
    if isinstance(value, str) and value in allowed:
        return value
    raise wrong_value(path, f"one of {', '.join(allowed)}")


def rest(obj: dict[str, Any], known: Collection[str]) -> dict[str, Any]:
    """The fields of ``obj`` that are not ``known``, verbatim and in order."""
    return {key: value for key, value in obj.items() if key not in known}
