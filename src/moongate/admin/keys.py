"""The operations on keys: create, list, rotate, limit, revoke.

A secret is told once, by what made it.
"""

from typing import Final, Literal

from moongate.access.keys import LOCAL_KEY
from moongate.admin import budgets, shapes
from moongate.admin.call import Answer, Call, Means, Operation, listed, model_names, wallet
from moongate.admin.fields import RATES, Fields, account_id, project_id
from moongate.core.errors import Refused
from moongate.core.rows import NO_QUOTA, KeyRow

_POLICIES: Final[tuple[Literal["standard", "strict", "lenient"], ...]] = (
    "standard",
    "strict",
    "lenient",
)
_KEY_FIELDS: Final = (
    "name", "account", "project", "expires", "models", "policy", "zero_retention", "admin",
    "budget", "per", *RATES,
)  # fmt: skip
OVERLAP_HOURS: Final = 24
_OVERLAP_HOURS_MAX: Final = 30 * 24


async def create(means: Means, call: Call) -> Answer:
    """A new key; ``key`` is its secret, told only here. An account is made when new."""
    fields = Fields(call.body, _KEY_FIELDS)
    expires_ms = fields.moment("expires", end=True)
    if expires_ms is not None and expires_ms <= means.clock.now_ms():
        raise Refused("invalid_value", "expires", what="This lies in the past.")
    name = fields.label("name")
    account = fields.account("account", "default")
    project = fields.text("project", "")
    cap_nanos = fields.credit_nanos("budget", least=0) if fields.has("budget") else None
    per = fields.word("per", budgets.PERIODS)
    if cap_nanos is None and fields.has("per"):
        raise Refused("missing_required_parameter", "budget", what="per belongs to a budget.")
    models, quota = _model_ids(means, fields.texts("models")), fields.quota(NO_QUOTA)
    policy = fields.word("policy", _POLICIES)
    zero_retention, admin = fields.flag("zero_retention"), fields.flag("admin")
    _, fresh = await wallet(means, account)
    row, secret = await means.keys.create(
        account=account,
        name=name,
        models=models,
        policy=policy,
        zero_retention=zero_retention,
        expires_ms=expires_ms,
        admin=admin,
        project=project and project_id(project),
        quota=quota,
        cap=None if cap_nanos is None else (per, cap_nanos),
    )
    now_ms = means.clock.now_ms()
    rows = [] if cap_nanos is None else await means.store.budgets(account, now_ms)
    caps = [shapes.budget(cap, now_ms) for cap in rows if cap.subject == row.id]
    return {
        **_shown(means, row),
        "budgets": caps,
        "key": secret,
        "account_created": fresh,
    }


def _shown(means: Means, row: KeyRow) -> Answer:
    return shapes.key(row, means.clock.now_ms())


def _model_ids(means: Means, names: tuple[str, ...]) -> tuple[str, ...]:
    """Models by id or alias, as ids."""
    ids = model_names(means)
    for at, name in enumerate(names):
        if name not in ids:
            raise Refused("invalid_value", f"models[{at}]", what="There is no such model.")
    return tuple(dict.fromkeys(ids[name] for name in names))


async def every(means: Means, call: Call) -> Answer:
    """Every key with its budgets and its last use, or the keys of ``account``."""
    account = Fields(call.query, ("account",)).text("account", "")
    now_ms = means.clock.now_ms()
    if account and await means.store.account(account_id(account)) is None:
        raise Refused("not_found", thing="account")
    rows = await means.keys.list(account or None)
    caps: dict[str, list[Answer]] = {row.id: [] for row in rows}
    for budget in await means.store.budgets(account or None, now_ms):
        if budget.scope == "key" and budget.subject in caps:
            caps[budget.subject].append(shapes.budget(budget, now_ms))
    used = await means.store.last_used(account or None)
    return listed(
        [
            {
                **shapes.key(row, now_ms),
                "budgets": caps[row.id],
                "last_used_ms": used.get(row.id),
            }
            for row in rows
        ]
    )


async def rotate(means: Means, call: Call) -> Answer:
    """Another secret, told only here; the one before works for ``overlap_hours`` more."""
    fields = Fields(call.body, ("overlap_hours",))
    hours = fields.whole("overlap_hours", OVERLAP_HOURS, 0, _OVERLAP_HOURS_MAX)
    _not_local(call.id)
    secret = await means.keys.rotate(call.id, hours * 3_600_000)
    row = await _found(means, call.id)
    if secret is None:
        raise Refused("conflict", what="This key has ended; create another.")
    return {**_shown(means, row), "key": secret}


async def limit(means: Means, call: Call) -> Answer:
    """Other rates for a key; null or 0 takes one away, what is not named stays."""
    fields = Fields(call.body, RATES)
    row = await _found(means, call.id)
    await means.keys.limit(row.id, fields.quota(row.quota))
    return _shown(means, await _found(means, call.id))


async def revoke(means: Means, call: Call) -> Answer:
    """End a key at once. One that ended already stays as it is."""
    Fields(call.body, ())
    _not_local(call.id)
    await means.keys.revoke(call.id)
    return _shown(means, await _found(means, call.id))


def _not_local(id: str) -> None:
    if id == LOCAL_KEY:
        raise Refused("conflict", what="This key is the admin socket's own; it has no secret.")


async def _found(means: Means, id: str) -> KeyRow:
    row = next((row for row in await means.keys.list() if row.id == id), None)
    if row is None:
        raise Refused("not_found", thing="key")
    return row


OPERATIONS: Final = (
    Operation("POST", "/keys", create),
    Operation("GET", "/keys", every),
    Operation("POST", "/keys/{id}/rotate", rotate),
    Operation("POST", "/keys/{id}/limit", limit),
    Operation("POST", "/keys/{id}/revoke", revoke),
)
