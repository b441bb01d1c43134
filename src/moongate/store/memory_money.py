"""The memory store's moves of money: credit, hold, extend, settle, renew, expire.

The guards are those of the tables and statements of the real stores, said in Python. Its clock is
whatever time the caller gives.
"""

from collections.abc import Iterator, Sequence

from moongate.core.money import Usage
from moongate.core.rows import (
    AccountRow,
    BudgetRow,
    HoldRow,
    HoldState,
    TopupRow,
    UsageRow,
)
from moongate.core.store import Extension, Idem, NotHeld, Running, Settlement
from moongate.core.windows import window_id
from moongate.store.mapping import AGAINST, expired_row, legs_of, subjects_of
from moongate.store.memory_tables import IdemRow, MemoryPart, refused, replace


def _grant(wanted: int, floor: int, unit: int, room: int) -> int | None:
    """What is set aside of ``wanted`` where the poorest leg has ``room``; ``None``: not even that.

    All, or ``floor`` and whole units.
    """
    if room >= wanted:
        return wanted
    if room < floor:
        return None
    unit = max(unit, 1)
    return floor + (room - floor) // unit * unit


class MemoryMoney(MemoryPart):
    """Moves of money over the tables."""

    async def credit(
        self,
        account: str,
        amount_nanos: int,
        kind: str,
        tx: str,
        at_ms: int,
        topup: TopupRow | None = None,
    ) -> bool:
        if amount_nanos == 0 or kind not in AGAINST:
            raise ValueError("not a credit")
        await self._turn()
        tables = self.tables
        event = None if topup is None else (topup.source, topup.event)
        if event in tables.topups or any(entry.tx == tx for entry in tables.entries):
            return False
        tables.credit(account, amount_nanos, kind, tx, at_ms)
        if event is not None:
            tables.topups.add(event)
        return True

    async def hold(
        self,
        row: HoldRow,
        *,
        floor_nanos: int | None = None,
        unit_nanos: int = 1,
        idem: Idem | None = None,
    ) -> HoldRow | NotHeld:
        await self._turn()
        floor = row.amount_nanos if floor_nanos is None else floor_nanos
        if min(row.amount_nanos, floor) < 0:
            raise ValueError("a hold cannot be negative")
        stands = self.tables.holds.get(row.id)
        if stands is not None:
            if (stands.key, stands.account) != (row.key, row.account):
                raise refused()
            return stands
        used = None if idem is None else self._used(idem, row.created_ms)
        if used is not None:
            return used
        accounts = self._legs(row)
        granted = _grant(row.amount_nanos, floor, unit_nanos, self._room(accounts))
        if granted is None:
            return NotHeld("short")
        if row.price_version not in self.tables.prices:
            raise refused()
        return self._make(replace(row, amount_nanos=granted), accounts, idem)

    def _used(self, idem: Idem, at_ms: int) -> NotHeld | None:
        """What stands under a client's Idempotency-Key; what frees it is deleted."""
        for key, body in idem.marks:
            row = self.tables.idem.get((idem.account, key))
            if row is None:
                continue
            state = self.tables.holds[row.hold].state
            if state in {HoldState.VOID, HoldState.EXPIRED} or row.expires_ms <= at_ms:
                del self.tables.idem[idem.account, key]
            elif row.body != body:
                return NotHeld("other", row.hold)
            else:
                return NotHeld("running" if state is HoldState.OPEN else "completed", row.hold)
        return None

    def _legs(self, row: HoldRow) -> dict[str, AccountRow | None]:
        """The accounts that a hold counts against, in id order; a budget's window may be new."""
        legs = dict.fromkeys(legs_of(row))
        found = {id: self.tables.accounts.get(id) for id in legs}
        for budget in self._budgets_of(row):
            id = window_id(budget.id, budget.per, row.created_ms)
            fresh = AccountRow(id, "budget", 0, 0, budget.cap_nanos, row.created_ms)
            found[id] = self.tables.accounts.get(id, fresh)
        return dict(sorted(found.items()))

    def _budgets_of(self, row: HoldRow) -> Iterator[BudgetRow]:
        subjects = subjects_of(row)
        for scope, subject, per in self.tables.budgets:
            if (scope, subject) in subjects:
                yield self.tables.budgets[scope, subject, per]

    @staticmethod
    def _room(accounts: dict[str, AccountRow | None]) -> int:
        """What the poorest can still pay; less than nothing where one is there for no payment."""
        return min(
            -1 if row is None or row.kind not in {"wallet", "budget"} else row.available_nanos
            for row in accounts.values()
        )

    def _make(
        self, row: HoldRow, accounts: dict[str, AccountRow | None], idem: Idem | None
    ) -> HoldRow:
        tables = self.tables
        for id, account in accounts.items():
            if account is not None:
                tables.accounts.setdefault(id, account)
        tables.set_aside(accounts, row.amount_nanos)
        row = replace(row, legs=tuple(accounts), state=HoldState.OPEN, running=Usage())
        tables.holds[row.id] = row
        tables.renewed[row.id] = row.created_ms
        if idem is not None:
            for key, body in idem.marks:
                tables.idem[idem.account, key] = IdemRow(body, row.id, idem.expires_ms)
        return row

    async def extend(self, extension: Extension) -> HoldRow | None:
        await self._turn()
        tables = self.tables
        row = tables.holds.get(extension.hold)
        if row is None or row.state is not HoldState.OPEN:
            return None
        tables.renewed[row.id] = max(tables.renewed[row.id], extension.at_ms)
        if row.slice_no != extension.slice_no - 1:
            return row
        room = self._room({leg: tables.accounts[leg] for leg in row.legs})
        granted = _grant(extension.wanted_nanos, 0, extension.unit_nanos, room)
        if granted:
            tables.set_aside(row.legs, granted)
            row = replace(row, amount_nanos=row.amount_nanos + granted, slice_no=extension.slice_no)
            tables.holds[row.id] = row
        return row

    async def settle(self, settlement: Settlement) -> bool:
        await self._turn()
        row = settlement.row
        hold = self.tables.holds.get(row.hold)
        if hold is None or hold.state is not HoldState.OPEN:
            return False
        limit = 0 if settlement.void else hold.amount_nanos
        pinned = (hold.account, hold.price_version)
        if (
            not 0 <= row.charge_nanos <= limit
            or not 0 <= row.spoiled_nanos <= row.forgiven_nanos
            or row.attempts < 1
            or (row.account, row.price_version) != pinned
        ):
            raise refused()
        self._resolve(hold, row, HoldState.VOID if settlement.void else HoldState.SETTLED)
        return True

    def _resolve(self, hold: HoldRow, row: UsageRow, state: HoldState) -> None:
        tables, at_ms = self.tables, row.ended_ms
        tables.holds[hold.id] = replace(hold, state=state)
        tables.set_aside(hold.legs, -hold.amount_nanos)
        cost = row.charge_nanos
        if cost:
            tables.post(hold.id, 0, "charge", (hold.account, "revenue"), -cost, at_ms)
            budgets = [leg for leg in hold.legs if tables.accounts[leg].kind == "budget"]
            for n, leg in enumerate(budgets):
                tables.post(hold.id, 2 + 2 * n, "budget", (leg, "contra"), -cost, at_ms)
        if row.forgiven_nanos:
            sides = ("forgiven", "contra")
            tables.post(hold.id, 100, "forgiven", sides, row.forgiven_nanos, at_ms)
        tables.usage[hold.id] = row

    async def renew(self, running: Sequence[Running], at_ms: int) -> int:
        await self._turn()
        tables = self.tables
        ours = {row.id for row in tables.open_holds()}.intersection(one.hold for one in running)
        for one in running:
            if one.hold in ours:
                row, used = tables.holds[one.hold], one.usage
                counts = Usage(used.input, used.cache_read, used.output, used.searches)
                tables.holds[row.id] = replace(row, running=counts)
                tables.renewed[row.id] = max(tables.renewed[row.id], at_ms)
        return len(ours)

    async def expire(self, at_ms: int, grace_s: int, *, checkpoint: bool = False) -> list[str]:
        await self._turn()
        lapsed = [
            row
            for row in self.tables.open_holds()
            if self.tables.renewed[row.id] + (row.lease_s + grace_s) * 1000 <= at_ms
        ]
        return self._lapse(lapsed, at_ms, checkpoint=checkpoint)

    async def expire_orphans(
        self, owner: str, at_ms: int, *, checkpoint: bool = False
    ) -> list[str]:
        await self._turn()
        orphans = [row for row in self.tables.open_holds() if row.owner != owner]
        return self._lapse(orphans, at_ms, checkpoint=checkpoint)

    def _lapse(self, rows: Sequence[HoldRow], at_ms: int, *, checkpoint: bool) -> list[str]:
        for hold in rows:
            price = self.tables.prices[hold.price_version].price
            row = expired_row(hold, price, at_ms, checkpoint=checkpoint)
            self._resolve(hold, row, HoldState.EXPIRED)
        return [hold.id for hold in rows]
