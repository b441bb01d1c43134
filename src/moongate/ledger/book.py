"""The book: money set aside for a request, then settled or given back, exactly once.

A charge is never above its hold; what was done beyond is forgiven, at the pinned price, and stands
in the usage row. Booking runs in tasks of its own: a caller who is cancelled does not stop it.
The book knows rows and integers; it refuses to know clients, upstreams and what was said.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

import msgspec

from moongate.core.errors import LedgerUnavailable, Refused
from moongate.core.money import Bill, Counts, Price, Usage, charge
from moongate.core.ports import NO_COUNTS, Clock, Settlement, Store
from moongate.core.rows import HoldRow, Outcome, PriceRow, UsageRow

LEASE_S: Final = 60

_Result = TypeVar("_Result")


class Told(msgspec.Struct, frozen=True):
    """What a usage row says of its request beside money; no content.

    ``created_ms`` is the time of acceptance (epoch), ``first_token_ms`` and ``duration_ms`` are
    durations. ``counts`` are the upstream's own words.
    """

    upstream: str
    created_ms: int
    streamed: bool = False
    status: int = 200
    counts: Counts = NO_COUNTS
    first_token_ms: int | None = None
    duration_ms: int = 0


def weigh(usage: Usage, price: Price, held_nanos: int) -> tuple[int, int]:
    """(charge, forgiven) in nano-dollars: the price of ``usage``, cut at what is held."""
    due = charge(usage, price)
    charged = min(due, held_nanos)
    return charged, due - charged


def usage_row(
    hold: HoldRow,
    outcome: Outcome,
    usage: Usage,
    told: Told,
    money: tuple[int, int],
    ended_ms: int,
) -> UsageRow:
    """The one usage row of ``hold``; ``money`` is (charge, forgiven)."""
    return UsageRow(
        hold=hold.id,
        key=hold.key,
        account=hold.account,
        model=hold.model,
        upstream=told.upstream,
        outcome=outcome,
        usage=usage,
        price_version=hold.price_version,
        charge_nanos=money[0],
        forgiven_nanos=money[1],
        created_ms=told.created_ms,
        ended_ms=ended_ms,
        streamed=told.streamed,
        status=told.status,
        first_token_ms=told.first_token_ms,
        duration_ms=told.duration_ms,
        upstream_prompt=told.counts.prompt,
        upstream_completion=told.counts.completion,
        upstream_cached=told.counts.cached,
    )


class Book:
    """The holds of one process, called ``owner``. ``live`` are the ids that it must renew."""

    def __init__(self, store: Store, clock: Clock, owner: str) -> None:
        self._store = store
        self._clock = clock
        self.owner = owner
        self.live: set[str] = set()
        self._tasks: set[asyncio.Task[Any]] = set()

    def __repr__(self) -> str:
        return f"Book({len(self.live)} open)"

    async def hold(
        self, *, id: str, key: str, account: str, model: str, amount_nanos: int, price: PriceRow
    ) -> HoldRow:
        """Set ``amount_nanos`` aside under the request's own ``id``.

        Raises Refused (``insufficient_quota``) when the account is missing or cannot pay, and
        LedgerUnavailable. A caller who is cancelled meanwhile leaves nothing held.
        """
        row = HoldRow(
            id=id,
            key=key,
            account=account,
            model=model,
            amount_nanos=amount_nanos,
            price_version=price.version,
            owner=self.owner,
            lease_s=LEASE_S,
            created_ms=self._clock.now_ms(),
            legs=(account,),
        )
        task = self._track(self._reserve(row))
        try:
            won = await asyncio.shield(task)
        except asyncio.CancelledError:
            self._track(self._give_back(task, row, price))
            raise
        if not won:
            raise Refused("insufficient_quota")
        return row

    async def settle(
        self, hold: HoldRow, price: PriceRow, outcome: Outcome, usage: Usage, told: Told
    ) -> Bill:
        """Charge ``usage`` at the pinned price, at most what is held; returns what was booked.

        Settling again books nothing and returns the first bill. Raises LedgerUnavailable when
        the store cannot commit (try again), or with kind ``resolved`` when the hold was given
        back or expired before: then nothing was charged and nothing ever will be.
        """
        _check(hold, price)
        money = weigh(usage, price.price, hold.amount_nanos)
        row = usage_row(hold, outcome, usage, told, money, self._clock.now_ms())
        booked = await asyncio.shield(self._track(self._settle(row)))
        return Bill(booked.usage, booked.charge_nanos)

    async def void(
        self, hold: HoldRow, price: PriceRow, outcome: Outcome, usage: Usage, told: Told
    ) -> None:
        """Give everything back; ``usage``, work that was done all the same, is forgiven.

        Changes nothing when the hold was resolved before. Raises LedgerUnavailable.
        """
        _check(hold, price)
        row = usage_row(
            hold, outcome, usage, told, weigh(usage, price.price, 0), self._clock.now_ms()
        )
        await asyncio.shield(self._track(self._resolve(Settlement(row, void=True))))

    async def drain(self) -> None:
        """Wait until every booking under way has ended, however it ends."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _track(self, work: Coroutine[Any, Any, _Result]) -> asyncio.Task[_Result]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # its caller may be gone; the row's lease is what remains

    async def _reserve(self, row: HoldRow) -> bool:
        # Ours before it is there: a sweep that comes between must not take it for a dead one's.
        self.live.add(row.id)
        won = False
        try:
            won = await self._store.hold(row)
        finally:
            if not won:
                self.live.discard(row.id)
        return won

    async def _give_back(self, task: asyncio.Task[bool], row: HoldRow, price: PriceRow) -> None:
        if await task:
            told = Told(upstream="", created_ms=row.created_ms)
            await self.void(row, price, "client_left", Usage(), told)

    async def _resolve(self, settlement: Settlement) -> bool:
        # From here on the lease is not renewed: a hold that cannot be resolved expires.
        self.live.discard(settlement.row.hold)
        return await self._store.settle(settlement)

    async def _settle(self, row: UsageRow) -> UsageRow:
        if await self._resolve(Settlement(row)):
            return row
        found = await self._store.usage_row(row.hold)
        if found is None or found.outcome != row.outcome:
            raise LedgerUnavailable("resolved")
        return found


def _check(hold: HoldRow, price: PriceRow) -> None:
    if hold.price_version != price.version:
        raise ValueError("a hold is settled at the price that it pinned")
