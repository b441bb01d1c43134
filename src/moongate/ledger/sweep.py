"""The sweep: keeps the leases of our own open holds, and resolves holds whose holder died.

It renews before it looks for lapsed leases, so a wall clock that jumps ahead expires nothing of
ours. What the journal holds is booked as soon as the store takes it again, and the ledger checks
itself once a minute. It never ends by itself: while the store is unavailable it says so and tries
again.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import msgspec

from moongate.core.errors import ConfigurationError, LedgerUnavailable
from moongate.core.ports import Clock, Store
from moongate.core.rows import Finding
from moongate.ledger.book import Book
from moongate.ledger.journal import REPLAY_S

GRACE_S: Final = 120


class Turns(msgspec.Struct, frozen=True):
    """How often each chore comes, in seconds."""

    replay_s: float = REPLAY_S
    renew_s: float = 5.0
    expire_s: float = 30.0
    check_s: float = 60.0


class Report(Protocol):
    """Where the sweep tells what it did: an event's name and scalars."""

    def __call__(self, name: str, /, **fields: str | int | bool | None) -> None: ...


class Sweep:
    """Sweeps one book's store. ``checked`` gets what each self-check found."""

    def __init__(
        self,
        store: Store,
        book: Book,
        clock: Clock,
        report: Report,
        *,
        checked: Callable[[Sequence[Finding]], None] = lambda found: None,  # noqa: ARG005 - silent
        checkpoint: bool = False,
        grace_s: int = GRACE_S,
        turns: Turns = Turns(),  # noqa: B008 - a frozen struct
    ) -> None:
        self._store, self._book, self._clock, self._report = store, book, clock, report
        self._checked, self._checkpoint, self._grace_s = checked, checkpoint, grace_s
        self._turns = turns
        self.replicas = 1
        """Processes that serve this store, ours among them, when it was last asked."""

    async def recover(self) -> int:
        """Before the first request: book what a journal holds, expire what a dead process held.

        Returns how many holds expired. Raises LedgerUnavailable, and ConfigurationError for a
        store that lacks what the journal charges.
        """
        await self.replay()
        journal = self._book.journal
        if journal is not None and journal.unknown:
            raise ConfigurationError(
                f"The journal {journal.folder} holds {len(journal.unknown)} charges that the store "
                "knows nothing of: it was put back to an older state. Restore a newer one; or move "
                "the journal's files away, and these charges are lost."
            )
        ids = await self._store.expire_orphans(
            self._book.owner, self._clock.now_ms(), checkpoint=self._checkpoint
        )
        if ids:
            self._report("holds_expired", count=len(ids), kind="orphan")
        return len(ids)

    async def run(self) -> None:
        """Do each chore in its turn until cancelled."""
        loop = asyncio.get_running_loop()
        turns = self._turns
        chores = (
            (turns.replay_s, self.replay),
            (turns.renew_s, self.renew),
            (turns.expire_s, self.expire),
            (turns.check_s, self.check),
        )
        due_s = [loop.time() + every_s for every_s, _ in chores]
        while True:
            await asyncio.sleep(max(0, min(due_s) - loop.time()))
            try:
                for at, (every_s, chore) in enumerate(chores):
                    if loop.time() >= due_s[at]:
                        due_s[at] = loop.time() + every_s
                        await chore()
            except LedgerUnavailable as error:
                self._report("ledger_unavailable", kind=error.kind)
            except Exception as error:  # noqa: BLE001 - without this task no lease would be renewed
                self._report("fault", error=type(error).__name__)

    async def replay(self) -> int:
        """Book what the journal holds; returns how much. Raises LedgerUnavailable."""
        journal = self._book.journal
        if journal is None or not journal.pending:
            return 0
        taken = await journal.replay(self._store, self._clock.now_ms())
        self._report("journal_replayed", count=taken)
        return taken

    async def renew(self) -> int:
        """Extend the leases of the book's open holds in one write; returns how many.

        Raises LedgerUnavailable.
        """
        self.replicas = await self._store.heartbeat(self._book.owner, self._clock.now_ms())
        running = self._book.running()
        if not running:
            return 0
        return await self._store.renew(running, self._clock.now_ms())

    async def expire(self) -> int:
        """Resolve holds that were not renewed for lease and grace; returns how many.

        Our own are renewed first, at one reading of the clock; and what our journal holds is booked
        first: after a long outage its holds have lapsed too. Raises LedgerUnavailable.
        """
        await self.replay()
        at_ms = self._clock.now_ms()
        if running := self._book.running():
            await self._store.renew(running, at_ms)
        ids = await self._store.expire(at_ms, self._grace_s, checkpoint=self._checkpoint)
        if ids:
            for id in ids:
                self._book.live.pop(id, None)
            self._report("holds_expired", count=len(ids), kind="lapsed")
        return len(ids)

    async def check(self) -> Sequence[Finding]:
        """Check the ledger against itself, and delete what has served its time."""
        found = await self._store.self_check()
        self._checked(found)
        for one in found:
            self._report("ledger_drift", kind=one.invariant, account=one.where)
        while await self._store.forget(self._clock.now_ms()):
            continue  # a page at a time, until nothing is left
        return found
