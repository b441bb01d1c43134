"""The operations on the books: the statement of charges, the audit, the store. They only read."""

import statistics
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from moongate.admin import shapes, statement
from moongate.admin.call import Answer, Call, Means, Operation
from moongate.admin.fields import Fields
from moongate.core.errors import Refused

_ROUNDS: Final = 5


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


async def store(means: Means, call: Call) -> Answer:
    """The store: its kind and version, how long a look and a commit take, and who serves it."""
    Fields(call.query, ())
    look_ms = await _median_ms(means, lambda: means.store.account("cash"))
    commit_ms = await _median_ms(means, means.store.ping)
    facts = msgspec.to_builtins(await means.store.facts(means.clock.now_ms()))
    return {"object": "store", **facts, "look_ms": look_ms, "commit_ms": commit_ms}


async def _median_ms(means: Means, act: Callable[[], Awaitable[object]]) -> float:
    """How long ``act`` takes, of a few times the one in the middle (milliseconds)."""
    times_s = []
    for _ in range(_ROUNDS):
        begin_s = means.clock.monotonic_s()
        await act()
        times_s.append(means.clock.monotonic_s() - begin_s)
    return round(statistics.median(times_s) * 1000, 2)


OPERATIONS: Final = (
    Operation("GET", "/statement", charges),
    Operation("GET", "/ledger/audit", audit),
    Operation("GET", "/store", store),
)
