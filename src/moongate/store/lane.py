"""A lane: one thread that owns one connection and takes work in batches.

What is queued while a batch runs becomes the next batch, so one commit serves everybody who
waited for it (group commit). Outcomes go back with one wake-up of each event loop a batch. This
module refuses to know SQL.
"""

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, TypeVar

from moongate.core.errors import LedgerUnavailable

BATCH_MAX: Final = 512

Work = TypeVar("Work")
Outcome = Any | BaseException
Run = Callable[[Sequence[Work]], Sequence[Outcome]]


class _Ticket(Generic[Work]):
    """One piece of work and where its outcome goes."""

    __slots__ = ("future", "loop", "work")

    def __init__(self, work: Work, loop: asyncio.AbstractEventLoop) -> None:
        self.work = work
        self.loop = loop
        self.future: asyncio.Future[Any] = loop.create_future()


class Lane(Generic[Work]):
    """Runs ``run`` on batches of at most :data:`BATCH_MAX`, in a thread called ``name``.

    ``run`` returns one outcome for each piece of work, an exception among them is raised to its
    caller; ``end`` is called last, in the thread.
    """

    def __init__(self, name: str, run: Run[Work], end: Callable[[], None]) -> None:
        self._run = run
        self._end = end
        self._queue: queue.SimpleQueue[_Ticket[Work] | None] = queue.SimpleQueue()
        self._gate = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)

    def start(self) -> None:
        """Begin to take work."""
        self._thread.start()

    async def do(self, work: Work) -> Any:
        """The outcome of ``work``. Raises LedgerUnavailable when the lane is closed.

        A caller who is cancelled leaves its work in the queue: it is done all the same.
        """
        ticket = _Ticket(work, asyncio.get_running_loop())
        with self._gate:
            if self._closed:
                raise LedgerUnavailable("closed")
            self._queue.put(ticket)
        return await ticket.future

    async def close(self) -> None:
        """Finish what is queued, then end the thread. A second call waits for the same end.

        A lane that was never started ends at once.
        """
        with self._gate:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        if self._thread.ident is not None:
            await asyncio.to_thread(self._thread.join)

    def _loop(self) -> None:
        closing = False
        while not closing:
            batch: list[_Ticket[Work]] = []
            ticket = self._queue.get()
            while ticket is not None:
                batch.append(ticket)
                if len(batch) == BATCH_MAX:
                    break
                try:
                    ticket = self._queue.get_nowait()
                except queue.Empty:
                    break
            closing = ticket is None
            if batch:
                self._serve(batch)
        self._end()

    def _serve(self, batch: list[_Ticket[Work]]) -> None:
        try:
            outcomes = self._run([ticket.work for ticket in batch])
        except Exception as error:  # noqa: BLE001 - a fault of ours must reach the callers, not end the thread
            outcomes = [error] * len(batch)
        found: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Outcome]]] = {}
        for ticket, outcome in zip(batch, outcomes, strict=True):
            found.setdefault(ticket.loop, []).append((ticket.future, outcome))
        for loop, pairs in found.items():
            try:
                loop.call_soon_threadsafe(_resolve, pairs)
            except RuntimeError:
                # Its loop is closed: nobody waits there any more, and the work is done.
                continue


def _resolve(pairs: Sequence[tuple[asyncio.Future[Any], Outcome]]) -> None:
    for future, outcome in pairs:
        if future.done():
            continue
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
