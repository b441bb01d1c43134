"""The operations on accounts: list, show, credit, limit. A repeated credit changes nothing."""

from typing import Final

from moongate.admin import shapes
from moongate.admin.call import Answer, Call, Means, Operation, listed, wallet
from moongate.admin.fields import RATES, Fields, account_id
from moongate.core.errors import Refused
from moongate.core.ids import new_id

_KINDS: Final = ("topup", "trial")


async def every(means: Means, call: Call) -> Answer:
    """Wallets; with ``all`` also the accounts that the ledger keeps for itself."""
    everything = Fields(call.query, ("all",)).flag("all")
    rows = await means.store.accounts()
    return listed([shapes.account(row) for row in rows if everything or row.kind == "wallet"])


async def show(means: Means, call: Call) -> Answer:
    """One account."""
    row = await means.store.account(account_id(call.id))
    if row is None:
        raise Refused("not_found", thing="account")
    return shapes.account(row)


async def credit(means: Means, call: Call) -> Answer:
    """Credit ``usd`` to a wallet, made when new. ``tx`` makes a repeat harmless."""
    fields = Fields(call.body, ("usd", "kind", "tx"))
    nanos = fields.credit_nanos("usd")
    kind = fields.word("kind", _KINDS)
    now_ms = means.clock.now_ms()
    tx = fields.tx("tx", new_id("credit_", now_ms))
    account = account_id(call.id)
    _, fresh = await wallet(means, account)
    done = await means.store.credit(account, nanos, kind, tx, now_ms)
    row, _ = await wallet(means, account)
    return {
        **shapes.account(row),
        "tx": tx,
        **shapes.money("credited", nanos if done else 0),
        "repeated": not done,
        "account_created": fresh,
    }


async def limit(means: Means, call: Call) -> Answer:
    """Other rates for an account, over all its keys; null or 0 takes one away."""
    fields = Fields(call.body, RATES)
    row = await means.store.account(account_id(call.id))
    if row is None or row.kind != "wallet":
        raise Refused("not_found", thing="account")
    await means.store.account_quota(row.id, fields.quota(row.quota))
    return await show(means, Call(row.id, {}, {}))


OPERATIONS: Final = (
    Operation("GET", "/accounts", every),
    Operation("GET", "/accounts/{id}", show),
    Operation("POST", "/accounts/{id}/credit", credit),
    Operation("POST", "/accounts/{id}/limit", limit),
)
