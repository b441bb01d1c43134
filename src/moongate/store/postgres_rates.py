"""The counter of all replicas in PostgreSQL, where there is no Redis: each step is one function.

The database's clock counts, and steps of one account one at a time. The tables are not logged, so a
step waits for no disk, and connections of its own keep it clear of the ledger's. Nothing is
asked twice: a step whose outcome is unknown is CounterGone. It refuses to know what is limited.
"""

import asyncio
from contextlib import suppress
from typing import Final

from moongate.core.errors import LedgerUnavailable
from moongate.core.rates import LEASE_MS, Answer, Ask, CounterGone
from moongate.store.postgres_pool import PATIENCE_S, Connection, Pool
from moongate.store.statements import POSTGRES

CONNECTIONS: Final = 3
FORGET_S: Final = 60.0


class PostgresCounter:
    """A :class:`moongate.core.rates.Counter` in the database at ``url``, once it is migrated.

    ``patience_s``: how long the database may be silent before a step is given up.
    """

    def __init__(
        self,
        url: str,
        *,
        lease_ms: int = LEASE_MS,
        forget_s: float = FORGET_S,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._pool = Pool(url, CONNECTIONS, patience_s)
        self._lease_ms, self._forget_s = lease_ms, forget_s
        self._forgetting: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to forget, now and then, what is owed no more."""
        self._forgetting = asyncio.create_task(self._forget())

    async def close(self) -> None:
        if self._forgetting is not None:
            self._forgetting.cancel()
            await asyncio.gather(self._forgetting, return_exceptions=True)
        await self._pool.close()

    async def ask(self, ask: Ask) -> Answer:
        limits = tuple(rate.limit for rate in ask.rates)
        values = (
            ask.kind,
            self._lease_ms,
            ask.account,
            ask.ids,
            [rate.name for rate in ask.rates],
            limits,
            [rate.amount for rate in ask.rates],
            [room.name for room in ask.rooms],
            [room.limit for room in ask.rooms],
        )

        async def count(db: Connection) -> list[int]:
            said: list[int] = await db.fetchval(POSTGRES["rates"], *values)
            return said

        try:
            refused, wait_ms, *owed = await self._pool.change(count)
        except LedgerUnavailable as error:
            raise CounterGone(error.kind) from None
        return Answer(tuple(owed), limits, refused, wait_ms)

    async def _forget(self) -> None:
        async def forget(db: Connection) -> None:
            await db.execute(POSTGRES["rates_forget"])

        while True:
            await asyncio.sleep(self._forget_s)
            with suppress(LedgerUnavailable, ValueError):  # the ladder tells; the next turn will do
                await self._pool.change(forget)
