"""The book: money set aside for a request, extended while it runs, then settled or given back.

A charge is never above its hold; what was done beyond is forgiven, at the pinned price, and stands
in the usage row. Booking runs in tasks of its own: a caller who is cancelled does not stop it. What
the store cannot take goes to the journal, so an answer that was delivered is charged once, later.
The book knows rows and integers; it refuses to know clients, upstreams and what was said.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

import msgspec

from moongate.core.errors import LedgerUnavailable, Refused
from moongate.core.money import Bill, Usage, saved
from moongate.core.ports import Clock, Settlement, Store
from moongate.core.rows import HoldRow, Outcome, PriceRow, UsageRow
from moongate.core.store import Extension, Idem, NotHeld, Running
from moongate.ledger.journal import Journal
from moongate.ledger.slices import Slices, Terms
from moongate.ledger.told import Told, usage_row, weigh

__all__ = ["LEASE_S", "Book", "Held", "Payer", "Told", "weigh"]

LEASE_S: Final = 60
_BUSY_S: Final = 1.0
"""What a client is told to wait whose Idempotency-Key is in use by a request that runs."""

_Result = TypeVar("_Result")


class Payer(msgspec.Struct, frozen=True):
    """Who pays: the key's and account's ids, and the project that the key belongs to."""

    key: str
    account: str
    project: str = ""


class Held:
    """One open hold. ``row`` is how it stands; ``used`` tells what its request used so far."""

    def __init__(self, row: HoldRow, price: PriceRow, terms: Terms) -> None:
        self.row, self.price, self.terms = row, price, terms
        self.used: Callable[[], Usage] = Usage

    def __repr__(self) -> str:
        return f"Held({self.row.id}, slice {self.row.slice_no})"

    @property
    def cover(self) -> int:
        """Output tokens that are paid for."""
        return self.terms.cover(self.row.amount_nanos)


class Book:
    """The holds of one process, called ``owner``. ``live`` are those whose leases it renews."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        owner: str,
        slices: Slices = Slices(),  # noqa: B008 - a frozen struct
        journal: Journal | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self.owner = owner
        self.slices = slices
        self.journal = journal
        self.live: dict[str, Held] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    def __repr__(self) -> str:
        return f"Book({len(self.live)} open)"

    async def hold(
        self,
        *,
        id: str,
        payer: Payer,
        model: str,
        price: PriceRow,
        terms: Terms,
        idem: Idem | None = None,
    ) -> Held:
        """Set the prompt's bound and a first slice aside under the request's own ``id``.

        Raises Refused (``insufficient_quota`` when wallet or a budget cannot pay the least of it;
        ``idempotency_…`` for a key that was used before), and LedgerUnavailable. A caller who is
        cancelled meanwhile leaves nothing held.
        """
        wanted, least = terms.first(self.slices)
        row = HoldRow(
            id=id,
            key=payer.key,
            account=payer.account,
            model=model,
            amount_nanos=wanted,
            price_version=price.version,
            owner=self.owner,
            lease_s=LEASE_S,
            created_ms=self._clock.now_ms(),
            project=payer.project,
        )
        held = Held(row, price, terms)
        task = self.track(self._reserve(held, least, idem))
        try:
            answer = await asyncio.shield(task)
        except (asyncio.CancelledError, LedgerUnavailable):
            # Cancelled, or nobody knows whether it was committed: in both cases give it back.
            self.track(self._give_back(task, held))
            raise
        if isinstance(answer, NotHeld):
            raise _refused(answer)
        return held

    async def look(self, payer: Payer, price: PriceRow) -> None:
        """Raise Refused where :meth:`hold` would, because not one token of a prompt can be paid.

        It sets nothing aside, so it promises nothing.
        """
        least = price.price.input
        if not least:
            return
        wallet = await self._store.account(payer.account)
        left = [wallet.available_nanos if wallet is not None else 0]
        pays = {("key", payer.key), ("account", payer.account)}
        pays.add(("project", f"{payer.account}/{payer.project}"))
        left += [
            budget.cap_nanos - budget.spent_nanos - budget.held_nanos
            for budget in await self._store.budgets(payer.account, self._clock.now_ms())
            if (budget.scope, budget.subject) in pays
        ]
        if min(left) < least:
            raise Refused("insufficient_quota")

    async def extend(self, held: Held) -> int:
        """Ask for the next slice; returns how many more tokens are covered now (0: refused).

        Raises LedgerUnavailable, with kind ``resolved`` when the hold is no longer open.
        """
        tokens = held.terms.next(held.row.amount_nanos, self.slices)
        before = held.cover
        unit = held.terms.unit_nanos
        await self._grow(held, tokens * unit, unit)
        return held.cover - before

    async def afford(self, held: Held, nanos: int) -> bool:
        """Hold ``nanos`` more beside the output, or nothing; for what an answer does meanwhile.

        Raises LedgerUnavailable, as :meth:`extend`.
        """
        before = held.row.amount_nanos
        if nanos:
            await self._grow(held, nanos, nanos)
        if held.row.amount_nanos - before < nanos:
            return False
        held.terms = held.terms.and_also(nanos)
        return True

    async def _grow(self, held: Held, nanos: int, unit: int) -> None:
        """Set up to ``nanos`` more aside, in whole units."""
        row = await self._store.extend(
            Extension(held.row.id, held.row.slice_no + 1, nanos, unit, self._clock.now_ms())
        )
        if row is None:
            raise LedgerUnavailable("resolved")
        held.row = row

    def bill(self, held: Held, usage: Usage, attempts: int = 1) -> Bill:
        """What settling ``usage`` would charge now."""
        price = held.price.price
        charged, _ = weigh(usage, price, held.row.amount_nanos)
        return Bill(usage, charged, attempts, saved(usage.cache_read, price))

    async def settle(self, held: Held, outcome: Outcome, usage: Usage, told: Told) -> Bill:
        """Charge ``usage`` at the pinned price, at most what is held; returns what was booked.

        Settling again books nothing and returns the first bill. Raises LedgerUnavailable when
        neither store nor journal can take it, or with kind ``resolved`` when the hold was given
        back or expired before: then nothing was charged and nothing ever will be.
        """
        row = usage_row(
            held.row, held.price.price, outcome, usage, told, held.row.amount_nanos,
            self._clock.now_ms(),
        )  # fmt: skip
        booked = await asyncio.shield(self.track(self._settle(row)))
        less = saved(booked.usage.cache_read, held.price.price)
        return Bill(booked.usage, booked.charge_nanos, booked.attempts, less)

    async def void(self, held: Held, outcome: Outcome, usage: Usage, told: Told) -> None:
        """Give everything back; ``usage``, work that was done all the same, is forgiven.

        Changes nothing when the hold was resolved before. Raises LedgerUnavailable.
        """
        row = usage_row(held.row, held.price.price, outcome, usage, told, 0, self._clock.now_ms())
        await asyncio.shield(self.track(self._resolve(Settlement(row, void=True))))

    def running(self) -> list[Running]:
        """What each live hold's request has used so far."""
        return [Running(id, held.used()) for id, held in self.live.items()]

    async def drain(self) -> None:
        """Wait until every booking under way has ended, however it ends."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def track(self, work: Coroutine[Any, Any, _Result]) -> asyncio.Task[_Result]:
        """Run ``work`` in a task that outlives its caller; :meth:`drain` waits for it."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # its caller may be gone; the row's lease is what remains

    async def _reserve(self, held: Held, least: int, idem: Idem | None) -> HoldRow | NotHeld:
        # Ours before it is there: a sweep that comes between must not take it for a dead one's.
        id = held.row.id
        self.live[id] = held
        won = False
        try:
            answer = await self._store.hold(
                held.row, floor_nanos=least, unit_nanos=max(1, held.terms.unit_nanos), idem=idem
            )
            won = isinstance(answer, HoldRow)
            if isinstance(answer, HoldRow):
                held.row = answer
        finally:
            if not won:
                self.live.pop(id, None)
        return answer

    async def _give_back(self, task: asyncio.Task[HoldRow | NotHeld], held: Held) -> None:
        """Void what a hold that nobody waits for may have set aside."""
        try:
            if isinstance(await task, NotHeld):
                return
            outcome: Outcome = "client_left"
        except LedgerUnavailable:
            outcome = "gateway_error"
        told = Told(upstream="", created_ms=held.row.created_ms)
        await self.void(held, outcome, Usage(), told)

    async def _resolve(self, settlement: Settlement) -> bool:
        # From here on the lease is not renewed: a hold that cannot be resolved expires.
        self.live.pop(settlement.row.hold, None)
        try:
            return await self._store.settle(settlement)
        except LedgerUnavailable:
            if self.journal is None:
                raise
            await self.journal.write(settlement)
            return True

    async def _settle(self, row: UsageRow) -> UsageRow:
        if await self._resolve(Settlement(row)):
            return row
        found = await self._store.usage_row(row.hold)
        if found is None or found.outcome != row.outcome:
            raise LedgerUnavailable("resolved")
        return found


def _refused(answer: NotHeld) -> Refused:
    """What the client is told when nothing was set aside."""
    if answer.why == "short":
        return Refused("insufficient_quota")
    if answer.why == "other":
        return Refused("idempotency_mismatch")
    used = {"x-moongate-usage": answer.hold}
    if answer.why == "running":
        return Refused("idempotency_in_progress", retry_after_s=_BUSY_S, headers=used)
    return Refused("idempotency_completed", headers=used)
