"""What many resolved requests add up to, in the groups that statements and invoices are made of.

A group holds one account, model and price version, and one day (UTC) and key where they are asked
for, so that its tokens times its prices are its money. This is the definition; engines that can
add up themselves do the same in SQL.
"""

from collections.abc import Iterable
from typing import Final

import msgspec

from moongate.core.rows import Outcome, UsageRow

DAY_MS: Final = 86_400_000
FREE: Final[frozenset[Outcome]] = frozenset(
    {"upstream_error", "gateway_error", "refused", "expired"}
)
"""Outcomes that cost nothing unless the row says otherwise (a crash that is settled does)."""


class UsageSum(msgspec.Struct, frozen=True):
    """The sums of one group. ``day`` counts days since the epoch; -1 and ``""``: not asked for.

    ``uncharged`` of the ``requests`` cost nothing; their tokens are not among the tokens, and what
    they were worth is in ``forgiven_nanos``, with what was given away of those that were charged.
    """

    day: int
    account: str
    key: str
    model: str
    price_version: int
    requests: int = 0
    uncharged: int = 0
    input: int = 0
    cached: int = 0
    output: int = 0
    searches: int = 0
    charge_nanos: int = 0
    forgiven_nanos: int = 0


def charged(row: UsageRow) -> bool:
    """Whether a request's tokens were billed, if only in part or at a price of nothing."""
    return row.charge_nanos > 0 or (
        row.outcome not in FREE and row.forgiven_nanos == row.spoiled_nanos
    )


def add_up(rows: Iterable[UsageRow], *, days: bool, keys: bool) -> list[UsageSum]:
    """The groups of ``rows`` in the order of day, account, key, model and price version."""
    sums: dict[tuple[int, str, str, str, int], UsageSum] = {}
    for row in rows:
        day = row.ended_ms // DAY_MS if days else -1
        group = (day, row.account, row.key if keys else "", row.model, row.price_version)
        one = _one(group, row)
        known = sums.get(group)
        sums[group] = one if known is None else _together(known, one)
    return [sums[group] for group in sorted(sums)]


def _one(group: tuple[int, str, str, str, int], row: UsageRow) -> UsageSum:
    if not charged(row):
        return UsageSum(*group, requests=1, uncharged=1, forgiven_nanos=row.forgiven_nanos)
    used = row.usage
    return UsageSum(
        *group,
        requests=1,
        input=used.input,
        cached=used.cache_read,
        output=used.output,
        searches=used.searches,
        charge_nanos=row.charge_nanos,
        forgiven_nanos=row.forgiven_nanos,
    )


def _together(a: UsageSum, b: UsageSum) -> UsageSum:
    figures = UsageSum.__struct_fields__[5:]
    return msgspec.structs.replace(
        a, **{name: getattr(a, name) + getattr(b, name) for name in figures}
    )
