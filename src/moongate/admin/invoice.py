"""An account's invoice of one month: what it used at which price, what it paid in, what is left.

Lines come from usage, balances from the wallet's entries; where the two do not agree to the
nano-dollar there is no invoice, because one of them would be wrong. Months are in UTC.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from moongate.admin import statement
from moongate.admin.call import Answer, Call, Means, Operation
from moongate.admin.fields import Fields, account_id
from moongate.core.errors import Refused
from moongate.core.money import nanos_to_per_million, nanos_to_usd, saved
from moongate.core.rows import EntryRow, PriceRow
from moongate.core.sums import UsageSum

_MONTH: Final = re.compile(r"(20\d\d)-(0[1-9]|1[0-2])")
_CLOSING_MS: Final = 60_000
"""How long after its end a month is closed: what was timed in it is in the books by then. Bookings
that wait in a journal are timed when they are booked, so they are in a later month's."""
_LOOKS: Final = 3
"""How often we look again when a request of the running month ends between two looks."""
_CLASSES: Final = (
    ("input", "Input tokens"),
    ("cached", "Cached input tokens"),
    ("output", "Output tokens"),
    ("searches", "Web searches"),
)


async def show(means: Means, call: Call) -> Answer:
    """The invoice of ``month`` (YYYY-MM) for one account."""
    month = Fields(call.query, ("month",)).text("month")
    return await of_month(means, account_id(call.id), month)


async def of_month(means: Means, account: str, month: str) -> Answer:
    """The invoice as data. Raises Refused for no such account, and for a month to come."""
    now_ms = means.clock.now_ms()
    from_ms, to_ms = bounds(month)
    if from_ms > now_ms:
        raise Refused("invalid_value", "month", what="This month has not begun.")
    row = await means.store.account(account)
    if row is None or row.kind != "wallet":
        raise Refused("not_found", thing="account")
    for _ in range(_LOOKS):
        opening = sum((await means.store.entry_sums(account, 0, from_ms)).values())
        moved = await means.store.entry_sums(account, from_ms, to_ms)
        credits = await means.store.credits(account, from_ms, to_ms)
        groups = await means.store.usage_sums(account, from_ms, to_ms, days=False, keys=False)
        charged = sum(group.charge_nanos for group in groups)
        if charged == -moved.get("charge", 0) and sum(moved.values()) == _sum(credits) - charged:
            break
    else:
        raise Refused(
            "conflict",
            what="The books do not agree on this month: run `moongate audit ledger`.",
        )
    prices = {price.version: price for price in await means.store.prices()}
    operator = means.operator
    return {
        "object": "invoice",
        "number": f"{account}-{month}",
        "account": account,
        "month": month,
        "from": statement.moment(from_ms),
        "to": statement.moment(to_ms),
        "issued": statement.moment(now_ms),
        "final": to_ms + _CLOSING_MS <= now_ms,
        "operator": {
            "name": operator.name, "contact": operator.contact, "url": operator.url,
        },
        "currency": "USD",
        **_used(groups, prices),
        "credits": [_credit(entry) for entry in credits],
        **_balances(opening, _sum(credits), charged),
    }  # fmt: skip


def bounds(month: str) -> tuple[int, int]:
    """A month's [from, to) in milliseconds. Raises Refused for what is no month."""
    found = _MONTH.fullmatch(month)
    if found is None:
        raise Refused("invalid_value", "month", what="Use a month, like 2026-01.")
    year, number = int(found[1]), int(found[2])
    start = datetime(year, number, 1, tzinfo=UTC)
    end = datetime(year + number // 12, number % 12 + 1, 1, tzinfo=UTC)
    return int(start.timestamp()) * 1000, int(end.timestamp()) * 1000


def _used(groups: Sequence[UsageSum], prices: Mapping[int, PriceRow]) -> dict[str, Any]:
    """The lines, what they add up to, and what of that was not charged."""
    lines = [line for group in groups for line in _lines(group, prices[group.price_version])]
    due = sum(line["amount_nanos"] for line in lines)
    charged = sum(group.charge_nanos for group in groups)
    return {
        "lines": lines,
        "requests": sum(group.requests for group in groups),
        "uncharged": sum(group.uncharged for group in groups),
        **_amount("due", due),
        **_amount("reduction", due - charged),
        **_amount("charges", charged),
        **_amount("forgiven", sum(group.forgiven_nanos for group in groups)),
        **_amount("saved", sum(_saved(group, prices) for group in groups)),
    }


def _saved(group: UsageSum, prices: Mapping[int, PriceRow]) -> int:
    return saved(group.cached, prices[group.price_version].price)


def _lines(group: UsageSum, row: PriceRow) -> list[dict[str, Any]]:
    """A line for each class that was used: count x unit price = amount."""
    units = (row.price.input, row.price.cached, row.price.output, row.price.search)
    counts = (group.input, group.cached, group.output, group.searches)
    return [
        {
            "model": group.model,
            "price_version": row.version,
            "price_from": statement.moment(row.from_ms),
            "class": name,
            "title": title,
            "count": count,
            "unit_nanos": unit,
            "unit_usd": nanos_to_usd(unit) if name == "searches" else nanos_to_per_million(unit),
            "per": "search" if name == "searches" else "million tokens",
            **_amount("amount", count * unit),
        }
        for (name, title), count, unit in zip(_CLASSES, counts, units, strict=True)
        if count
    ]


def _credit(entry: EntryRow) -> dict[str, Any]:
    return {
        "posted": statement.moment(entry.created_ms),
        "kind": entry.kind,
        "tx": entry.tx,
        **_amount("amount", entry.amount_nanos),
    }


def _balances(opening: int, credits: int, charged: int) -> dict[str, Any]:
    """The wallet from the month's first moment to its last."""
    closing = opening + credits - charged
    return {
        **_amount("opening", opening),
        **_amount("credits", credits),
        **_amount("closing", closing),
        **_amount("owed", max(0, -closing)),
    }


def _sum(entries: Iterable[EntryRow]) -> int:
    return sum(entry.amount_nanos for entry in entries)


def _amount(name: str, nanos: int) -> dict[str, Any]:
    return {f"{name}_nanos": nanos, f"{name}_usd": nanos_to_usd(nanos)}


OPERATIONS: Final = (Operation("GET", "/accounts/{id}/invoice", show),)
