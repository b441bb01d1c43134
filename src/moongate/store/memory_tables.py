"""The tables of the memory store, and the strokes that every move of money is made of.

A stroke keeps the sums (posted, held, chains) true to the rows. Whether a move may be made is not
known here.
"""

import asyncio
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from moongate.core.chain import link
from moongate.core.errors import LedgerUnavailable, Refused
from moongate.core.rows import (
    AccountRow,
    BudgetRow,
    EntryRow,
    HoldRow,
    HoldState,
    InviteRow,
    KeyRow,
    PriceRow,
    UsageRow,
)
from moongate.store.mapping import AGAINST, AMOUNT_MAX

replace = msgspec.structs.replace
SYSTEM: Final = ("cash", "promo", "revenue", "contra", "forgiven")
"""The ledger's own accounts; each is called what it is."""


def refused() -> ValueError:
    """What a table's constraint says."""
    return ValueError("the store refused this row")


class IdemRow(msgspec.Struct, frozen=True):
    """Which request used an Idempotency-Key, and the MAC of its body."""

    body: bytes
    hold: str
    expires_ms: int


class Tables:
    """Rows by their ids; entries in their order."""

    def __init__(self) -> None:
        self.accounts = {kind: AccountRow(kind, kind, 0, 0, 0, 0) for kind in SYSTEM}
        self.keys: dict[str, KeyRow] = {}
        self.prices: dict[int, PriceRow] = {}
        self.budgets: dict[tuple[str, str, str], BudgetRow] = {}
        self.holds: dict[str, HoldRow] = {}
        self.renewed: dict[str, int] = {}
        self.entries: list[EntryRow] = []
        self.usage: dict[str, UsageRow] = {}
        self.idem: dict[tuple[str, bytes], IdemRow] = {}
        self.topups: set[tuple[str, str]] = set()
        self.invites: dict[str, InviteRow] = {}
        self.secrets: dict[str, list[tuple[int, bytes]]] = {}
        self.notes: dict[str, str] = {}
        self.beats: dict[str, int] = {}
        self.low: dict[str, int | None] = {}

    def alter_account(self, id: str, **fields: object) -> None:
        """Give an account other figures."""
        self.accounts[id] = replace(self.accounts[id], **fields)

    def set_aside(self, legs: Iterable[str], nanos: int) -> None:
        """Hold so much more on every leg (less, when it is negative)."""
        for leg in legs:
            self.alter_account(leg, held_nanos=self.accounts[leg].held_nanos + nanos)

    def post(
        self, tx: str, seq: int, kind: str, sides: tuple[str, str], nanos: int, at_ms: int
    ) -> None:
        """Move ``nanos`` to the first side from the second: the entries ``seq`` and the next."""
        for place, (id, amount) in enumerate(zip(sides, (nanos, -nanos), strict=True)):
            account = self.accounts[id]
            entry = EntryRow(tx, seq + place, id, amount, kind, at_ms)
            if account.kind == "wallet":
                entry = replace(entry, chain_no=account.chain_no + 1)
                entry = replace(entry, chain=link(account.chain, entry))
                self.alter_account(id, chain_no=entry.chain_no, chain=entry.chain)
            self.alter_account(id, posted_nanos=account.posted_nanos + amount)
            self.entries.append(entry)

    def credit(self, account: str, nanos: int, kind: str, tx: str, at_ms: int) -> None:
        """Post a credit to a wallet. Raises Refused when there is none or it cannot take it."""
        row = self.accounts.get(account)
        if row is None or row.kind != "wallet":
            raise Refused("not_found", thing="account")
        if row.available_nanos + nanos < 0 or row.posted_nanos + nanos > AMOUNT_MAX:
            raise Refused("conflict", what="The account cannot take that amount.")
        self.post(tx, 0, kind, (account, AGAINST[kind]), nanos, at_ms)

    def open_holds(self) -> Iterator[HoldRow]:
        """Holds that are not resolved, oldest first."""
        rows = sorted(self.holds.values(), key=lambda row: (row.created_ms, row.id))
        return (row for row in rows if row.state is HoldState.OPEN)


class MemoryPart:
    """What the parts of the memory store share. Set ``trouble`` to a word: LedgerUnavailable."""

    def __init__(self) -> None:
        self.trouble: str | None = None
        self.tables = Tables()

    async def _turn(self) -> None:
        """Give way to other tasks once, as a real store does, before acting in one piece."""
        await asyncio.sleep(0)
        if self.trouble is not None:
            raise LedgerUnavailable(self.trouble)
