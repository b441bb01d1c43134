"""The operations on budgets: list, and set. A budget hangs on a key's id, a project or an account.

A cap is a row that the store reads inside every hold, so a change is effective at once on every
worker. A cap of 0 lets nothing pass; a cap of null is no budget.
"""

from typing import Final

import msgspec

from moongate.admin import shapes
from moongate.admin.call import Answer, Call, Means, Operation, listed
from moongate.admin.fields import Fields, account_id, project_id
from moongate.core.errors import Refused
from moongate.core.ids import new_id
from moongate.core.rows import BudgetRow, Per, Scope

PERIODS: Final[tuple[Per, ...]] = ("month", "day", "week", "life")
_SCOPES: Final[tuple[Scope, ...]] = ("key", "project", "account")


class Subject(msgspec.Struct, frozen=True):
    """What a budget hangs on, and the account that pays for it."""

    scope: Scope
    id: str
    account: str


async def every(means: Means, call: Call) -> Answer:
    """Every budget, or those that ``account`` pays for, with what its window has spent."""
    account = Fields(call.query, ("account",)).text("account", "")
    now_ms = means.clock.now_ms()
    if account and await means.store.account(account_id(account)) is None:
        raise Refused("not_found", thing="account")
    rows = await means.store.budgets(account or None, now_ms)
    return listed([shapes.budget(row, now_ms) for row in rows])


async def change(means: Means, call: Call) -> Answer:
    """Cap what a ``key``, a ``project`` (ACCOUNT/PROJECT) or an ``account`` may spend ``per``.

    ``usd`` null ends the budget: ``removed``.
    """
    fields = Fields(call.body, (*_SCOPES, "per", "usd"))
    subject = await _subject(means, fields)
    per = fields.word("per", PERIODS)
    if not fields.has("usd"):
        raise Refused("missing_required_parameter", "usd", what="Dollars, or null for no budget.")
    if call.body["usd"] is not None:
        cap_nanos = fields.credit_nanos("usd", least=0)
        return {**await put(means, subject, per, cap_nanos), "removed": False}
    if not await means.store.budget_remove(subject.scope, subject.id, per):
        raise Refused("not_found", thing="budget")
    return {
        "object": "budget",
        "account": subject.account,
        "scope": subject.scope,
        "subject": subject.id,
        "per": per,
        "removed": True,
    }


async def put(means: Means, subject: Subject, per: Per, cap_nanos: int) -> Answer:
    """Make a budget, or give it another cap; what it has spent in its window stays."""
    now_ms = means.clock.now_ms()
    id = new_id("bud_", now_ms)
    made = await means.store.budget_set(
        BudgetRow(id, subject.account, subject.scope, subject.id, per, cap_nanos, now_ms)
    )
    rows = await means.store.budgets(subject.account, now_ms)
    return shapes.budget(next((row for row in rows if row.id == made.id), made), now_ms)


async def _subject(means: Means, fields: Fields) -> Subject:
    """The one subject that was named, when there is such a one."""
    named = [scope for scope in _SCOPES if fields.text(scope, "")]
    if len(named) != 1:
        raise Refused(
            "missing_required_parameter", "account", what="Name one key, project or account."
        )
    scope, id = named[0], fields.text(named[0])
    if scope == "key":
        row = next((row for row in await means.keys.list() if row.id == id), None)
        if row is None:
            raise Refused("not_found", thing="key")
        return Subject(scope, id, row.account)
    account, slash, project = id.partition("/")
    if scope == "project":
        if not slash:
            raise Refused("invalid_value", scope, what="A project is named ACCOUNT/PROJECT here.")
        project_id(project, scope)
    account_id(account if scope == "project" else id, scope)
    wallet = await means.store.account(account)
    if wallet is None or wallet.kind != "wallet":
        raise Refused("not_found", thing="account")
    return Subject(scope, id, account)


OPERATIONS: Final = (
    Operation("GET", "/budgets", every),
    Operation("POST", "/budgets", change),
)
