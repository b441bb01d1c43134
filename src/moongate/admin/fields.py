"""Reading what an operation was told: query and body fields, checked one by one.

What is wrong becomes a :class:`Refused` that names the field, never its value.
"""

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final, TypeVar

from moongate.core.errors import Refused, safe_name
from moongate.core.money import per_million_to_nanos, usd_to_nanos
from moongate.core.rows import Quota

Word = TypeVar("Word", bound=str)
ACCOUNT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_TX: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}")
_CREDIT_NANOS_MAX: Final = 1_000_000 * 10**9
RATES: Final = ("rpm", "tpm", "concurrency")
_RATE_MAX: Final = 1_000_000_000
_NAME_CHARS_MAX: Final = 80
_LIST_MAX: Final = 100
_PER_MILLION: Final = (
    'Use US dollars per million tokens as text with at most three decimals, like "0.48": a finer '
    "one is no whole number of nano-dollars per token."
)
_PER_CALL: Final = 'Use US dollars per call as text with at most nine decimals, like "0.005".'


class Fields:
    """The fields of one call. Names that are not in ``allowed`` are refused."""

    def __init__(self, data: Mapping[str, Any], allowed: Iterable[str]) -> None:
        unknown = next((name for name in data if name not in set(allowed)), None)
        if unknown is not None:
            raise Refused("unknown_parameter", safe_name(unknown))
        self._data = data

    def given(self, name: str) -> bool:
        """Whether the call says anything of ``name``."""
        return self._data.get(name) is not None

    def text(self, name: str, default: str | None = None) -> str:
        """A text; required without a ``default``."""
        value = self._data.get(name)
        if value is None:
            if default is None:
                raise Refused("missing_required_parameter", name, what="This field is required.")
            return default
        if not isinstance(value, str):
            raise Refused("invalid_type", name, what="This field takes a string.")
        return value

    def label(self, name: str) -> str:
        """A short printable name."""
        value = self.text(name).strip()
        if not value or len(value) > _NAME_CHARS_MAX or not value.isprintable():
            raise Refused(
                "invalid_value", name, what=f"A name has 1 to {_NAME_CHARS_MAX} characters."
            )
        return value

    def account(self, name: str, default: str | None = None) -> str:
        """An account's id."""
        return account_id(self.text(name, default), name)

    def word(self, name: str, words: tuple[Word, ...]) -> Word:
        """One of ``words``; the first when the field is absent."""
        value = self.text(name, words[0])
        for word in words:
            if word == value:
                return word
        raise Refused("invalid_value", name, what=f"It must be one of {', '.join(words)}.")

    def flag(self, name: str) -> bool:
        """True or false; false when absent. In a query: ``1``, ``0``, ``true``, ``false``."""
        value = self._data.get(name)
        if value is None or value in ("0", "false"):
            return False
        if value in ("1", "true"):
            return True
        if not isinstance(value, bool):
            raise Refused("invalid_type", name, what="This field takes true or false.")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts; empty when absent."""
        value = self._data.get(name, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise Refused("invalid_type", name, what="This field takes a list of strings.")
        if len(value) > _LIST_MAX:
            raise Refused("invalid_value", name, what=f"At most {_LIST_MAX} entries.")
        return tuple(value)

    def moment(self, name: str, *, end: bool = False) -> int | None:
        """A day or a time in ISO 8601 as milliseconds; ``None`` when absent.

        A day means its start in UTC, or with ``end`` the start of the next one, so that a span
        of days includes its last. A time without an offset is UTC.
        """
        value = self.text(name, "")
        if not value:
            return None
        try:
            if len(value) == len("2026-01-27"):
                day = date.fromisoformat(value) + timedelta(days=1 if end else 0)
                when = datetime(day.year, day.month, day.day, tzinfo=UTC)
            else:
                when = datetime.fromisoformat(value)
                when = when if when.tzinfo else when.replace(tzinfo=UTC)
            return int(when.timestamp() * 1000)
        except (ValueError, OverflowError):
            raise Refused(
                "invalid_value", name, what="Use a day or a time, like 2026-01-27 (ISO 8601)."
            ) from None

    def span(self) -> tuple[int, int | None]:
        """The moments of ``from`` and ``to`` as [from, to); ``None``: no end."""
        from_ms, to_ms = self.moment("from") or 0, self.moment("to", end=True)
        if to_ms is not None and to_ms <= from_ms:
            raise Refused("invalid_value", "to", what="The span ends before it begins.")
        return from_ms, to_ms

    def whole(self, name: str, default: int, least: int, most: int) -> int:
        """A whole number; ``default`` when absent."""
        value = self._data.get(name)
        if value is None:
            return default
        if type(value) is not int:
            raise Refused("invalid_type", name, what="This field takes a whole number.")
        if not least <= value <= most:
            raise Refused("invalid_value", name, what=f"Use a number from {least} to {most}.")
        return value

    def quota(self, before: Quota) -> Quota:
        """Rates: what is absent stays as ``before``, null or 0 takes a limit away."""
        told = {name: self.whole(name, 0, 0, _RATE_MAX) or None for name in RATES}
        return Quota(
            **{name: told[name] if name in self._data else getattr(before, name) for name in RATES}
        )

    def has(self, name: str) -> bool:
        """Whether the field was given, null included."""
        return name in self._data

    def credit_nanos(self, name: str, *, least: int = 1) -> int:
        """An amount of dollars, as text or a whole number, in nano-dollars from ``least`` on."""
        value = self._data.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str):
            raise Refused("invalid_type", name, what='Dollars are given as text, like "5.00".')
        try:
            nanos = usd_to_nanos(value)
        except ValueError:
            nanos = -1
        if not least <= nanos <= _CREDIT_NANOS_MAX:
            raise Refused(
                "invalid_value",
                name,
                what=f"Use dollars {'above' if least else 'from'} 0 and up to 1000000, "
                "with at most nine decimals.",
            )
        return nanos

    def rate_nanos(self, name: str, *, a_call: bool = False) -> int:
        """A price as text: USD per million tokens in nano-dollars a token, or USD ``a_call``."""
        read = usd_to_nanos if a_call else per_million_to_nanos
        try:
            nanos = read(self.text(name))
        except ValueError:
            nanos = -1
        if nanos < 0:
            raise Refused("invalid_value", name, what=_PER_CALL if a_call else _PER_MILLION)
        return nanos

    def tx(self, name: str, default: str) -> str:
        """The id that the caller gives a movement, so that a repeat changes nothing."""
        value = self.text(name, default)
        if not _TX.fullmatch(value):
            raise Refused("invalid_value", name, what="This is not an id.")
        return value


def account_id(value: str, name: str = "account") -> str:
    """``value`` when it can be an account's id."""
    if not ACCOUNT.fullmatch(value):
        raise Refused(
            "invalid_value",
            name,
            what="An account is named with letters, digits, _, . and -, at most 64 of them.",
        )
    return value


def project_id(value: str, name: str = "project") -> str:
    """``value`` when it can be a project's name within its account."""
    if not ACCOUNT.fullmatch(value):
        raise Refused(
            "invalid_value",
            name,
            what="A project is named with letters, digits, _, . and -, at most 64 of them.",
        )
    return value
