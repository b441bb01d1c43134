"""The store in memory: the fake of ``core.store.Store``, with the same guards and the same audit.

Every call gives way to other tasks once before it acts, as the real one does, and acts in one
piece. ``trouble`` makes it unavailable. It is for one event loop; its clock is whatever time the
caller gives.
"""

from collections import Counter

from moongate.core.rows import (
    AccountRow,
    EntryRow,
    Finding,
    HoldRow,
    InviteRow,
    KeyRow,
    PriceRow,
    UsageRow,
)
from moongate.core.sums import UsageSum, add_up
from moongate.store.mapping import AGAINST
from moongate.store.memory_audit import audit, self_check
from moongate.store.memory_money import MemoryMoney
from moongate.store.memory_office import MemoryOffice


class MemoryStore(MemoryMoney, MemoryOffice):
    """Rows in dictionaries. Set ``trouble`` to a word and every call is LedgerUnavailable."""

    async def open(self) -> None:
        """There is nothing to open."""

    async def close(self) -> None:
        """There is nothing to close; the rows stay."""

    async def ping(self) -> None:
        await self._turn()

    async def account(self, id: str) -> AccountRow | None:
        await self._turn()
        return self.tables.accounts.get(id)

    async def accounts(self, kind: str | None = None) -> list[AccountRow]:
        await self._turn()
        found = [row for row in self.tables.accounts.values() if kind in {None, row.kind}]
        return sorted(found, key=lambda row: (row.created_ms, row.id))

    async def keys(self, account: str | None = None) -> list[KeyRow]:
        await self._turn()
        return [row for row in self.tables.keys.values() if account in {None, row.account}]

    async def invites(self, account: str | None = None) -> list[InviteRow]:
        await self._turn()
        return [row for row in self.tables.invites.values() if account in {None, row.account}]

    async def prices(self) -> list[PriceRow]:
        await self._turn()
        return list(self.tables.prices.values())

    async def open_holds(self) -> list[HoldRow]:
        await self._turn()
        return list(self.tables.open_holds())

    async def usage(
        self, account: str | None = None, from_ms: int = 0, to_ms: int | None = None
    ) -> list[UsageRow]:
        await self._turn()
        found = [
            row
            for row in self.tables.usage.values()
            if account in {None, row.account}
            and from_ms <= row.ended_ms
            and (to_ms is None or row.ended_ms < to_ms)
        ]
        return sorted(found, key=lambda row: row.ended_ms)

    async def usage_sums(
        self,
        account: str | None = None,
        from_ms: int = 0,
        to_ms: int | None = None,
        *,
        days: bool = True,
        keys: bool = True,
    ) -> list[UsageSum]:
        return add_up(await self.usage(account, from_ms, to_ms), days=days, keys=keys)

    async def last_used(self, account: str | None = None) -> dict[str, int]:
        rows = [row for row in await self.usage() if row.key in self.tables.keys]
        return {
            row.key: row.ended_ms
            for row in rows
            if account in {None, self.tables.keys[row.key].account}
        }

    async def usage_row(self, hold: str) -> UsageRow | None:
        await self._turn()
        return self.tables.usage.get(hold)

    async def entries(self, account: str | None = None, tx: str | None = None) -> list[EntryRow]:
        await self._turn()
        return [
            row
            for row in self.tables.entries
            if account in {None, row.account} and tx in {None, row.tx}
        ]

    async def entry_sums(
        self, account: str, from_ms: int = 0, to_ms: int | None = None
    ) -> dict[str, int]:
        sums: Counter[str] = Counter()
        for row in await self.entries(account):
            if from_ms <= row.created_ms and (to_ms is None or row.created_ms < to_ms):
                sums[row.kind] += row.amount_nanos
        return dict(sums)

    async def credits(
        self, account: str, from_ms: int = 0, to_ms: int | None = None
    ) -> list[EntryRow]:
        return [
            row
            for row in await self.entries(account)
            if row.kind in AGAINST
            and from_ms <= row.created_ms
            and (to_ms is None or row.created_ms < to_ms)
        ]

    async def audit(self) -> list[Finding]:
        await self._turn()
        return list(audit(self.tables))

    async def self_check(self) -> list[Finding]:
        await self._turn()
        return list(self_check(self.tables))
