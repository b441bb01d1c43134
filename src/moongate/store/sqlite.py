"""The embedded engine: SQLite with one writing thread and one reading thread.

All moves go through the writer, which takes whatever is queued as one transaction and answers
after its commit is on the disk. Looks go through a second connection and never hold a move up;
audits and sums, which take long, each through one of their own. When the disk is full, read-only or
failing, callers get LedgerUnavailable and nothing was booked; the writer goes on as soon as the
trouble is over.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apsw

from moongate.core.errors import ConfigurationError, LedgerUnavailable
from moongate.core.rows import EntryRow, Finding, HoldRow, TopupRow, UsageRow
from moongate.core.store import Extension, Idem, NotHeld, Running, Settlement
from moongate.core.sums import UsageSum
from moongate.store import audits, mapping, moves
from moongate.store.desk import Call, Desk
from moongate.store.holding import Want
from moongate.store.opening import Lock, prepare
from moongate.store.registry import SqliteRegistry
from moongate.store.statements import run


class SqliteStore(SqliteRegistry):
    """``core.store.Store`` on the SQLite file at ``path``.

    ``lock`` keeps a second server off the file; ``vfs`` names a SQLite VFS (tests break disks
    with one).
    """

    def __init__(self, path: Path | str, *, lock: bool = True, vfs: str | None = None) -> None:
        super().__init__(Path(path), vfs)
        self._lock = Lock(self._path) if lock else None

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

    # money

    async def credit(
        self,
        account: str,
        amount_nanos: int,
        kind: str,
        tx: str,
        at_ms: int,
        topup: TopupRow | None = None,
    ) -> bool:
        done: bool = await self._move(
            lambda db: moves.credit(db, account, amount_nanos, kind, tx, at_ms, topup)
        )
        return done

    async def hold(
        self,
        row: HoldRow,
        *,
        floor_nanos: int | None = None,
        unit_nanos: int = 1,
        idem: Idem | None = None,
    ) -> HoldRow | NotHeld:
        floor = row.amount_nanos if floor_nanos is None else floor_nanos
        held: HoldRow | NotHeld = await self._move(Want(row, floor, unit_nanos, idem))
        return held

    async def extend(self, extension: Extension) -> HoldRow | None:
        row: HoldRow | None = await self._move(extension)
        return row

    async def settle(self, settlement: Settlement) -> bool:
        done: bool = await self._move(settlement)
        return done

    async def renew(self, running: Sequence[Running], at_ms: int) -> int:
        count: int = await self._move(lambda db: moves.renew(db, running, at_ms))
        return count

    async def expire(self, at_ms: int, grace_s: int, *, checkpoint: bool = False) -> list[str]:
        ids: list[str] = await self._move(
            lambda db: moves.expire(db, at_ms, grace_s, checkpoint=checkpoint)
        )
        return ids

    async def expire_orphans(
        self, owner: str, at_ms: int, *, checkpoint: bool = False
    ) -> list[str]:
        if self._lock is None:
            return []
        ids: list[str] = await self._move(
            lambda db: moves.expire_orphans(db, owner, at_ms, checkpoint=checkpoint)
        )
        return ids

    # looks

    async def open_holds(self) -> list[HoldRow]:
        return [mapping.hold_row(values) for values in await self._look("open_holds")]

    async def usage(
        self, account: str | None = None, from_ms: int = 0, to_ms: int | None = None
    ) -> list[UsageRow]:
        span = mapping.span(from_ms, to_ms)
        if account is None:
            found = await self._look("usage", **span)
        else:
            found = await self._look("usage_of_account", account=account, **span)
        return [mapping.usage_row(values) for values in found]

    async def usage_sums(
        self,
        account: str | None = None,
        from_ms: int = 0,
        to_ms: int | None = None,
        *,
        days: bool = True,
        keys: bool = True,
    ) -> list[UsageSum]:
        values: dict[str, Any] = {"days": days, "keys": keys, **mapping.span(from_ms, to_ms)}
        if account is None:
            found = await self._apart(lambda db: run(db, "usage_sums", **values))
        else:
            values["account"] = account
            found = await self._apart(lambda db: run(db, "usage_sums_of_account", **values))
        return [UsageSum(*figures) for figures in found]

    async def last_used(self, account: str | None = None) -> dict[str, int]:
        return dict(await self._look("last_used", account=account))

    async def usage_row(self, hold: str) -> UsageRow | None:
        found = await self._look("usage_row", hold=hold)
        return mapping.usage_row(found[0]) if found else None

    async def entries(self, account: str | None = None, tx: str | None = None) -> list[EntryRow]:
        if tx is not None:
            found = await self._look("entries_of_tx", tx=tx, account=account)
        else:
            row = None if account is None else await self.account(account)
            wallet = row is not None and row.kind == "wallet"
            found = await self._look("entries_of_wallet" if wallet else "entries", account=account)
        return [EntryRow(*values) for values in found]

    async def entry_sums(
        self, account: str, from_ms: int = 0, to_ms: int | None = None
    ) -> dict[str, int]:
        values = {"account": account, **mapping.span(from_ms, to_ms)}
        return dict(await self._apart(lambda db: run(db, "entry_sums", **values)))

    async def credits(
        self, account: str, from_ms: int = 0, to_ms: int | None = None
    ) -> list[EntryRow]:
        found = await self._look("credits", account=account, **mapping.span(from_ms, to_ms))
        return [EntryRow(*values) for values in found]

    async def audit(self) -> list[Finding]:
        return list(await self._apart(audits.audit))

    async def self_check(self) -> list[Finding]:
        return list(await self._apart(audits.self_check))

    async def _apart(self, look: Call) -> Any:
        """A look that may take long, on a connection of its own: no other look waits for it."""
        await self._reader.do(_nothing)  # a closed store is not opened again
        desk = Desk(self._path, self._vfs, reading=True)

        def inspect() -> Any:
            try:
                return desk.look_up([look])[0]
            finally:
                desk.close()

        found: Any = await asyncio.to_thread(inspect)
        if isinstance(found, BaseException):
            raise found
        return found


def _nothing(_db: apsw.Connection) -> None:
    """A call that only wants a connection."""
