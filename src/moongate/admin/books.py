"""The operations on the books: the statement of charges and the audit. They only read."""

from typing import Final

from moongate.admin import shapes, statement
from moongate.admin.call import Answer, Call, Means, Operation
from moongate.admin.fields import Fields
from moongate.core.errors import Refused


async def charges(means: Means, call: Call) -> Answer:
    """Charges from ``from`` up to and with ``to``; ``each`` gives every request a line."""
    fields = Fields(call.query, ("account", "from", "to", "each"))
    account = fields.account("account") if call.query.get("account") else None
    from_ms, to_ms = fields.span()
    if account is not None and await means.store.account(account) is None:
        raise Refused("not_found", thing="account")
    names = {row.id: row.name for row in await means.keys.list()}
    if fields.flag("each"):
        rows = await means.store.usage(account, from_ms, to_ms)
        prices = statement.by_version(await means.store.prices())
        lines = statement.each(rows, names, prices)
    else:
        groups = await means.store.usage_sums(account, from_ms, to_ms)
        prices = statement.by_version(await means.store.prices())
        lines = statement.lines(groups, names, prices)
    return {
        "object": "statement",
        "account": account,
        "from": statement.asked(call.query.get("from"), from_ms or None),
        "to": statement.asked(call.query.get("to"), to_ms),
        "data": lines,
        "total": statement.total(lines),
    }


async def audit(means: Means, call: Call) -> Answer:
    """Whether every invariant of the ledger holds, and where one does not."""
    Fields(call.query, ())
    found = await means.store.audit()
    return {"ok": not found, "findings": [shapes.finding(one) for one in found]}


OPERATIONS: Final = (
    Operation("GET", "/statement", charges),
    Operation("GET", "/ledger/audit", audit),
)
