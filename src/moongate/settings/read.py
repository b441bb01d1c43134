"""Plain TOML data in, typed tables out; every mistake is a sentence with the key's path.

A sentence tells what was given by kind only, never its value: an operator may paste a secret
into the wrong place. All mistakes are collected, so that one start tells them all.
"""

import datetime as dt
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Final, TypeVar

import msgspec
from msgspec import inspect as kinds

from moongate.settings.secret import Table

TableType = TypeVar("TableType", bound=Table)
_GIVEN: Final[tuple[tuple[type | tuple[type, ...], str], ...]] = (
    (bool, "true or false"),
    (int, "a whole number"),
    (float, "a number with a point"),
    (str, "text"),
    ((list, tuple), "a list"),
    (dict, "a table"),
    ((dt.date, dt.time), "a date or time without quotes"),
)
_SECRETS: Final = ("api_key", "stripe_secret", "stripe_api_key", "webhook_secret")


def fields(table: type[msgspec.Struct]) -> dict[str, kinds.Field]:
    """The keys of a table by name, fields that are no keys left out."""
    info = kinds.type_info(table)
    assert isinstance(info, kinds.StructType)
    return {field.name: field for field in info.fields if is_key(field)}


def is_key(field: kinds.Field) -> bool:
    """Whether a file may say it: it has a description, or holds described tables."""
    if isinstance(field.type, kinds.Metadata):
        return True
    inner = field.type
    if isinstance(inner, kinds.VarTupleType):
        inner = inner.item_type
    return isinstance(inner, kinds.StructType) and issubclass(inner.cls, Table)


def plain(kind: kinds.Type) -> kinds.Type:
    """``kind`` without its description and without ``None``."""
    if isinstance(kind, kinds.Metadata):
        return plain(kind.type)
    if isinstance(kind, kinds.UnionType):
        return next(plain(t) for t in kind.types if not isinstance(t, kinds.NoneType))
    return kind


def expected(kind: kinds.Type) -> str:
    """What a key takes, in words."""
    kind = plain(kind)
    match kind:
        case kinds.BoolType():
            return "true or false"
        case kinds.IntType() | kinds.FloatType():
            word = "a whole number" if isinstance(kind, kinds.IntType) else "a number"
            if kind.gt is not None:
                return f"{word} above {kind.gt}, at most {kind.le}"
            return f"{word} from {kind.ge} to {kind.le}"
        case kinds.StrType():
            return "text in quotes"
        case kinds.LiteralType():
            return "one of " + ", ".join(f'"{value}"' for value in kind.values)
        case kinds.VarTupleType():
            inner = plain(kind.item_type)
            if isinstance(inner, kinds.StructType):
                return "a list of tables"
            if isinstance(inner, kinds.LiteralType):
                return "a list out of " + expected(inner).removeprefix("one of ")
            return "a list of texts in quotes"
        case _:
            return "a table"


def given(value: object) -> str:
    """What kind of thing was given, in words and without its value."""
    return next((word for kind, word in _GIVEN if isinstance(value, kind)), "something else")


def nearest(word: str, words: list[str]) -> str:
    """``; did you mean "…"?`` where a known word is close to ``word``, else nothing."""
    found = get_close_matches(word.lower(), words, n=1, cutoff=0.6)
    return f'; did you mean "{found[0]}"?' if found else ""


def join(path: str, name: str) -> str:
    """The path of key ``name`` inside ``path``."""
    return f"{path}.{name}" if path else name


class Reading:
    """One reading of a file: builds tables and collects what is wrong."""

    def __init__(self) -> None:
        self.mistakes: list[str] = []

    def table(self, kind: type[TableType], data: Mapping[str, Any], path: str) -> TableType | None:
        """``data`` as a table of type ``kind``; ``None`` when anything in it is wrong."""
        known = fields(kind)
        before = len(self.mistakes)
        self._unknown(data, list(known), path)
        values: dict[str, Any] = {}
        for name, field in known.items():
            if name in data:
                values[name] = self._value(field.type, data[name], join(path, name))
            elif field.required:
                self.mistakes.append(
                    f"{join(path, name)} is missing: {expected(field.type)}"
                    + (f" ({meaning})." if (meaning := described(field)) else ".")
                )
        return kind(**values) if len(self.mistakes) == before else None

    def _unknown(self, data: Mapping[str, Any], known: list[str], path: str) -> None:
        for name in data:
            if name in known:
                continue
            where = join(path, name)
            if name in _SECRETS and f"{name}_env" in known:
                hint = f': no secret stands in this file; name a variable with "{name}_env".'
            else:
                hint = nearest(name, known) or f"; known here: {', '.join(known)}."
            self.mistakes.append(f"{where} is not a setting{hint}")

    def _value(self, kind: kinds.Type, value: object, path: str) -> Any:
        kind = plain(kind)
        if isinstance(kind, kinds.StructType) and isinstance(value, dict):
            return self.table(kind.cls, value, path)
        if isinstance(kind, kinds.VarTupleType) and isinstance(value, list):
            return tuple(
                self._value(kind.item_type, item, f"{path}[{at}]") for at, item in enumerate(value)
            )
        if isinstance(kind, kinds.DictType) and isinstance(value, dict):
            return {
                name: self._value(kind.value_type, item, join(path, name))
                for name, item in value.items()
            }
        if _fits(kind, value):
            return value
        what = given(value)
        hint = "."
        if isinstance(kind, kinds.LiteralType) and isinstance(value, str):
            what, hint = "another word", nearest(value, [str(v) for v in kind.values]) or "."
        elif isinstance(kind, kinds.IntType | kinds.FloatType) and _number(kind, value):
            what = "a number outside it"
        elif isinstance(kind, kinds.StrType) and not isinstance(value, list | dict):
            hint = "; put it in quotes."
        self.mistakes.append(f"{path} takes {expected(kind)}; given was {what}{hint}")
        return None


def described(field: kinds.Field) -> str:
    """The meaning of a key."""
    extra = field.type.extra_json_schema if isinstance(field.type, kinds.Metadata) else None
    return str((extra or {}).get("description", ""))


def _number(kind: kinds.Type, value: object) -> bool:
    takes = int if isinstance(kind, kinds.IntType) else (int, float)
    return isinstance(value, takes) and not isinstance(value, bool)


def _fits(kind: kinds.Type, value: object) -> bool:
    match kind:
        case kinds.BoolType():
            return isinstance(value, bool)
        case kinds.StrType():
            return isinstance(value, str)
        case kinds.LiteralType():
            return isinstance(value, str) and value in kind.values
        case kinds.IntType() | kinds.FloatType():
            if not _number(kind, value):
                return False
            assert isinstance(value, int | float)
            low = value > kind.gt if kind.gt is not None else kind.ge is None or value >= kind.ge
            return low and (kind.le is None or value <= kind.le)
        case _:
            return False
