"""Connections to one PostgreSQL database: few, bounded, and never waited for in vain.

Whatever goes wrong there is LedgerUnavailable with a word of :data:`KINDS`, or, where the row
itself is at fault, a ValueError that names the constraint and no value. A connection that fell
silent is dropped, never asked again; the next one that is wanted is made anew, so the pool comes
back by itself when the database does. It refuses to know what its connections are asked.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from math import inf
from typing import Any, Final, TypeAlias, TypeVar

import asyncpg

from moongate.core.errors import LedgerUnavailable

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Work = Callable[[Connection], Awaitable[Any]]
_Result = TypeVar("_Result")

PATIENCE_S: Final = 0.23
"""How long nothing at all may be heard of the database before it counts as gone."""
LIMIT_S: Final = 2.2
"""How long one move or short look may take altogether, a little more than a statement may."""
BUSY_S: Final = 1.5
"""How long it is tried again while somebody else has what it needs."""
TURN_S: Final = 0.002
CONNECT_S: Final = 1.0
IDLE_S: Final = 60.0
"""An idle connection is not kept longer: whatever stands between may have forgotten it."""

SETTINGS: Final = {
    "application_name": "moongate",
    "synchronous_commit": "on",
    "lock_timeout": "250ms",
    "statement_timeout": "2s",
    "idle_in_transaction_session_timeout": "10s",
    "timezone": "UTC",
}
"""What each of our sessions sets."""

KINDS: Final = {
    "53100": "full",
    "53200": "memory",
    "25006": "read_only",
    "42501": "not_allowed",
    "55P03": "busy",
    "40P01": "busy",
    "40001": "busy",
    "57014": "slow",
    "57P01": "lost",
    "57P02": "lost",
    "25P03": "lost",
    "58030": "io",
    "XX001": "damaged",
    "XX002": "damaged",
}
"""SQLSTATE -> the word of LedgerUnavailable. ``lost``: nobody knows whether it was done."""
TROUBLE: Final = (
    OSError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    # A connection that was idle when its end came, and has not been told of it yet.
    asyncpg.InternalClientError,
)
"""What a connection may raise."""
OWN_FAULT: Final = ("22", "23", "P0")
"""Classes of SQLSTATE that speak of the row, not of the store."""


def translated(error: BaseException) -> Exception:
    """What a caller of the store is told of ``error``."""
    if isinstance(error, asyncpg.PostgresError):
        code = error.sqlstate or ""
        if code.startswith(OWN_FAULT):
            return ValueError(f"the store refused this row: {fault(error)}")
        return LedgerUnavailable("lost" if code.startswith("08") else KINDS.get(code, "store"))
    return LedgerUnavailable("lost")


def fault(error: asyncpg.PostgresError) -> str:
    """The constraint, a trigger's own sentence, or the bare code; never a value."""
    name = error.as_dict().get("constraint_name")
    return name or (str(error) if error.sqlstate == "P0001" else str(error.sqlstate))


class Pool:
    """At most ``size`` connections to ``url``, for one event loop."""

    def __init__(self, url: str, size: int, patience_s: float = PATIENCE_S) -> None:
        self._url = url
        self._patience_s = patience_s
        self._size = size
        self._places = asyncio.Semaphore(size)
        self._idle: list[tuple[Connection, float]] = []
        self._taken: set[Connection] = set()
        self._closed = False
        self._heard_s = self._lost_s = -inf

    def quiet_s(self, now_s: float) -> float:
        """Seconds since the database was last found gone."""
        return now_s - self._lost_s

    async def look(self, work: Work) -> Any:
        """What ``work`` gives, or LedgerUnavailable as soon as the database seems gone.

        A look that found its connection lost is made once more on a new one.
        """
        return await self._watched(self._twice(work), self._patience_s)

    async def _twice(self, work: Work) -> Any:
        try:
            return await self._unlocked(work)
        except LedgerUnavailable as error:
            if error.kind != "lost":
                raise
        return await self._unlocked(work)

    async def change(self, work: Work, *, patience_s: float | None = None) -> Any:
        """Like :meth:`look` for what must not be done twice: made once, lost or not."""
        patience_s = self._patience_s if patience_s is None else max(patience_s, self._patience_s)
        return await self._watched(self._unlocked(work), patience_s)

    async def _unlocked(self, work: Work) -> Any:
        """What ``work`` gives; again while somebody has what it needs: then nothing was done."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + BUSY_S
        while True:
            try:
                return await self.do(work, LIMIT_S)
            except LedgerUnavailable as error:
                if error.kind != "busy" or loop.time() > until_s:
                    raise

    async def _watched(self, work: Coroutine[Any, Any, Any], patience_s: float) -> Any:
        task = asyncio.ensure_future(work)
        try:
            return await self.patiently(task, patience_s)
        finally:
            task.cancel()

    async def patiently(
        self, future: asyncio.Future[_Result], patience_s: float | None = None
    ) -> _Result:
        """The future's result, unless the database stays silent for ``patience_s`` meanwhile.

        Then the future is cancelled and LedgerUnavailable raised. Silence is nothing heard on any
        connection: that one answer takes long does not mean that nobody is there.
        """
        loop = asyncio.get_running_loop()
        patience_s = self._patience_s if patience_s is None else patience_s
        began_s = loop.time()
        while not future.done():
            until_s = self._until_s(began_s, patience_s)
            if loop.time() < until_s:
                await asyncio.wait((future,), timeout=until_s - loop.time())
                continue
            # It may be this loop that was busy, and the answer is there already.
            await asyncio.sleep(TURN_S)
            if not future.done() and self._until_s(began_s, patience_s) <= until_s:
                future.cancel()
                if until_s < began_s + LIMIT_S:
                    raise self._noted(LedgerUnavailable("silent"))
                raise LedgerUnavailable("slow")
        return future.result()

    def _until_s(self, began_s: float, patience_s: float) -> float:
        return min(max(began_s, self._heard_s) + patience_s, began_s + LIMIT_S)

    async def do(self, work: Work, limit_s: float) -> Any:
        """What ``work`` gives on a connection. Raises LedgerUnavailable, or ValueError."""
        async with self._places:
            db = await self._take()
            try:
                async with asyncio.timeout(limit_s):
                    result = await work(db)
            except TROUBLE as error:
                told = translated(error)
                if isinstance(told, LedgerUnavailable) and told.kind == "lost":
                    self._drop(db)
                    raise self._noted(told) from None
                self._heard()
                self._give_back(db)
                raise told from None
            except BaseException:
                self._drop(db)
                raise
            self._heard()
            self._give_back(db)
            return result

    def _heard(self) -> None:
        self._heard_s = asyncio.get_running_loop().time()

    def _noted(self, error: LedgerUnavailable) -> LedgerUnavailable:
        """``error``, which says that the database is gone, remembered."""
        self._lost_s = asyncio.get_running_loop().time()
        # What lies idle was cut by the same stroke.
        while self._idle:
            self._idle.pop()[0].terminate()
        return error

    async def _take(self) -> Connection:
        if self._closed:
            raise LedgerUnavailable("closed")
        now_s = asyncio.get_running_loop().time()
        while self._idle:
            db, since_s = self._idle.pop()
            if not db.is_closed() and now_s - since_s < IDLE_S:
                self._taken.add(db)
                return db
            db.terminate()
        task = asyncio.ensure_future(self._connected())
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            # Whoever waited gave up; whoever comes next has it, or none would ever be made where
            # making one takes longer than anybody waits.
            task.add_done_callback(self._keep)
            raise

    async def _connected(self) -> Connection:
        try:
            db = await asyncpg.connect(self._url, timeout=CONNECT_S, server_settings=SETTINGS)
        except TROUBLE:
            raise self._noted(LedgerUnavailable("unreachable")) from None
        self._heard()
        self._taken.add(db)
        return db

    def _keep(self, task: asyncio.Task[Connection]) -> None:
        if task.cancelled() or task.exception() is not None:
            return
        if len(self._idle) < self._size:
            self._give_back(task.result())
        else:
            self._drop(task.result())

    def _give_back(self, db: Connection) -> None:
        if db.is_closed() or self._closed:
            self._drop(db)
        else:
            self._taken.discard(db)
            self._idle.append((db, asyncio.get_running_loop().time()))

    def _drop(self, db: Connection) -> None:
        self._taken.discard(db)
        db.terminate()

    async def close(self) -> None:
        """End every connection, in peace where there is an answer."""
        self._closed = True
        for db in self._taken:
            db.terminate()
        while self._idle:
            db, _ = self._idle.pop()
            with suppress(*TROUBLE):
                await db.close(timeout=LIMIT_S)
