"""The operations on invitations: a one-time link that gives whoever opens it a key of an account.

The code stands behind the ``#`` of the link: no server and no proxy ever sees it in an address.
"""

from typing import Final

from moongate.access.invites import Invites
from moongate.admin import shapes
from moongate.admin.call import Answer, Call, Means, Operation, listed, wallet
from moongate.admin.fields import Fields, account_id
from moongate.core.errors import Refused

_HOURS: Final = 7 * 24
_HOURS_MAX: Final = 365 * 24


async def create(means: Means, call: Call) -> Answer:
    """Invite to an account, made when new; ``code`` and ``link`` are told only here.

    ``name`` is what the key will be called. ``credit`` is dollars of trial credit, at once.
    """
    fields = Fields(call.body, ("name", "expires_hours", "credit"))
    account = account_id(call.id)
    name = fields.label("name") if fields.has("name") else account
    hours = fields.whole("expires_hours", _HOURS, 1, _HOURS_MAX)
    nanos = fields.credit_nanos("credit") if fields.has("credit") else 0
    _, fresh = await wallet(means, account)
    invites = Invites(means.store, means.keys, means.clock)
    row, code = await invites.invite(account, name, hours * 3_600_000, nanos)
    return {
        **shapes.invitation(row, means.clock.now_ms()),
        "code": code,
        "link": f"{means.address()}/join#{code}",
        **shapes.money("credited", nanos),
        "account_created": fresh,
    }


async def every(means: Means, call: Call) -> Answer:
    """Every invitation, or those to ``account``."""
    account = Fields(call.query, ("account",)).text("account", "")
    if account and await means.store.account(account_id(account)) is None:
        raise Refused("not_found", thing="account")
    now_ms = means.clock.now_ms()
    rows = await means.store.invites(account or None)
    return listed([shapes.invitation(row, now_ms) for row in rows])


OPERATIONS: Final = (
    Operation("POST", "/accounts/{id}/invites", create),
    Operation("GET", "/invites", every),
)
