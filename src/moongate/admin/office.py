"""The table of operations, and the office that carries them out over its means.

Each group of operations is a module with a table of its own; a new group is one more line here.
Amounts are made durable by the store before an answer leaves. A call that moves money carries
an id of its caller's, so that a repeat changes nothing.
"""

from collections.abc import Mapping
from typing import Any, Final

from moongate.admin import (
    accounts,
    books,
    budgets,
    invites,
    invoice,
    keys,
    offers,
    prices,
    receipts,
)
from moongate.admin.call import Answer, Call, Means, Operation
from moongate.core.errors import Refused

OPERATIONS: Final[tuple[Operation, ...]] = (
    *keys.OPERATIONS,
    *accounts.OPERATIONS,
    *budgets.OPERATIONS,
    *invites.OPERATIONS,
    *books.OPERATIONS,
    *invoice.OPERATIONS,
    *offers.OPERATIONS,
    *prices.OPERATIONS,
    *receipts.OPERATIONS,
)
_PATTERNS: Final = tuple((operation, operation.pattern) for operation in OPERATIONS)


class Office:
    """Carries out operations with ``means``."""

    def __init__(self, means: Means) -> None:
        self.means = means

    async def dispatch(
        self, verb: str, path: str, query: Mapping[str, str], body: Mapping[str, Any]
    ) -> tuple[int, Answer]:
        """Carry out the operation of ``verb`` and ``path``; HTTP status and JSON-able answer.

        Raises Refused (what the caller can mend) and LedgerUnavailable.
        """
        known = False
        for operation, pattern in _PATTERNS:
            found = pattern.fullmatch(path)
            if found is None:
                continue
            known = True
            if operation.verb == verb:
                call = Call(found.groupdict().get("id") or "", query, body)
                return 200, await operation.run(self.means, call)
        raise Refused("method_not_allowed" if known else "unknown_url")
