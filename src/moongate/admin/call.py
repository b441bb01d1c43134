"""What an operation is: a row of the table, the call that it answers, and what it works with.

An operation is a plain function of its means and a call. This module refuses to know which
operations there are.
"""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from moongate.access.keys import Keys
from moongate.core.cards import Offer
from moongate.core.errors import Refused
from moongate.core.ports import Clock, Store, Upstream
from moongate.core.rows import AccountRow, PriceRow
from moongate.ledger.receipt import Signer

PREFIX: Final = "/admin/v1"
Answer = dict[str, Any]
_LEDGERS: Final = frozenset({"cash", "promo", "revenue", "contra", "forgiven", "suspense"})
_KEPT: Final = "The ledger keeps this account for itself."


class Operator(msgspec.Struct, frozen=True):
    """Who runs this, as invoices say it; empty where the configuration does not tell."""

    name: str = ""
    contact: str = ""
    url: str = ""


class Means(msgspec.Struct):
    """What operations work with.

    ``offers`` tells the models on offer now; ``signer`` signs receipts.
    ``about`` tells of the server whose office this is, if there is one: ``pid``, ``version``,
    ``api`` (its address), ``configuration_from`` and ``configuration`` without secrets.
    ``reprice`` gives it the price rows as they stand now. ``address`` is where buyers reach it,
    without a path.
    """

    store: Store
    keys: Keys
    clock: Clock
    offers: Callable[[], list[Offer]]
    upstreams: Mapping[str, Upstream]
    signer: Signer
    operator: Operator = Operator()
    about: Callable[[], Answer] | None = None
    reprice: Callable[[Sequence[PriceRow]], None] | None = None
    address: Callable[[], str] = lambda: ""


class Call(msgspec.Struct, frozen=True):
    """One call: what its path names, its query and its body."""

    id: str
    query: Mapping[str, str]
    body: Mapping[str, Any]


Run = Callable[[Means, Call], Awaitable[Answer]]


class Operation(msgspec.Struct, frozen=True):
    """A row of the table. ``path``, below the prefix, may hold ``{id}``."""

    verb: Literal["GET", "POST"]
    path: str
    run: Run

    @property
    def pattern(self) -> re.Pattern[str]:
        """The whole path as a pattern with the group ``id``."""
        return re.compile(re.escape(PREFIX + self.path).replace(r"\{id\}", "(?P<id>[^/]+)"))


def listed(data: list[Answer]) -> Answer:
    """An answer that is a list."""
    return {"object": "list", "data": data}


def model_names(means: Means) -> dict[str, str]:
    """Ids and aliases of the models on offer, to their ids."""
    cards = [offer.card for offer in means.offers()]
    names = {name: card.id for card in cards for name in card.aliases}
    return names | {card.id: card.id for card in cards}


async def wallet(means: Means, account: str) -> tuple[AccountRow, bool]:
    """The wallet ``account``, and whether it was made now. Refuses the ledger's own."""
    row, made = await means.store.account(account), False
    if (
        row is None and account in _LEDGERS
    ):  # a store that spreads it over several has none so named
        raise Refused("conflict", "account", what=_KEPT)
    if row is None:
        fresh = AccountRow(account, "wallet", 0, 0, 0, means.clock.now_ms())
        await means.store.account_create(fresh)
        row, made = await means.store.account(account) or fresh, True
    if row.kind != "wallet":
        raise Refused("conflict", "account", what=_KEPT)
    return row, made
