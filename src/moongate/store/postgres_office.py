"""PostgreSQL's moves and looks that are none of money: accounts, keys, budgets, secrets.

A budget's cap is a limit on the accounts of its windows; it moves nothing. All times that decide
something are the database's.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from moongate.core.rows import AccountRow, BudgetRow, InviteRow, KeyRow, PriceRow, Quota
from moongate.core.store import StoreFacts
from moongate.store import mapping
from moongate.store import postgres_rows as rows
from moongate.store.postgres_pool import Connection, Pool
from moongate.store.statements import POSTGRES

FORGET_MAX: Final = 1_000
LONG_S: Final = 30.0
"""How long a look over many rows may take."""


class PostgresOffice:
    """What the database knows of who may spend, over ``pool``."""

    _pool: Pool

    async def _one(self, name: str, *values: Any) -> Any:
        """The row that a look finds, or ``None``."""
        return await self._pool.look(lambda db: db.fetchrow(POSTGRES[name], *values))

    async def _all(self, name: str, *values: Any) -> list[Any]:
        """Every row of a look over many: it may take its time once the database has answered."""

        async def look(db: Connection) -> list[Any]:
            async with db.transaction(readonly=True):
                await db.execute(POSTGRES["take_time"])
                return await db.fetch(POSTGRES[name], *values)

        await self._pool.look(lambda db: db.fetchval("SELECT 1"))
        found: list[Any] = await self._pool.do(look, LONG_S)
        return found

    async def _said(self, name: str, *values: Any) -> Any:
        """The one value that a move returns."""
        return await self._pool.change(lambda db: db.fetchval(POSTGRES[name], *values))

    async def _changed(self, name: str, *values: Any) -> bool:
        return await self._said(name, *values) is not None

    async def ping(self) -> None:
        await self._said("ping")

    async def bind(self, name: str, value: str) -> str:
        bound: str = await self._said("bind", name, value)
        return bound

    async def heartbeat(self, owner: str, at_ms: int) -> int:  # noqa: ARG002 - the database's clock counts
        count: int = await self._said("heartbeat", owner)
        return count

    async def facts(self, at_ms: int) -> StoreFacts:  # noqa: ARG002 - the database's clock counts
        return StoreFacts("postgresql", *await self._one("facts"))

    # accounts and keys

    async def account_create(self, row: AccountRow) -> bool:
        if row.posted_nanos or row.held_nanos or row.chain_no:
            raise ValueError("money comes into an account by entries only")
        values = (row.id, row.kind, row.credit_limit_nanos, row.created_ms)
        return await self._changed("account_insert", *values, *rows.quota_values(row.quota))

    async def account(self, id: str) -> AccountRow | None:
        found = await self._one("account", id)
        return None if found is None else mapping.account_row(found)

    async def accounts(self, kind: str | None = None) -> list[AccountRow]:
        return [mapping.account_row(values) for values in await self._all("accounts", kind)]

    async def account_quota(self, id: str, quota: Quota) -> bool:
        return await self._changed("account_quota", id, *rows.quota_values(quota))

    async def key_insert(self, row: KeyRow, budget: BudgetRow | None = None) -> None:
        async def insert(db: Connection) -> None:
            async with db.transaction():
                await db.execute(POSTGRES["key_insert"], rows.key_json(row))
                if budget is not None:
                    await db.execute(POSTGRES["budget_set"], *rows.budget_values(budget))

        await self._pool.change(insert)

    async def key_by_mac(self, mac: bytes) -> KeyRow | None:
        found = await self._one("key_by_mac", mac)
        return None if found is None else mapping.key_row(found)

    async def keys(self, account: str | None = None) -> list[KeyRow]:
        return [mapping.key_row(values) for values in await self._all("keys", account)]

    async def key_revoke(self, id: str, at_ms: int) -> bool:
        return await self._changed("key_revoke", id, at_ms)

    async def key_rotate(self, id: str, mac: bytes, last4: str, old_until_ms: int) -> bool:
        return await self._changed("key_rotate", id, mac, last4, old_until_ms)

    async def key_quota(self, id: str, quota: Quota) -> bool:
        return await self._changed("key_quota", id, *rows.quota_values(quota))

    # budgets

    async def budget_set(self, row: BudgetRow) -> BudgetRow:
        id = await self._said("budget_set", *rows.budget_values(row))
        stands = await self._one("budget", id)
        # Removed by somebody meanwhile: then it was as it was asked for.
        return row if stands is None else rows.budget_row(stands)

    async def budget_remove(self, scope: str, subject: str, per: str) -> bool:
        done: bool = await self._said("budget_remove", scope, subject, per)
        return done

    async def budgets(self, account: str | None, at_ms: int) -> list[BudgetRow]:  # noqa: ARG002 - the database's clock counts
        return [rows.budget_row(values) for values in await self._all("budgets", account)]

    # prices

    async def price_add(self, row: PriceRow) -> PriceRow:
        nanos = msgspec.structs.astuple(row.price)
        version: int = await self._said("price_insert", row.model, *nanos, row.from_ms)
        return PriceRow(version, row.model, row.price, row.from_ms)

    async def prices(self) -> list[PriceRow]:
        return [mapping.price_row(values) for values in await self._all("prices")]

    # secrets, invitations, alerts

    async def rotate_secret(
        self,
        purpose: str,
        fresh: bytes,
        at_ms: int,  # noqa: ARG002 - the database's clock counts
        period_ms: int,
    ) -> list[bytes]:
        alive: list[bytes] = await self._said("rotate_secret", purpose, fresh, period_ms)
        return alive

    async def invite_add(self, row: InviteRow, trial_nanos: int = 0) -> None:
        async def add(db: Connection) -> None:
            async with db.transaction():
                await db.execute(POSTGRES["invite_add"], *msgspec.structs.astuple(row))
                if trial_nanos:
                    trial = rows.credit_values(row.account, trial_nanos, "trial", f"trial_{row.id}")
                    rows.credited(await db.fetchval(POSTGRES["credit"], *trial))

        await self._pool.change(add)

    async def invites(self, account: str | None = None) -> list[InviteRow]:
        return [rows.invite_row(values) for values in await self._all("invites", account)]

    async def invite_take(self, mac: bytes, key: KeyRow, at_ms: int) -> InviteRow | None:  # noqa: ARG002 - the database's clock counts
        id = await self._said("invite_take", mac, rows.key_json(key))
        return None if id is None else rows.invite_row(await self._one("invite", id))

    async def low_wallets(self, below_nanos: int, at_ms: int) -> list[AccountRow]:  # noqa: ARG002 - the database's clock counts
        await self._said("low_rearm", below_nanos)
        found = await self._pool.change(
            lambda db: db.fetch(POSTGRES["low_claim"], below_nanos),
        )
        return [mapping.account_row(values) for values in found]

    async def low_told(self, accounts: Sequence[str]) -> None:
        await self._said("low_told", list(accounts))

    async def forget(self, at_ms: int) -> int:  # noqa: ARG002 - the database's clock counts
        count: int = await self._said("forget", FORGET_MAX)
        return count
