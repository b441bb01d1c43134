"""The memory store's moves that are none of money: accounts, keys, budgets, prices, invitations.

No balance changes here; a budget's cap is a limit, not money.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from moongate.core.rows import (
    NO_QUOTA,
    AccountRow,
    BudgetRow,
    InviteRow,
    KeyRow,
    PriceRow,
    Quota,
)
from moongate.core.store import StoreFacts
from moongate.core.windows import window_id
from moongate.store.mapping import AMOUNT_MAX
from moongate.store.memory_tables import MemoryPart, refused, replace

ALIVE_MS: Final = 15_000
"""How old a process's last heartbeat may be."""
CLAIM_MS: Final = 60_000
"""How long whoever claimed a low wallet has to tell its owner."""
FORGET_MAX: Final = 1_000


class MemoryOffice(MemoryPart):
    """Moves of the office over the tables."""

    async def bind(self, name: str, value: str) -> str:
        await self._turn()
        return self.tables.notes.setdefault(name, value)

    async def heartbeat(self, owner: str, at_ms: int) -> int:
        await self._turn()
        self.tables.beats[owner] = at_ms
        return self._alive(at_ms)

    async def facts(self, at_ms: int) -> StoreFacts:
        await self._turn()
        return StoreFacts("memory", "", self._alive(at_ms), at_ms)

    def _alive(self, at_ms: int) -> int:
        return sum(beat_ms >= at_ms - ALIVE_MS for beat_ms in self.tables.beats.values())

    # accounts and keys

    async def account_create(self, row: AccountRow) -> bool:
        if row.posted_nanos or row.held_nanos or row.chain_no:
            raise ValueError("money comes into an account by entries only")
        if not row.id or not 0 <= row.credit_limit_nanos <= AMOUNT_MAX:
            raise refused()
        await self._turn()
        if row.id in self.tables.accounts:
            return False
        self.tables.accounts[row.id] = row
        return True

    async def account_quota(self, id: str, quota: Quota) -> bool:
        await self._turn()
        if id not in self.tables.accounts:
            return False
        self.tables.alter_account(id, quota=quota)
        return True

    async def key_insert(self, row: KeyRow, budget: BudgetRow | None = None) -> None:
        await self._turn()
        if budget is not None:
            self._check_budget(budget)
        self._key_insert(row)
        if budget is not None:
            self._budget_set(budget)

    def _key_insert(self, row: KeyRow) -> None:
        keys = self.tables.keys
        taken = any(row.id == other.id or row.mac == other.mac for other in keys.values())
        if taken or row.account not in self.tables.accounts:
            raise refused()
        keys[row.id] = replace(row, account_quota=NO_QUOTA)

    async def key_by_mac(self, mac: bytes) -> KeyRow | None:
        await self._turn()
        for row in self.tables.keys.values():
            if mac in {row.mac, row.old_mac}:
                return replace(row, account_quota=self.tables.accounts[row.account].quota)
        return None

    async def key_revoke(self, id: str, at_ms: int) -> bool:
        await self._turn()
        return self._alter_key(id, revoked_ms=at_ms)

    async def key_rotate(self, id: str, mac: bytes, last4: str, old_until_ms: int) -> bool:
        await self._turn()
        others = [row for row in self.tables.keys.values() if row.id != id]
        if any(row.mac == mac for row in others):
            raise refused()
        row = self.tables.keys.get(id)
        return row is not None and self._alter_key(
            id, mac=mac, last4=last4, old_mac=row.mac, old_until_ms=old_until_ms
        )

    def _alter_key(self, id: str, **fields: object) -> bool:
        """Change a key that is not revoked."""
        row = self.tables.keys.get(id)
        if row is None or row.revoked_ms is not None:
            return False
        self.tables.keys[id] = replace(row, **fields)
        return True

    async def key_quota(self, id: str, quota: Quota) -> bool:
        await self._turn()
        row = self.tables.keys.get(id)
        if row is None:
            return False
        self.tables.keys[id] = replace(row, quota=quota)
        return True

    # budgets

    async def budget_set(self, row: BudgetRow) -> BudgetRow:
        await self._turn()
        self._check_budget(row)
        return self._budget_set(row)

    def _check_budget(self, row: BudgetRow) -> None:
        if row.account not in self.tables.accounts or not 0 <= row.cap_nanos <= AMOUNT_MAX:
            raise refused()

    def _budget_set(self, row: BudgetRow) -> BudgetRow:
        place = (row.scope, row.subject, row.per)
        stands = replace(self.tables.budgets.get(place, row), cap_nanos=row.cap_nanos)
        self.tables.budgets[place] = replace(stands, spent_nanos=0, held_nanos=0)
        window = window_id(stands.id, stands.per, row.created_ms)
        if window in self.tables.accounts:
            self.tables.alter_account(window, credit_limit_nanos=row.cap_nanos)
        return self.tables.budgets[place]

    async def budget_remove(self, scope: str, subject: str, per: str) -> bool:
        await self._turn()
        row = self.tables.budgets.pop((scope, subject, per), None)
        if row is None:
            return False
        for id in [id for id in self.tables.accounts if id.startswith(f"{row.id}/")]:
            self.tables.alter_account(id, credit_limit_nanos=AMOUNT_MAX)
        return True

    async def budgets(self, account: str | None, at_ms: int) -> list[BudgetRow]:
        await self._turn()
        rows = [row for row in self.tables.budgets.values() if account in {None, row.account}]
        found = [self._as_spent(row, at_ms) for row in rows]
        return sorted(found, key=lambda row: (row.created_ms, row.id))

    def _as_spent(self, row: BudgetRow, at_ms: int) -> BudgetRow:
        window = self.tables.accounts.get(window_id(row.id, row.per, at_ms))
        if window is None:
            return row
        return replace(row, spent_nanos=-window.posted_nanos, held_nanos=window.held_nanos)

    # prices

    async def price_add(self, row: PriceRow) -> PriceRow:
        if min(msgspec.structs.astuple(row.price)) < 0:
            raise refused()
        await self._turn()
        row = replace(row, version=len(self.tables.prices) + 1)
        self.tables.prices[row.version] = row
        return row

    # secrets, invitations, alerts

    async def rotate_secret(
        self, purpose: str, fresh: bytes, at_ms: int, period_ms: int
    ) -> list[bytes]:
        await self._turn()
        kept = self.tables.secrets.get(purpose, [])
        alive = [(ms, secret) for ms, secret in kept if at_ms - ms <= 2 * period_ms]
        if not alive or at_ms - alive[0][0] > period_ms:
            alive.insert(0, (at_ms, fresh))
        self.tables.secrets[purpose] = alive
        return [secret for _, secret in alive]

    async def invite_add(self, row: InviteRow, trial_nanos: int = 0) -> None:
        await self._turn()
        invites = self.tables.invites
        taken = any(row.id == other.id or row.mac == other.mac for other in invites.values())
        if taken or row.account not in self.tables.accounts:
            raise refused()
        if trial_nanos:
            tx = f"trial_{row.id}"
            self.tables.credit(row.account, trial_nanos, "trial", tx, row.created_ms)
        invites[row.id] = row

    async def invite_take(self, mac: bytes, key: KeyRow, at_ms: int) -> InviteRow | None:
        await self._turn()
        for row in self.tables.invites.values():
            if row.mac == mac and row.used_ms is None and at_ms < row.expires_ms:
                self._key_insert(replace(key, account=row.account, name=row.name))
                used = replace(row, used_ms=at_ms, key=key.id)
                self.tables.invites[row.id] = used
                return used
        return None

    async def low_wallets(self, below_nanos: int, at_ms: int) -> list[AccountRow]:
        await self._turn()
        low, claimed = self.tables.low, []
        for id, row in sorted(self.tables.accounts.items()):
            if row.kind != "wallet" or row.chain_no == 0:
                continue
            if row.posted_nanos + row.credit_limit_nanos >= below_nanos:
                low.pop(id, None)
                continue
            # None: its owner was told.
            claimed_ms = low.get(id, at_ms - CLAIM_MS)
            if claimed_ms is not None and claimed_ms + CLAIM_MS <= at_ms:
                low[id] = at_ms
                claimed.append(row)
        return claimed

    async def low_told(self, accounts: Sequence[str]) -> None:
        await self._turn()
        self.tables.low.update(dict.fromkeys(self.tables.low.keys() & set(accounts)))

    async def forget(self, at_ms: int) -> int:
        await self._turn()
        idem, invites = self.tables.idem, self.tables.invites
        marks = [place for place, row in idem.items() if row.expires_ms <= at_ms][:FORGET_MAX]
        left = FORGET_MAX - len(marks)
        old = [id for id, row in invites.items() if row.expires_ms <= at_ms][:left]
        for place in marks:
            del idem[place]
        for id in old:
            del invites[id]
        return len(marks) + len(old)
