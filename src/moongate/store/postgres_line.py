"""The line: moves of money wait here for each other, so that many share one round trip and commit.

A batch goes at once when nobody is under way, else when it is full or its oldest move has waited
a moment. Several may be under way, but never with moves of one hold, and of one account no more
than two: they wait for each other in the database. A batch whose outcome nobody knows is sent again
with the same ids, because every move is idempotent. The line refuses to know SQL and what a move
means.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from moongate.core.errors import LedgerUnavailable

BATCH_MAX: Final = 64
GATHER_S: Final = 0.002
LANES: Final = 4
ABREAST: Final = 2
"""Batches that may hold moves of one account: the second is read, completed and at the lock while
the first commits and is answered, so the database never waits for us. A third would only wait."""
PAUSE_S: Final = 0.05
LOST: Final = frozenset({"lost", "silent", "slow"})
"""Nobody knows whether it was done: it is sent again at once."""
TRIES: Final = 3


class Move:
    """One move: its ``kind`` (a word), the ``hold`` it is about, its JSON, and its outcome.

    ``account`` is whose it is, or ``""`` where that is not known. It is tried again for
    ``patient_s`` whatever the trouble.
    """

    __slots__ = ("account", "future", "hold", "json", "kind", "patient_s", "since_s")

    def __init__(
        self, kind: str, hold: str, account: str, json: bytes, patient_s: float = 0
    ) -> None:
        loop = asyncio.get_running_loop()
        self.kind, self.hold, self.account, self.json = kind, hold, account, json
        self.patient_s = patient_s
        self.since_s = loop.time()
        self.future: asyncio.Future[Any] = loop.create_future()

    def endures(self, kind: str, tries: int, now_s: float) -> bool:
        """Whether trouble of that ``kind`` after so many tries is no reason to give up yet."""
        again = kind in LOST and tries < TRIES
        return again or now_s + PAUSE_S < self.since_s + self.patient_s


Send = Callable[[Sequence[Move], int], Awaitable[Sequence[Any]]]


class Line:
    """Carries moves to ``send``, which takes a batch and the number of its lane.

    ``send`` returns an outcome for each move (an exception is raised to its caller), or raises
    LedgerUnavailable for all, or ValueError where one of them spoils the batch.
    """

    def __init__(self, send: Send, lanes: int = LANES) -> None:
        self._send = send
        self._free = list(reversed(range(lanes)))
        self._waiting: deque[Move] = deque()
        # What has to wait until some batch that is under way has ended.
        self._parked: deque[Move] = deque()
        self._holds: set[str] = set()
        self._accounts: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._lanes = lanes
        self._timer: asyncio.TimerHandle | asyncio.Handle | None = None
        self._closed = False

    def put(self, move: Move) -> asyncio.Future[Any]:
        """Queue ``move``; its outcome comes through the future. Raises LedgerUnavailable."""
        if self._closed:
            raise LedgerUnavailable("closed")
        if self._is_busy(move):
            self._parked.append(move)
        else:
            self._waiting.append(move)
            self._wake()
        return move.future

    async def close(self) -> None:
        """Finish what is queued, then take nothing more."""
        self._closed = True
        while self._waiting or self._parked or self._tasks:
            self._pump()
            if self._tasks:
                await asyncio.wait(self._tasks)

    def _wake(self) -> None:
        """See to it that the queue is looked at when a batch is due."""
        if not self._free or not self._waiting:
            return
        loop = asyncio.get_running_loop()
        if len(self._waiting) >= BATCH_MAX:
            self._pump()
        elif self._timer is None:
            if len(self._free) == self._lanes:
                # Whoever comes in this turn of the loop comes along.
                self._timer = loop.call_soon(self._pump)
            else:
                self._timer = loop.call_at(self._waiting[0].since_s + GATHER_S, self._pump)

    def _pump(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._free and (batch := self._next()):
            lane = self._free.pop()
            task = asyncio.get_running_loop().create_task(self._serve(batch, lane))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _is_busy(self, move: Move) -> bool:
        return move.hold in self._holds or self._accounts[move.account] >= ABREAST

    def _next(self) -> list[Move]:
        """The next batch: the oldest moves that nothing under way stands against."""
        batch: list[Move] = []
        holds: set[str] = set()
        while self._waiting and len(batch) < BATCH_MAX:
            move = self._waiting.popleft()
            if move.future.done():
                continue  # given up
            if move.hold in holds or self._is_busy(move):
                self._parked.append(move)
            else:
                holds.add(move.hold)
                batch.append(move)
        self._holds |= holds
        self._accounts.update({move.account for move in batch if move.account})
        return batch

    async def _serve(self, batch: list[Move], lane: int) -> None:
        try:
            await self._carry(batch, lane)
        except Exception as error:  # noqa: BLE001 - a fault of ours must reach the callers
            for move in batch:
                _raise(move, error)
        finally:
            self._holds.difference_update(move.hold for move in batch)
            self._accounts -= Counter({move.account for move in batch if move.account})
            self._free.append(lane)
            self._waiting.extendleft(reversed(self._parked))
            self._parked.clear()
            if self._waiting and self._timer is None:
                self._timer = asyncio.get_running_loop().call_soon(self._pump)

    async def _carry(self, batch: list[Move], lane: int) -> None:
        """Send ``batch`` until each of its moves has an outcome."""
        tries = 0
        while batch := [move for move in batch if not move.future.done()]:
            tries += 1
            try:
                outcomes = await self._send(batch, lane)
            except ValueError as error:
                if len(batch) == 1:
                    _raise(batch[0], error)
                else:
                    for move in batch:
                        await self._carry([move], lane)
            except LedgerUnavailable as error:
                now_s = asyncio.get_running_loop().time()
                for move in batch:
                    if not move.endures(error.kind, tries, now_s):
                        _raise(move, error)
                if error.kind not in LOST or tries >= TRIES:
                    await asyncio.sleep(PAUSE_S)
            else:
                for move, outcome in zip(batch, outcomes, strict=True):
                    if isinstance(outcome, BaseException):
                        _raise(move, outcome)
                    elif not move.future.done():
                        move.future.set_result(outcome)


def _raise(move: Move, error: BaseException) -> None:
    if not move.future.done():
        move.future.set_exception(error)
        move.future.exception()  # its caller may be gone
