"""The store in memory: the fake of ``core.ports.Store``, with the same guards and the same audit.

Every call gives way to other tasks once before it acts, as the real one does, and acts in one
piece. ``trouble`` makes it unavailable. It is for one event loop.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from moongate.core.errors import LedgerUnavailable, Refused
from moongate.core.money import charge
from moongate.core.ports import Settlement
from moongate.core.rows import (
    AccountRow,
    EntryRow,
    Finding,
    HoldRow,
    HoldState,
    KeyRow,
    PriceRow,
    UsageRow,
)
from moongate.store.mapping import AGAINST, AMOUNT_MAX, expired_row, legs_of

_replace = msgspec.structs.replace
_SYSTEM: Final = ("cash", "promo", "revenue")


class MemoryStore:
    """Rows in dictionaries. Set ``trouble`` to a word and every call is LedgerUnavailable."""

    def __init__(self) -> None:
        self.trouble: str | None = None
        self._accounts = {kind: AccountRow(kind, kind, 0, 0, 0, 0) for kind in _SYSTEM}
        self._keys: dict[str, KeyRow] = {}
        self._prices: dict[int, PriceRow] = {}
        self._holds: dict[str, HoldRow] = {}
        self._renewed: dict[str, int] = {}
        self._entries: list[EntryRow] = []
        self._usage: dict[str, UsageRow] = {}

    async def open(self) -> None:
        """There is nothing to open."""

    async def close(self) -> None:
        """There is nothing to close; the rows stay."""

    async def ping(self) -> None:
        await self._turn()

    async def _turn(self) -> None:
        await asyncio.sleep(0)
        if self.trouble is not None:
            raise LedgerUnavailable(self.trouble)

    # accounts and keys

    async def account_create(self, row: AccountRow) -> bool:
        if row.posted_nanos or row.held_nanos:
            raise ValueError("money comes into an account by entries only")
        if not row.id or not 0 <= row.credit_limit_nanos <= AMOUNT_MAX:
            raise ValueError("the store refused this row")
        await self._turn()
        if row.id in self._accounts:
            return False
        self._accounts[row.id] = row
        return True

    async def account(self, id: str) -> AccountRow | None:
        await self._turn()
        return self._accounts.get(id)

    async def accounts(self) -> list[AccountRow]:
        await self._turn()
        return sorted(self._accounts.values(), key=lambda row: (row.created_ms, row.id))

    async def key_insert(self, row: KeyRow) -> None:
        await self._turn()
        taken = any(row.id == other.id or row.mac == other.mac for other in self._keys.values())
        if taken or row.account not in self._accounts:
            raise ValueError("the store refused this row")
        self._keys[row.id] = row

    async def key_by_mac(self, mac: bytes) -> KeyRow | None:
        await self._turn()
        return next((row for row in self._keys.values() if row.mac == mac), None)

    async def keys(self, account: str | None = None) -> list[KeyRow]:
        await self._turn()
        return [row for row in self._keys.values() if account is None or row.account == account]

    async def key_revoke(self, id: str, at_ms: int) -> bool:
        await self._turn()
        row = self._keys.get(id)
        if row is None or row.revoked_ms is not None:
            return False
        self._keys[id] = _replace(row, revoked_ms=at_ms)
        return True

    # prices

    async def price_add(self, row: PriceRow) -> PriceRow:
        if min(msgspec.structs.astuple(row.price)) < 0:
            raise ValueError("the store refused this row")
        await self._turn()
        row = _replace(row, version=len(self._prices) + 1)
        self._prices[row.version] = row
        return row

    async def prices(self) -> list[PriceRow]:
        await self._turn()
        return list(self._prices.values())

    # money

    async def credit(self, account: str, amount_nanos: int, kind: str, tx: str, at_ms: int) -> bool:
        if amount_nanos == 0 or kind not in AGAINST:
            raise ValueError("not a credit")
        await self._turn()
        if any(entry.tx == tx for entry in self._entries):
            return False
        row = self._accounts.get(account)
        if row is None or row.kind != "wallet":
            raise Refused("not_found", thing="account")
        if row.available_nanos + amount_nanos < 0 or row.posted_nanos + amount_nanos > AMOUNT_MAX:
            raise Refused("conflict", what="The account cannot take that amount.")
        self._post(tx, kind, amount_nanos, AGAINST[kind], account, at_ms)
        return True

    def _post(self, tx: str, kind: str, nanos: int, source: str, target: str, at_ms: int) -> None:
        """Move ``nanos`` from ``source`` to ``target``, the wallet's side first."""
        sides = [(target, nanos), (source, -nanos)]
        if kind == "charge":
            sides.reverse()
        for seq, (account, amount) in enumerate(sides):
            row = self._accounts[account]
            self._accounts[account] = _replace(row, posted_nanos=row.posted_nanos + amount)
            self._entries.append(EntryRow(tx, seq, account, amount, kind, at_ms))

    def _hold_on(self, row: HoldRow, nanos: int) -> None:
        for leg in legs_of(row):
            account = self._accounts[leg]
            self._accounts[leg] = _replace(account, held_nanos=account.held_nanos + nanos)

    async def hold(self, row: HoldRow) -> bool:
        await self._turn()
        if row.amount_nanos < 0:
            raise ValueError("a hold cannot be negative")
        legs = [self._accounts.get(leg) for leg in legs_of(row)]
        if not all(
            leg is not None
            and leg.kind in {"wallet", "budget"}
            and leg.available_nanos >= row.amount_nanos
            for leg in legs
        ):
            return False
        if row.id in self._holds or row.price_version not in self._prices:
            raise ValueError("the store refused this row")
        self._hold_on(row, row.amount_nanos)
        self._holds[row.id] = _replace(row, legs=legs_of(row), state=HoldState.OPEN)
        self._renewed[row.id] = row.created_ms
        return True

    async def settle(self, settlement: Settlement) -> bool:
        await self._turn()
        row = settlement.row
        hold = self._holds.get(row.hold)
        if hold is None or hold.state is not HoldState.OPEN:
            return False
        limit = 0 if settlement.void else hold.amount_nanos
        pinned = (hold.account, hold.price_version)
        if not 0 <= row.charge_nanos <= limit or (row.account, row.price_version) != pinned:
            raise ValueError("the store refused this row")
        self._resolve(hold, row, HoldState.VOID if settlement.void else HoldState.SETTLED)
        return True

    def _resolve(self, hold: HoldRow, row: UsageRow, state: HoldState) -> None:
        self._holds[hold.id] = _replace(hold, state=state)
        self._hold_on(hold, -hold.amount_nanos)
        if row.charge_nanos:
            self._post(hold.id, "charge", row.charge_nanos, hold.account, "revenue", row.ended_ms)
        self._usage[hold.id] = row

    def _open(self) -> Iterator[HoldRow]:
        rows = sorted(self._holds.values(), key=lambda row: (row.created_ms, row.id))
        return (row for row in rows if row.state is HoldState.OPEN)

    async def renew(self, ids: Sequence[str], at_ms: int) -> int:
        await self._turn()
        ours = [row.id for row in self._open() if row.id in set(ids)]
        for id in ours:
            self._renewed[id] = max(self._renewed[id], at_ms)
        return len(ours)

    async def expire(self, at_ms: int, grace_s: int) -> list[str]:
        await self._turn()
        return self._lapse(
            [
                row
                for row in self._open()
                if self._renewed[row.id] + (row.lease_s + grace_s) * 1000 <= at_ms
            ],
            at_ms,
        )

    async def expire_orphans(self, owner: str, at_ms: int) -> list[str]:
        await self._turn()
        return self._lapse([row for row in self._open() if row.owner != owner], at_ms)

    def _lapse(self, rows: Sequence[HoldRow], at_ms: int) -> list[str]:
        for row in rows:
            known = (row.id, row.key, row.account, row.model, row.price_version, row.created_ms)
            ended = expired_row(known, at_ms)
            self._resolve(row, ended, HoldState.EXPIRED)
        return [row.id for row in rows]

    # looks

    async def open_holds(self) -> list[HoldRow]:
        await self._turn()
        return list(self._open())

    async def usage(
        self, account: str | None = None, from_ms: int = 0, to_ms: int | None = None
    ) -> list[UsageRow]:
        await self._turn()
        found = [
            row
            for row in self._usage.values()
            if (account is None or row.account == account)
            and from_ms <= row.ended_ms
            and (to_ms is None or row.ended_ms < to_ms)
        ]
        return sorted(found, key=lambda row: row.ended_ms)

    async def usage_row(self, hold: str) -> UsageRow | None:
        await self._turn()
        return self._usage.get(hold)

    async def entries(self, account: str | None = None) -> list[EntryRow]:
        await self._turn()
        return [row for row in self._entries if account is None or row.account == account]

    async def audit(self) -> list[Finding]:
        await self._turn()
        return [*self._audit_accounts(), *self._audit_holds()]

    def _audit_accounts(self) -> Iterator[Finding]:
        sums: Counter[str] = Counter()
        posted: Counter[str] = Counter()
        held: Counter[str] = Counter()
        for entry in self._entries:
            sums[entry.tx] += entry.amount_nanos
            posted[entry.account] += entry.amount_nanos
        for hold in self._open():
            held.update(dict.fromkeys(hold.legs, hold.amount_nanos))
        for tx, total in sums.items():
            if total:
                yield Finding("I1", tx, f"entries sum to {total}")
        for row in self._accounts.values():
            if row.posted_nanos != posted[row.id]:
                yield Finding("I2", row.id, f"posted {row.posted_nanos}, entries {posted[row.id]}")
            if row.held_nanos != held[row.id]:
                yield Finding("I3", row.id, f"held {row.held_nanos}, open legs {held[row.id]}")
            if row.kind == "wallet" and row.available_nanos < 0:
                yield Finding("I4", row.id, f"available {row.available_nanos}")

    def _audit_holds(self) -> Iterator[Finding]:
        paid: Counter[str] = Counter()
        for entry in self._entries:
            if entry.kind == "charge" and entry.seq == 0:
                paid[entry.tx] -= entry.amount_nanos
        for id in paid.keys() - self._usage.keys():
            yield Finding("I5", id, "charged without a usage row")
        for id, row in self._usage.items():
            if row.charge_nanos != paid[id]:
                yield Finding("I5", id, f"charge {row.charge_nanos}, paid {paid[id]}")
            price = charge(row.usage, self._prices[row.price_version].price)
            total = row.charge_nanos + row.forgiven_nanos
            if total != price:
                yield Finding("I7", id, f"charge and forgiven {total}, price {price}")
            hold = self._holds.get(id)
            if hold is None or hold.state is HoldState.OPEN or hold.account != row.account:
                yield Finding("I8", id, "a usage row without a resolved hold of its account")
            elif row.charge_nanos > (hold.amount_nanos if hold.state is HoldState.SETTLED else 0):
                yield Finding("I6", id, f"charge {row.charge_nanos}, hold {hold.amount_nanos}")
        for hold in self._holds.values():
            if hold.account not in hold.legs:
                yield Finding("I8", hold.id, "no leg on its own account")
            if hold.state is not HoldState.OPEN and hold.id not in self._usage:
                yield Finding("I8", hold.id, "resolved without a usage row")
