"""The engine for many processes: PostgreSQL, one call and one commit for a batch of moves.

What may not happen is refused by the database (guards in its functions, constraints, triggers),
never by a figure that was read before; every time that decides something is its clock's. While
it is gone callers get LedgerUnavailable, within a quarter of a second where money would be set
aside; nobody is ever taken for unknown because a store could not be asked. One object serves one
event loop.
"""

from collections.abc import Sequence
from typing import Final

from moongate.core.chain import Walk
from moongate.core.errors import ConfigurationError, LedgerUnavailable
from moongate.core.rows import EntryRow, Finding, HoldRow, UsageRow
from moongate.core.sums import UsageSum
from moongate.store import mapping
from moongate.store.postgres_line import Line
from moongate.store.postgres_money import PostgresMoney
from moongate.store.postgres_office import PostgresOffice
from moongate.store.postgres_opening import prepare
from moongate.store.postgres_pool import LIMIT_S, PATIENCE_S, Connection, Pool
from moongate.store.statements import POSTGRES

CONNECTIONS: Final = 8
AUDIT_S: Final = 600.0
"""How long an audit may take."""
MINUTELY: Final = ("drift", "audit_3_held", "audit_4_overdraft")


class PostgresStore(PostgresMoney, PostgresOffice):
    """``core.store.Store`` on the database that ``url`` names.

    ``patience_s``: how long the database may be silent before it counts as gone.
    """

    def __init__(self, url: str, *, patience_s: float = PATIENCE_S) -> None:
        super().__init__()
        self._url = url
        self._pool = Pool(url, CONNECTIONS, patience_s)
        self._line = Line(self._send)

    async def open(self) -> None:
        await prepare(self._url)
        try:
            # Without the patience of later: a first connection may take its time.
            await self._pool.do(lambda db: db.execute(POSTGRES["ping"]), LIMIT_S)
        except LedgerUnavailable as error:
            await self.close()
            raise ConfigurationError(
                f"The database of store.url cannot be written ({error.kind}). Look into its log."
            ) from None

    async def close(self) -> None:
        await self._line.close()
        await self._pool.close()

    # looks

    async def open_holds(self) -> list[HoldRow]:
        return [mapping.hold_row(values) for values in await self._all("open_holds")]

    async def usage(
        self, account: str | None = None, from_ms: int = 0, to_ms: int | None = None
    ) -> list[UsageRow]:
        span = _span(from_ms, to_ms)
        if account is None:
            found = await self._all("usage", *span)
        else:
            found = await self._all("usage_of_account", account, *span)
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
        values = (days, keys, *_span(from_ms, to_ms))
        if account is None:
            found = await self._all("usage_sums", *values)
        else:
            found = await self._all("usage_sums_of_account", *values, account)
        return [UsageSum(*figures) for figures in found]

    async def last_used(self, account: str | None = None) -> dict[str, int]:
        return dict(await self._all("last_used", account))

    async def usage_row(self, hold: str) -> UsageRow | None:
        found = await self._one("usage_row", hold)
        return None if found is None else mapping.usage_row(found)

    async def entries(self, account: str | None = None, tx: str | None = None) -> list[EntryRow]:
        if tx is not None:
            found = await self._all("entries_of_tx", tx, account)
        else:
            row = None if account is None else await self.account(account)
            wallet = row is not None and row.kind == "wallet"
            found = await self._all("entries_of_wallet" if wallet else "entries", account)
        return [EntryRow(*values) for values in found]

    async def entry_sums(
        self, account: str, from_ms: int = 0, to_ms: int | None = None
    ) -> dict[str, int]:
        return dict(await self._all("entry_sums", account, *_span(from_ms, to_ms)))

    async def credits(
        self, account: str, from_ms: int = 0, to_ms: int | None = None
    ) -> list[EntryRow]:
        found = await self._all("credits", account, *_span(from_ms, to_ms))
        return [EntryRow(*values) for values in found]

    async def audit(self) -> list[Finding]:
        names = [name for name in POSTGRES if name.startswith("audit_")]
        return await self._inspect(["drift", *names], chains=True)

    async def self_check(self) -> list[Finding]:
        return await self._inspect(MINUTELY, chains=False)

    async def _inspect(self, names: Sequence[str], *, chains: bool) -> list[Finding]:
        """What the named statements find, all of one moment."""

        async def inspect(db: Connection) -> list[Finding]:
            found: list[Finding] = []
            async with db.transaction(isolation="repeatable_read", readonly=True):
                await db.execute(POSTGRES["take_time"])
                for name in names:
                    found += [Finding(*row) for row in await db.fetch(POSTGRES[name])]
                if chains:
                    found += await _chains(db)
            return found

        await self._one("account", "cash")
        findings: list[Finding] = await self._pool.do(inspect, AUDIT_S)
        return findings


def _span(from_ms: int, to_ms: int | None) -> tuple[int, int]:
    return from_ms, mapping.FOREVER_MS if to_ms is None else to_ms


async def _chains(db: Connection) -> list[Finding]:
    """What is wrong with the wallets' chains, entry by entry: none is too long for that."""
    found: list[Finding] = []
    wallet, walk, wrong = None, Walk(), None
    async for id, last_no, last, *values in db.cursor(POSTGRES["chains"], prefetch=1_000):
        if id != wallet:
            found += [] if wallet is None or wrong is None else [Finding("chain", wallet, wrong)]
            wallet, walk = id, Walk()
        if values[0] is not None:
            walk.take(EntryRow(*values))
        wrong = walk.end(last_no, last)
    found += [] if wallet is None or wrong is None else [Finding("chain", wallet, wrong)]
    return found
