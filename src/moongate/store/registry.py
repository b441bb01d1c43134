"""The embedded engine's moves and looks that are none of money: accounts, keys, budgets, secrets.

A budget's cap is a limit on the accounts of its windows; it moves nothing.
"""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import apsw
import msgspec

from moongate.core.rows import (
    AccountRow,
    BudgetRow,
    InviteRow,
    KeyRow,
    PriceRow,
    Quota,
)
from moongate.core.store import StoreFacts
from moongate.core.windows import window, window_id
from moongate.store import mapping
from moongate.store.desk import Desk, Op
from moongate.store.lane import Lane
from moongate.store.moves import credit
from moongate.store.opening import fold
from moongate.store.statements import run

ALIVE_MS: Final = 15_000
"""How old the last sign of life of a process may be."""
CLAIM_MS: Final = 60_000
"""How long whoever claimed a low wallet has to tell its owner."""
FORGET_MAX: Final = 1_000
PERS: Final = ("day", "week", "month", "life")
Change = Callable[[apsw.Connection], Any]


class SqliteRegistry:
    """What the file at ``path`` knows of who may spend, through a writing and a reading lane."""

    def __init__(self, path: Path, vfs: str | None) -> None:
        self._path = path
        self._vfs = vfs
        writing = Desk(self._path, vfs, reading=False)
        reading = Desk(self._path, vfs, reading=True)
        self._writer = Lane[Op]("moongate-writer", writing.commit, writing.close)
        self._reader = Lane[Change]("moongate-reader", reading.look_up, reading.close)

    async def _move(self, op: Op) -> Any:
        return await self._writer.do(op)

    async def _look(self, name: str, **values: Any) -> list[Any]:
        rows: list[Any] = await self._reader.do(lambda db: run(db, name, **values))
        return rows

    async def _changed(self, name: str, values: dict[str, Any]) -> bool:
        def change(db: apsw.Connection) -> bool:
            run(db, name, **values)
            return db.changes() > 0

        done: bool = await self._move(change)
        return done

    async def ping(self) -> None:
        await self._changed("ping", {})

    async def bind(self, name: str, value: str) -> str:
        def bind(db: apsw.Connection) -> str:
            run(db, "note_insert", name=name, value=value)
            return str(run(db, "note", name=name)[0][0])

        bound: str = await self._move(bind)
        return bound

    async def heartbeat(self, owner: str, at_ms: int) -> int:
        def beat(db: apsw.Connection) -> int:
            run(db, "beat", owner=owner, at_ms=at_ms)
            run(db, "beats_forget", since_ms=at_ms - ALIVE_MS)
            return int(run(db, "beats", since_ms=at_ms - ALIVE_MS)[0][0])

        count: int = await self._move(beat)
        return count

    async def facts(self, at_ms: int) -> StoreFacts:
        found = await self._look("beats", since_ms=at_ms - ALIVE_MS)
        return StoreFacts("sqlite", apsw.sqlite_lib_version(), found[0][0], at_ms)

    # accounts and keys

    async def account_create(self, row: AccountRow) -> bool:
        if row.posted_nanos or row.held_nanos or row.chain_no:
            raise ValueError("money comes into an account by entries only")
        values = {
            "id": row.id,
            "kind": row.kind,
            "credit_limit_nanos": row.credit_limit_nanos,
            "created_ms": row.created_ms,
        }
        return await self._changed("account_insert", values | mapping.quota_values(row.quota))

    async def account(self, id: str) -> AccountRow | None:
        found = await self._look("account", id=id)
        return mapping.account_row(found[0]) if found else None

    async def accounts(self, kind: str | None = None) -> list[AccountRow]:
        return [mapping.account_row(values) for values in await self._look("accounts", kind=kind)]

    async def account_quota(self, id: str, quota: Quota) -> bool:
        return await self._changed("account_quota", {"id": id} | mapping.quota_values(quota))

    async def key_insert(self, row: KeyRow, budget: BudgetRow | None = None) -> None:
        def insert(db: apsw.Connection) -> None:
            run(db, "key_insert", **mapping.key_values(row))
            if budget is not None:
                _set_budget(db, budget)

        await self._move(insert)

    async def key_by_mac(self, mac: bytes) -> KeyRow | None:
        found = await self._look("key_by_mac", mac=mac)
        return mapping.key_row(found[0]) if found else None

    async def keys(self, account: str | None = None) -> list[KeyRow]:
        return [mapping.key_row(values) for values in await self._look("keys", account=account)]

    async def key_revoke(self, id: str, at_ms: int) -> bool:
        return await self._changed("key_revoke", {"id": id, "at_ms": at_ms})

    async def key_rotate(self, id: str, mac: bytes, last4: str, old_until_ms: int) -> bool:
        values = {"id": id, "mac": mac, "last4": last4, "old_until_ms": old_until_ms}
        return await self._changed("key_rotate", values)

    async def key_quota(self, id: str, quota: Quota) -> bool:
        return await self._changed("key_quota", {"id": id} | mapping.quota_values(quota))

    # budgets

    async def budget_set(self, row: BudgetRow) -> BudgetRow:
        stands: BudgetRow = await self._move(lambda db: _set_budget(db, row))
        return stands

    async def budget_remove(self, scope: str, subject: str, per: str) -> bool:
        values = {"scope": scope, "subject": subject, "per": per}

        def remove(db: apsw.Connection) -> bool:
            gone = run(db, "budget_remove", **values)
            for (id,) in gone:
                _cap(db, id, f"{id}/", mapping.AMOUNT_MAX)
            return bool(gone)

        done: bool = await self._move(remove)
        return done

    async def budgets(self, account: str | None, at_ms: int) -> list[BudgetRow]:
        windows = mapping.as_json({per: window(per, at_ms) for per in PERS})
        found = await self._look("budgets", account=account, windows=windows)
        return [BudgetRow(*values) for values in found]

    # prices

    async def price_add(self, row: PriceRow) -> PriceRow:
        values = msgspec.structs.asdict(row.price) | {"model": row.model, "from_ms": row.from_ms}

        def add(db: apsw.Connection) -> int:
            run(db, "price_insert", **values)
            return db.last_insert_rowid()

        return PriceRow(await self._move(add), row.model, row.price, row.from_ms)

    async def prices(self) -> list[PriceRow]:
        return [mapping.price_row(values) for values in await self._look("prices")]

    # secrets, invitations, alerts

    async def rotate_secret(
        self, purpose: str, fresh: bytes, at_ms: int, period_ms: int
    ) -> list[bytes]:
        values = {
            "purpose": purpose,
            "bytes": fresh,
            "at_ms": at_ms,
            "before_ms": at_ms - 2 * period_ms,
        }

        def rotate(db: apsw.Connection) -> tuple[list[bytes], bool]:
            run(db, "secret_destroy", **values)
            destroyed = db.changes() > 0
            alive = run(db, "secrets", **values)
            if not alive or at_ms - alive[0][1] > period_ms:
                run(db, "secret_insert", **values)
                alive.insert(0, (fresh, at_ms))
            return [secret for secret, _ in alive], destroyed

        alive, destroyed = await self._move(rotate)
        if destroyed:
            await asyncio.to_thread(self._fold)
        return list(alive)

    def _fold(self) -> None:
        try:
            fold(self._path, self._vfs)
        except apsw.Error:
            # The secret is gone from the file. The log with its old page is folded at another time.
            return

    async def invite_add(self, row: InviteRow, trial_nanos: int = 0) -> None:
        def add(db: apsw.Connection) -> None:
            run(db, "invite_insert", **msgspec.structs.asdict(row))
            if trial_nanos:
                tx, at_ms = f"trial_{row.id}", row.created_ms
                credit(db, row.account, trial_nanos, "trial", tx, at_ms, None)

        await self._move(add)

    async def invites(self, account: str | None = None) -> list[InviteRow]:
        return [InviteRow(*values) for values in await self._look("invites", account=account)]

    async def invite_take(self, mac: bytes, key: KeyRow, at_ms: int) -> InviteRow | None:
        def take(db: apsw.Connection) -> InviteRow | None:
            values = {"mac": mac, "key": key.id, "at_ms": at_ms}
            found = run(db, "invite_take", **values)
            if not found:
                return None
            invite = InviteRow(*found[0])
            row = msgspec.structs.replace(key, account=invite.account, name=invite.name)
            run(db, "key_insert", **mapping.key_values(row))
            return invite

        invite: InviteRow | None = await self._move(take)
        return invite

    async def low_wallets(self, below_nanos: int, at_ms: int) -> list[AccountRow]:
        values = {"below_nanos": below_nanos, "at_ms": at_ms, "patience_ms": CLAIM_MS}

        def claim(db: apsw.Connection) -> list[AccountRow]:
            run(db, "low_rearm", **values)
            return sorted(
                (mapping.account_row(found) for found in run(db, "low_claim", **values)),
                key=lambda row: row.id,
            )

        claimed: list[AccountRow] = await self._move(claim)
        return claimed

    async def low_told(self, accounts: Sequence[str]) -> None:
        await self._changed("low_told", {"ids": mapping.as_json(list(accounts))})

    async def forget(self, at_ms: int) -> int:
        def forget(db: apsw.Connection) -> int:
            done = 0
            for name in ("forget_idem", "forget_invites"):
                run(db, name, at_ms=at_ms, most=FORGET_MAX - done)
                done += db.changes()
            return done

        count: int = await self._move(forget)
        return count


def _set_budget(db: apsw.Connection, row: BudgetRow) -> BudgetRow:
    """The budget as it stands then, in its present window too."""
    stands = BudgetRow(*run(db, "budget_set", **msgspec.structs.asdict(row))[0])
    _cap(db, stands.id, window_id(stands.id, stands.per, row.created_ms), stands.cap_nanos)
    return stands


def _cap(db: apsw.Connection, budget: str, first: str, cap_nanos: int) -> None:
    run(db, "windows_cap", budget=budget, first=first, cap_nanos=cap_nanos)
