"""The operation on receipts: make the signed receipt of a request that has ended."""

from typing import Final

from moongate.admin.call import Answer, Call, Means, Operation
from moongate.admin.fields import Fields
from moongate.core.errors import Refused
from moongate.ledger import receipt


async def show(means: Means, call: Call) -> Answer:
    """The receipt of one request, whoever made it."""
    Fields(call.query, ())
    return await signed(means, call.id)


async def signed(means: Means, request: str, account: str | None = None) -> Answer:
    """The receipt of ``request``; with ``account`` only of that account's own.

    A request that is unknown, another's or not ended yet is one and the same: not there.
    """
    row = await means.store.usage_row(request)
    if row is None or account not in {None, row.account}:
        raise Refused("not_found", thing="receipt")
    price = next(
        price for price in await means.store.prices() if price.version == row.price_version
    )
    entries = await means.store.entries(tx=row.hold) if row.charge_nanos else []
    paid = [entry for entry in entries if entry.account == row.account and entry.kind == "charge"]
    return means.signer.sign(receipt.make(row, price, paid[0] if paid else None))


async def public_key(means: Means, call: Call) -> Answer:
    """The key that receipts are checked with."""
    Fields(call.query, ())
    return key_shape(means)


def key_shape(means: Means) -> Answer:
    """The public key as hex, its short name, and what it is a key of."""
    public = means.signer.public
    return {
        "object": "receipt_key",
        "key_id": receipt.key_id(public),
        "algorithm": "Ed25519",
        "public_key": public.hex(),
    }


OPERATIONS: Final = (
    Operation("GET", "/receipts/key", public_key),
    Operation("GET", "/receipts/{id}", show),
)
