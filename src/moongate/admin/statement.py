"""The statement: what requests added up to, by day, account, key, model and price version.

Pure arithmetic over rows. A line holds one price version only, so its ``due`` is its tokens times
that row's prices; its ``charge`` is that less what was given away of it, and the charges' total
equals the ledger's for the same span. ``saved`` is what its cached tokens cost less than uncached
ones would have at that row's prices. Requests that cost nothing are counted, their tokens are
not; what they were worth is forgiven.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from moongate.core.money import Price, Usage, charge, nanos_to_usd, saved
from moongate.core.rows import PriceRow, UsageRow
from moongate.core.sums import DAY_MS, UsageSum, add_up

COUNTS: Final = (
    "requests",
    "uncharged",
    "input_tokens",
    "cached_tokens",
    "output_tokens",
    "searches",
)
AMOUNTS: Final = ("due", "charge", "forgiven", "saved")


def day(number: int) -> str:
    """A day by its number since the epoch, ``YYYY-MM-DD``."""
    return datetime.fromtimestamp(number * DAY_MS // 1000, UTC).strftime("%Y-%m-%d")


def moment(at_ms: int | None) -> str | None:
    """A moment in UTC to the second, ISO 8601."""
    if at_ms is None:
        return None
    return datetime.fromtimestamp(at_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def asked(text: str | None, at_ms: int | None) -> str | None:
    """An end of the span as it was asked: a day stays that day, a time is told in UTC."""
    return text if text and len(text) == len("2026-01-27") else moment(at_ms)


def by_version(rows: Iterable[PriceRow]) -> dict[int, Price]:
    """Prices by the version that requests pin."""
    return {row.version: row.price for row in rows}


def figures(group: UsageSum, price: Price) -> dict[str, int]:
    """A group's counts and amounts under the names of the interface."""
    used = Usage(group.input, group.cached, group.output, group.searches)
    return {
        "requests": group.requests,
        "uncharged": group.uncharged,
        "input_tokens": group.input,
        "cached_tokens": group.cached,
        "output_tokens": group.output,
        "searches": group.searches,
        "due_nanos": charge(used, price),
        "charge_nanos": group.charge_nanos,
        "forgiven_nanos": group.forgiven_nanos,
        "saved_nanos": saved(group.cached, price),
    }


def with_usd(sums: Mapping[str, int]) -> dict[str, Any]:
    """Figures with the exact dollars beside each amount."""
    told: dict[str, Any] = {}
    for name, figure in sums.items():
        told[name] = figure
        if name.endswith("_nanos"):
            told[name.removesuffix("_nanos") + "_usd"] = nanos_to_usd(figure)
    return told


def lines(
    groups: Iterable[UsageSum], names: Mapping[str, str], prices: Mapping[int, Price]
) -> list[dict[str, Any]]:
    """One line for each group. ``names`` gives keys' names by id."""
    return [
        {
            "day": day(group.day),
            "account": group.account,
            "key": group.key,
            "key_name": names.get(group.key, ""),
            "model": group.model,
            "price_version": group.price_version,
            **with_usd(figures(group, prices[group.price_version])),
        }
        for group in groups
    ]


def each(
    rows: Iterable[UsageRow], names: Mapping[str, str], prices: Mapping[int, Price]
) -> list[dict[str, Any]]:
    """One line for each request, oldest first."""
    return [_request(row, names, prices) for row in rows]


def _request(
    row: UsageRow, names: Mapping[str, str], prices: Mapping[int, Price]
) -> dict[str, Any]:
    (group,) = add_up([row], days=True, keys=True)
    return {
        "request": row.hold,
        "ended": moment(row.ended_ms),
        "day": day(group.day),
        "account": row.account,
        "key": row.key,
        "key_name": names.get(row.key, ""),
        "model": row.model,
        "upstream": row.upstream,
        "outcome": row.outcome,
        "status": row.status,
        "estimated": row.usage.estimated,
        "attempts": row.attempts,
        "price_version": row.price_version,
        **with_usd(figures(group, prices[row.price_version])),
    }


def total(told: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The sums over lines."""
    whole = dict.fromkeys([*COUNTS, *(f"{name}_nanos" for name in AMOUNTS)], 0)
    for line in told:
        for name in whole:
            whole[name] += line[name]
    return with_usd(whole)
