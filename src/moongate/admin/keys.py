"""The operations on keys: create, list, revoke. A secret is told once, by its creation."""

from typing import Final, Literal

from moongate.access.keys import LOCAL_KEY
from moongate.admin import shapes
from moongate.admin.call import Answer, Call, Means, Operation, listed, model_names, wallet
from moongate.admin.fields import Fields, account_id
from moongate.core.errors import Refused

_POLICIES: Final[tuple[Literal["standard", "strict", "lenient"], ...]] = (
    "standard",
    "strict",
    "lenient",
)
_KEY_FIELDS: Final = (
    "name", "account", "expires", "models", "policy", "zero_retention", "admin",
)  # fmt: skip


async def create(means: Means, call: Call) -> Answer:
    """A new key; ``key`` is its secret, told only here. An account is made when new."""
    fields = Fields(call.body, _KEY_FIELDS)
    expires_ms = fields.moment("expires", end=True)
    if expires_ms is not None and expires_ms <= means.clock.now_ms():
        raise Refused("invalid_value", "expires", what="This lies in the past.")
    name = fields.label("name")
    account = fields.account("account", "default")
    _, fresh = await wallet(means, account)
    row, secret = await means.keys.create(
        account=account,
        name=name,
        models=_model_ids(means, fields.texts("models")),
        policy=fields.word("policy", _POLICIES),
        zero_retention=fields.flag("zero_retention"),
        expires_ms=expires_ms,
        admin=fields.flag("admin"),
    )
    return {
        **shapes.key(row, means.clock.now_ms()),
        "key": secret,
        "account_created": fresh,
    }


def _model_ids(means: Means, names: tuple[str, ...]) -> tuple[str, ...]:
    """Models by id or alias, as ids."""
    ids = model_names(means)
    for at, name in enumerate(names):
        if name not in ids:
            raise Refused("invalid_value", f"models[{at}]", what="There is no such model.")
    return tuple(dict.fromkeys(ids[name] for name in names))


async def every(means: Means, call: Call) -> Answer:
    """Every key, or those of ``account``."""
    account = Fields(call.query, ("account",)).text("account", "")
    now_ms = means.clock.now_ms()
    if account and await means.store.account(account_id(account)) is None:
        raise Refused("not_found", thing="account")
    rows = await means.keys.list(account or None)
    return listed([shapes.key(row, now_ms) for row in rows])


async def revoke(means: Means, call: Call) -> Answer:
    """End a key at once. One that ended already stays as it is."""
    Fields(call.body, ())
    if call.id == LOCAL_KEY:
        raise Refused("conflict", what="This key is the admin socket's own; it has no secret.")
    await means.keys.revoke(call.id)
    row = next((row for row in await means.keys.list() if row.id == call.id), None)
    if row is None:
        raise Refused("not_found", thing="key")
    return shapes.key(row, means.clock.now_ms())


OPERATIONS: Final = (
    Operation("POST", "/keys", create),
    Operation("GET", "/keys", every),
    Operation("POST", "/keys/{id}/revoke", revoke),
)
