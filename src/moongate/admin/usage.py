"""Usage of one account by day, key or model: the statement's figures in larger groups."""

from collections.abc import Mapping
from typing import Any, Final

from moongate.admin import statement
from moongate.admin.call import Answer, Means
from moongate.admin.fields import Fields
from moongate.core.sums import UsageSum

_GROUPS: Final = ("day", "key", "model")


async def grouped(means: Means, account: str, query: Mapping[str, str]) -> Answer:
    """What ``account`` used from ``from`` up to and with ``to``, by ``group_by``."""
    fields = Fields(query, ("from", "to", "group_by", "account"))
    by = fields.word("group_by", _GROUPS)
    from_ms, to_ms = fields.span()
    groups = await means.store.usage_sums(
        account, from_ms, to_ms, days=by == "day", keys=by == "key"
    )
    prices = statement.by_version(await means.store.prices())
    sums: dict[str, dict[str, int]] = {}
    for group in groups:
        figures = statement.figures(group, prices[group.price_version])
        known = sums.setdefault(_name(group, by), dict.fromkeys(figures, 0))
        for name, figure in figures.items():
            known[name] += figure
    names = {row.id: row.name for row in await means.keys.list(account)} if by == "key" else {}
    data = [_line(by, name, names, sums[name]) for name in sorted(sums)]
    return {
        "object": "usage",
        "account": account,
        "from": statement.asked(query.get("from"), from_ms or None),
        "to": statement.asked(query.get("to"), to_ms),
        "group_by": by,
        "data": data,
        "total": statement.total(data),
    }


def _name(group: UsageSum, by: str) -> str:
    if by == "day":
        return statement.day(group.day)
    return group.key if by == "key" else group.model


def _line(by: str, name: str, names: Mapping[str, str], sums: Mapping[str, int]) -> dict[str, Any]:
    named = {"key_name": names.get(name, "")} if by == "key" else {}
    return {by: name, **named, **statement.with_usd(sums)}
