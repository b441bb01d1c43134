"""A wallet's balance in the three figures that Moonshot's interface has.

Trial credit counts as a voucher and is used up first: what is left of it is what was given less
everything charged. The rest, a credit limit included, counts as cash.
"""

from moongate.admin.call import Means
from moongate.core.errors import Refused


async def balance(means: Means, account: str) -> tuple[int, int]:
    """What a new request may take (nano-dollars), and how much of it is trial credit."""
    row = await means.store.account(account)
    if row is None:
        raise Refused("not_found", thing="account")
    credits = await means.store.credits(account)
    given = sum(entry.amount_nanos for entry in credits if entry.kind == "trial")
    charged = sum(entry.amount_nanos for entry in credits) - row.posted_nanos
    return row.available_nanos, max(0, min(given - charged, row.available_nanos))
