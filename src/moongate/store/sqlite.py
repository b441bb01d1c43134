"""The embedded engine: SQLite with one writing thread and one reading thread.

All moves go through the writer, which takes whatever is queued as one transaction and answers
after its commit is on the disk. Looks go through a second connection and never hold a move up.
When the disk is full, read-only or failing, callers get LedgerUnavailable and nothing was
booked; the writer goes on as soon as the trouble is over.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apsw

from moongate.core.errors import ConfigurationError, LedgerUnavailable
from moongate.core.ports import Settlement
from moongate.core.rows import (
    AccountRow,
    EntryRow,
    Finding,
    HoldRow,
    KeyRow,
    PriceRow,
    UsageRow,
)
from moongate.store import mapping, moves
from moongate.store.desk import Desk, Op
from moongate.store.lane import Lane
from moongate.store.opening import Lock, prepare
from moongate.store.statements import SQL


class SqliteStore:
    """``core.ports.Store`` on the SQLite file at ``path``.

    ``lock`` keeps a second server off the file; ``vfs`` names a SQLite VFS (tests break disks
    with one).
    """

    def __init__(self, path: Path | str, *, lock: bool = True, vfs: str | None = None) -> None:
        self._path = Path(path)
        self._lock = Lock(self._path) if lock else None
        self._vfs = vfs
        writing = Desk(self._path, vfs, reading=False)
        reading = Desk(self._path, vfs, reading=True)
        self._writer = Lane("moongate-writer", writing.commit, writing.close)
        self._reader = Lane("moongate-reader", reading.look_up, reading.close)

    async def open(self) -> None:
        if self._lock is not None:
            self._lock.take()
        try:
            await asyncio.to_thread(prepare, self._path, self._vfs)
        except BaseException:
            if self._lock is not None:
                self._lock.release()
            raise
        self._writer.start()
        self._reader.start()
        try:
            # Both are open from now on: while one of them is, no log is read as after a crash.
            await self._writer.do(_nothing)
            await self._reader.do(_nothing)
        except LedgerUnavailable as error:
            await self.close()
            raise ConfigurationError(
                f"The store {self._path} cannot be used ({error.kind}). "
                "See whether its disk is full, read-only or failing."
            ) from None

    async def close(self) -> None:
        await self._reader.close()
        await self._writer.close()
        if self._lock is not None:
            self._lock.release()

    async def ping(self) -> None:
        await self._changed("ping", {})

    async def _move(self, op: Op) -> Any:
        return await self._writer.do(op)

    async def _look(self, name: str, **values: Any) -> list[Any]:
        sql = SQL[name]
        rows: list[Any] = await self._reader.do(lambda db: db.execute(sql, values).fetchall())
        return rows

    # accounts and keys

    async def account_create(self, row: AccountRow) -> bool:
        if row.posted_nanos or row.held_nanos:
            raise ValueError("money comes into an account by entries only")
        values = {
            "id": row.id,
            "kind": row.kind,
            "credit_limit_nanos": row.credit_limit_nanos,
            "created_ms": row.created_ms,
        }
        return await self._changed("account_insert", values)

    async def account(self, id: str) -> AccountRow | None:
        found = await self._look("account", id=id)
        return mapping.account_row(found[0]) if found else None

    async def accounts(self) -> list[AccountRow]:
        return [mapping.account_row(values) for values in await self._look("accounts")]

    async def key_insert(self, row: KeyRow) -> None:
        await self._changed("key_insert", mapping.key_values(row))

    async def key_by_mac(self, mac: bytes) -> KeyRow | None:
        found = await self._look("key_by_mac", mac=mac)
        return mapping.key_row(found[0]) if found else None

    async def keys(self, account: str | None = None) -> list[KeyRow]:
        return [mapping.key_row(values) for values in await self._look("keys", account=account)]

    async def key_revoke(self, id: str, at_ms: int) -> bool:
        return await self._changed("key_revoke", {"id": id, "at_ms": at_ms})

    async def _changed(self, name: str, values: dict[str, Any]) -> bool:
        def change(db: apsw.Connection) -> bool:
            db.execute(SQL[name], values)
            return db.changes() > 0

        done: bool = await self._move(change)
        return done

    # prices

    async def price_add(self, row: PriceRow) -> PriceRow:
        price = row.price
        values = {
            "model": row.model,
            "input": price.input,
            "cached": price.cached,
            "output": price.output,
            "search": price.search,
            "from_ms": row.from_ms,
        }

        def add(db: apsw.Connection) -> int:
            db.execute(SQL["price_insert"], values)
            return db.last_insert_rowid()

        return PriceRow(await self._move(add), row.model, price, row.from_ms)

    async def prices(self) -> list[PriceRow]:
        return [mapping.price_row(values) for values in await self._look("prices")]

    # money

    async def credit(self, account: str, amount_nanos: int, kind: str, tx: str, at_ms: int) -> bool:
        done: bool = await self._move(
            lambda db: moves.credit(db, account, amount_nanos, kind, tx, at_ms)
        )
        return done

    async def hold(self, row: HoldRow) -> bool:
        done: bool = await self._move(row)
        return done

    async def settle(self, settlement: Settlement) -> bool:
        done: bool = await self._move(settlement)
        return done

    async def renew(self, ids: Sequence[str], at_ms: int) -> int:
        def renew(db: apsw.Connection) -> int:
            db.execute(SQL["renew"], {"ids": mapping.as_json(list(ids)), "at_ms": at_ms})
            return db.changes()

        count: int = await self._move(renew)
        return count

    async def expire(self, at_ms: int, grace_s: int) -> list[str]:
        ids: list[str] = await self._move(lambda db: moves.expire(db, at_ms, grace_s))
        return ids

    async def expire_orphans(self, owner: str, at_ms: int) -> list[str]:
        if self._lock is None:
            return []
        ids: list[str] = await self._move(lambda db: moves.expire_orphans(db, owner, at_ms))
        return ids

    # looks

    async def open_holds(self) -> list[HoldRow]:
        return [mapping.hold_row(values) for values in await self._look("open_holds")]

    async def usage(
        self, account: str | None = None, from_ms: int = 0, to_ms: int | None = None
    ) -> list[UsageRow]:
        span = {"from_ms": from_ms, "to_ms": mapping.FOREVER_MS if to_ms is None else to_ms}
        if account is None:
            found = await self._look("usage", **span)
        else:
            found = await self._look("usage_of_account", account=account, **span)
        return [mapping.usage_row(values) for values in found]

    async def usage_row(self, hold: str) -> UsageRow | None:
        found = await self._look("usage_row", hold=hold)
        return mapping.usage_row(found[0]) if found else None

    async def entries(self, account: str | None = None) -> list[EntryRow]:
        return [EntryRow(*values) for values in await self._look("entries", account=account)]

    async def audit(self) -> list[Finding]:
        found: list[Finding] = await self._reader.do(moves.audit)
        return found


def _nothing(_db: apsw.Connection) -> None:
    """A call that only wants a connection."""
