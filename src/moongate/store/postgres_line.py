"""The line: moves of money wait here for each other, so that many share one round trip and commit.

A batch goes at once when nobody is under way, else when it is full or its oldest move has waited
a moment. Several may be under way, but never two moves of one hold. A batch whose outcome nobody
knows is sent again with the same ids, because every move is idempotent. The line refuses to know
SQL and what a move means.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from moongate.core.errors import LedgerUnavailable

BATCH_MAX: Final = 64
GATHER_S: Final = 0.002
LANES: Final = 4
PAUSE_S: Final = 0.05
AGAIN: Final = frozenset({"lost", "busy"})
"""What is worth another try at once: the connection was lost on the way, or a lock was not free."""
TRIES: Final = 3


class Move:
    """One move: its ``kind`` (a word), the ``hold`` it is about, its JSON, and its outcome.

    ``until_s``: until when (the loop's time) it is tried again whatever the trouble.
    """

    __slots__ = ("future", "hold", "json", "kind", "since_s", "until_s")

    def __init__(self, kind: str, hold: str, json: bytes, patient_s: float) -> None:
        loop = asyncio.get_running_loop()
        self.kind, self.hold, self.json = kind, hold, json
        self.since_s = loop.time()
        self.until_s = self.since_s + patient_s
        self.future: asyncio.Future[Any] = loop.create_future()


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
        self._busy: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._lanes = lanes
        self._timer: asyncio.TimerHandle | asyncio.Handle | None = None
        self._closed = False

    def put(self, move: Move) -> asyncio.Future[Any]:
        """Queue ``move``; its outcome comes through the future. Raises LedgerUnavailable."""
        if self._closed:
            raise LedgerUnavailable("closed")
        self._waiting.append(move)
        self._wake()
        return move.future

    async def close(self) -> None:
        """Finish what is queued, then take nothing more."""
        self._closed = True
        while self._waiting or self._tasks:
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

    def _next(self) -> list[Move]:
        """The next batch: the oldest moves, but of a hold that is under way none."""
        batch: list[Move] = []
        aside: list[Move] = []
        while self._waiting and len(batch) < BATCH_MAX:
            move = self._waiting.popleft()
            if move.future.done():
                continue  # given up
            if move.hold in self._busy:
                aside.append(move)
            else:
                self._busy.add(move.hold)
                batch.append(move)
        self._waiting.extendleft(reversed(aside))
        return batch

    async def _serve(self, batch: list[Move], lane: int) -> None:
        try:
            await self._carry(batch, lane)
        except Exception as error:  # noqa: BLE001 - a fault of ours must reach the callers
            for move in batch:
                _raise(move, error)
        finally:
            self._busy.difference_update(move.hold for move in batch)
            self._free.append(lane)
            if any(move.hold not in self._busy for move in self._waiting):
                self._timer = self._timer or asyncio.get_running_loop().call_soon(self._pump)

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
                for move in batch[: len(batch) if len(batch) > 1 else 0]:
                    await self._carry([move], lane)
            except LedgerUnavailable as error:
                now_s = asyncio.get_running_loop().time()
                again = error.kind in AGAIN and tries < TRIES
                for move in batch:
                    if not again and now_s + PAUSE_S >= move.until_s:
                        _raise(move, error)
                if not again or error.kind == "busy":
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
