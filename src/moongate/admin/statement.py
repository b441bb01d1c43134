"""The statement: usage rows summed by day, account, key, model and price version.

Pure arithmetic over rows. Because a line holds one price version only, its charge is its
tokens times that row's prices; the total is the sum of the lines and equals the ledger's
charges for the same span. Requests that cost nothing are counted, their tokens are not.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from moongate.core.money import nanos_to_usd
from moongate.core.rows import Outcome, UsageRow

_SUMMED: Final = (
    "requests",
    "uncharged",
    "input_tokens",
    "cached_tokens",
    "output_tokens",
    "searches",
    "charge_nanos",
    "forgiven_nanos",
)

_FREE: Final[frozenset[Outcome]] = frozenset(
    {"upstream_error", "gateway_error", "refused", "expired"}
)


def day(at_ms: int) -> str:
    """The day of a moment in UTC, ``YYYY-MM-DD``."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d")


def moment(at_ms: int | None) -> str | None:
    """A moment in UTC to the second, ISO 8601."""
    if at_ms is None:
        return None
    return datetime.fromtimestamp(at_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def asked(text: str | None, at_ms: int | None) -> str | None:
    """An end of the span as it was asked: a day stays that day, a time is told in UTC."""
    return text if text and len(text) == len("2026-01-27") else moment(at_ms)


def lines(rows: Iterable[UsageRow], names: Mapping[str, str]) -> list[dict[str, Any]]:
    """One line for each day, account, key, model and price version, in that order.

    ``names`` gives keys' names by id.
    """
    sums: dict[tuple[str, str, str, str, int], dict[str, Any]] = {}
    for row in rows:
        place = (day(row.ended_ms), row.account, row.key, row.model, row.price_version)
        _add(sums.setdefault(place, _zero()), amounts(row))
    return [
        {
            "day": place[0],
            "account": place[1],
            "key": place[2],
            "key_name": names.get(place[2], ""),
            "model": place[3],
            "price_version": place[4],
            **_with_usd(sums[place]),
        }
        for place in sorted(sums)
    ]


def each(rows: Iterable[UsageRow], names: Mapping[str, str]) -> list[dict[str, Any]]:
    """One line for each request, oldest first."""
    return [
        {
            "request": row.hold,
            "ended": moment(row.ended_ms),
            "day": day(row.ended_ms),
            "account": row.account,
            "key": row.key,
            "key_name": names.get(row.key, ""),
            "model": row.model,
            "upstream": row.upstream,
            "outcome": row.outcome,
            "status": row.status,
            "estimated": row.usage.estimated,
            "price_version": row.price_version,
            **_with_usd(amounts(row)),
        }
        for row in rows
    ]


def total(rows: Iterable[UsageRow]) -> dict[str, Any]:
    """The sums over all rows."""
    whole = _zero()
    for row in rows:
        _add(whole, amounts(row))
    return _with_usd(whole)


def amounts(row: UsageRow) -> dict[str, int]:
    """What one request adds: its billed tokens and charge, or one more that cost nothing."""
    if row.outcome in _FREE or (row.charge_nanos == 0 and row.forgiven_nanos > 0):
        return _zero() | {"requests": 1, "uncharged": 1, "forgiven_nanos": row.forgiven_nanos}
    return {
        "requests": 1,
        "uncharged": 0,
        "input_tokens": row.usage.input,
        "cached_tokens": row.usage.cache_read,
        "output_tokens": row.usage.output,
        "searches": row.usage.searches,
        "charge_nanos": row.charge_nanos,
        "forgiven_nanos": row.forgiven_nanos,
    }


def _zero() -> dict[str, int]:
    return dict.fromkeys(_SUMMED, 0)


def _add(sums: dict[str, Any], more: Mapping[str, int]) -> None:
    for name in _SUMMED:
        sums[name] += more[name]


def _with_usd(sums: Mapping[str, int]) -> dict[str, Any]:
    return {
        **sums,
        "charge_usd": nanos_to_usd(sums["charge_nanos"]),
        "forgiven_usd": nanos_to_usd(sums["forgiven_nanos"]),
    }
