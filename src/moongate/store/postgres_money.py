"""The moves of money on PostgreSQL: through the line, many in one call; the rare ones directly.

All times are the database's. A hold that nobody answered for may stand all the same: it is nobody's
then, is not renewed, and expires.
"""

import asyncio
import zlib
from collections.abc import Sequence
from typing import Any, Final
from uuid import uuid4

import msgspec

from moongate.core.errors import LedgerUnavailable
from moongate.core.money import Usage
from moongate.core.rows import HoldRow, HoldState, TopupRow
from moongate.core.store import Extension, Idem, NotHeld, Running, Settlement
from moongate.store import postgres_rows as rows
from moongate.store.postgres_line import Line, Move
from moongate.store.postgres_pool import Connection, Pool
from moongate.store.statements import POSTGRES

SHARDS: Final = 16
TRY_S: Final = 0.6
"""How long the database may be silent before a batch is sent again."""
SETTLE_S: Final = 1.9
"""How long a settlement is tried while the database is gone."""
WAIT_S: Final = 2.0
QUIET_S: Final = 15.0
"""How long after an outage nothing is expired."""


class PostgresMoney:
    """Moves of money over ``pool``."""

    _pool: Pool
    _line: Line

    def __init__(self) -> None:
        # Each process posts to a shard of its own as often as chance has it, each lane to another.
        self._shard = zlib.crc32(uuid4().bytes) % SHARDS

    def _shard_of(self, lane: int) -> str:
        return f"{(self._shard + lane) % SHARDS:02}"

    async def _send(self, batch: Sequence[Move], lane: int) -> Sequence[Any]:
        """A batch as one call: one round trip, one commit."""
        kinds = ("settle", "extend", "hold")
        places: dict[str, list[int]] = {kind: [] for kind in kinds}
        for n, move in enumerate(batch):
            places[move.kind].append(n)
        asks = [rows.batch([batch[n].json for n in places[kind]]) for kind in kinds]

        async def call(db: Connection) -> str:
            answer: str = await db.fetchval(POSTGRES["moves"], *asks, self._shard_of(lane))
            return answer

        answers = rows.outcomes(await self._pool.change(call, patience_s=TRY_S))
        found: list[Any] = [None] * len(batch)
        for kind, outcomes in zip(kinds, answers, strict=True):
            for n, outcome in zip(places[kind], outcomes, strict=True):
                found[n] = outcome
        return found

    async def hold(
        self,
        row: HoldRow,
        *,
        floor_nanos: int | None = None,
        unit_nanos: int = 1,
        idem: Idem | None = None,
    ) -> HoldRow | NotHeld:
        floor = row.amount_nanos if floor_nanos is None else floor_nanos
        if min(row.amount_nanos, floor) < 0:
            raise ValueError("a hold cannot be negative")
        json = rows.hold_json(row, floor_nanos, unit_nanos, idem)
        move = Move("hold", row.id, row.account, json)
        made = await self._pool.patiently(self._line.put(move))
        if isinstance(made, HoldRow | NotHeld):
            return made
        nanos, at_ms, legs = made
        return msgspec.structs.replace(
            row,
            amount_nanos=nanos,
            created_ms=at_ms,
            legs=legs,
            state=HoldState.OPEN,
            running=Usage(),
        )

    async def extend(self, extension: Extension) -> HoldRow | None:
        move = Move("extend", extension.hold, "", rows.extension_json(extension))
        row: HoldRow | None = await self._pool.patiently(self._line.put(move))
        return row

    async def settle(self, settlement: Settlement) -> bool:
        """As the seam says; waits up to two seconds for a database that is gone."""
        row, json = settlement.row, rows.settlement_json(settlement)
        move = Move("settle", row.hold, row.account, json, SETTLE_S)
        future = self._line.put(move)
        await asyncio.wait((future,), timeout=WAIT_S)
        if not future.done():
            future.cancel()
            raise LedgerUnavailable("silent")
        done: bool = future.result()
        return done

    async def renew(self, running: Sequence[Running], at_ms: int) -> int:  # noqa: ARG002 - the database's clock counts
        told = rows.running_json(list(running))
        count: int = await self._pool.look(lambda db: db.fetchval(POSTGRES["renew"], told))
        return count

    async def expire(self, at_ms: int, grace_s: int, *, checkpoint: bool = False) -> list[str]:  # noqa: ARG002 - the database's clock counts
        """As the seam says.

        Nothing is expired while the database was found gone within the last 15 seconds: what
        lapsed meanwhile was not left by the dead, and its owners, of whom we may not be the first
        to be back, get time to renew it or to replay their journals.
        """
        expired: list[str] = []
        if self._pool.quiet_s(asyncio.get_running_loop().time()) < QUIET_S:
            return expired
        while True:
            ids: list[str] = await self._pool.change(
                lambda db: db.fetchval(POSTGRES["expire"], grace_s, checkpoint, self._shard_of(0))
            )
            if not ids:
                return expired
            expired += ids

    async def expire_orphans(
        self,
        owner: str,  # noqa: ARG002 - nobody's holds
        at_ms: int,  # noqa: ARG002 - are told apart
        *,
        checkpoint: bool = False,  # noqa: ARG002 - here
    ) -> list[str]:
        """Nothing: other processes serve this store too, and leases tell the dead apart."""
        return []

    async def credit(
        self,
        account: str,
        amount_nanos: int,
        kind: str,
        tx: str,
        at_ms: int,  # noqa: ARG002 - the database's clock counts
        topup: TopupRow | None = None,
    ) -> bool:
        values = rows.credit_values(account, amount_nanos, kind, tx, topup)
        said = await self._pool.change(lambda db: db.fetchval(POSTGRES["credit"], *values))
        return rows.credited(said)
