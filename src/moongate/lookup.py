"""A search of the web outside a chat: one fee, held before the engine is asked.

The same key, limits, price and data policy as in a chat. The fee is settled when there are results;
an engine that fails and a client that leaves before them cost nothing. Only rows of counts remain,
and of what is refused before there is a hold: a line of the log and a count.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from moongate.access.idempotency import Idempotency
from moongate.access.keys import Keys, Principal
from moongate.access.limits import Lease, Limits
from moongate.core.cards import Offer
from moongate.core.errors import Refused
from moongate.core.money import Bill, Usage
from moongate.core.ports import Clock
from moongate.core.rows import Outcome
from moongate.core.sealed import Sealed
from moongate.ledger.book import Book, Held, Payer, Told
from moongate.ledger.slices import Terms
from moongate.log import Log
from moongate.metrics import Metrics
from moongate.route.catalog import Catalog
from moongate.search.desk import Desk
from moongate.search.finding import Finding
from moongate.search.results import ERRORS, Result, SearchFailed
from moongate.visit import Admit

_LEFT: int = 499
_BOOKED = "search_failed"
"""The one refusal that comes after a hold, and has a row and a line of its own."""


class Lookup(Sealed, frozen=True):
    """What is asked: ``model`` names whose price holds; empty: the first that can search."""

    query: str
    results_max: int
    model: str = ""
    pages: bool = False


class Found(Sealed, frozen=True):
    """What came of it. ``duration_s`` is how long it took; ``headers`` tell of the rates."""

    results: tuple[Result, ...]
    bill: Bill
    duration_s: float
    headers: dict[str, str] = {}


class Lookups:
    """Serves lookups; one for the whole process."""

    def __init__(
        self,
        *,
        keys: Keys,
        finding: Finding,
        desk: Desk,
        catalog: Catalog,
        limits: Limits,
        book: Book,
        idempotency: Idempotency,
        metrics: Metrics,
        clock: Clock,
        log: Log,
    ) -> None:
        self._keys, self._finding, self._desk, self._catalog = keys, finding, desk, catalog
        self._limits, self._book, self._idempotency = limits, book, idempotency
        self._metrics, self._clock, self._log = metrics, clock, log

    async def serve(
        self,
        id: str,
        credential: str | Principal | None,
        body: Callable[[Admit], Awaitable[bytes]],
        read: Callable[[bytes], Lookup],
        idempotency: str | None,
    ) -> Found:
        """Search as ``read`` understands ``body``. Raises Refused, LedgerUnavailable."""
        try:
            return await self._serve(id, credential, body, read, idempotency)
        except Refused as error:
            if error.key != _BOOKED:
                self._metrics.refusals.labels(str(error.status)).inc()
                self._log.event("refused", request=id, status=error.status, code=error.code)
            raise

    async def _serve(
        self,
        id: str,
        credential: str | Principal | None,
        body: Callable[[Admit], Awaitable[bytes]],
        read: Callable[[bytes], Lookup],
        idempotency: str | None,
    ) -> Found:
        principal = (
            credential
            if isinstance(credential, Principal)
            else await self._keys.identify(credential)
        )
        with self._limits.enter(principal) as lease:
            data = await body(lease.bytes)
            lookup = read(data)
            offer = self._offer(principal, lookup.model)
            self._desk.check(zero_retention=principal.zero_retention)
            idem = await self._idempotency.mark(principal.account, idempotency, "search", data)
            await lease.admit(id, 0)
            try:
                held = await self._book.hold(
                    id=id,
                    payer=Payer(principal.key, principal.account, principal.project),
                    model=offer.card.id,
                    price=offer.price,
                    terms=Terms(offer.price.price.search, 0, 0),
                    idem=idem,
                )
                return await self._search(held, lookup, principal, lease.headers())
            finally:
                await self._close(lease)

    async def _close(self, lease: Lease) -> None:
        await asyncio.shield(self._book.track(lease.close(0)))

    def _offer(self, principal: Principal, model: str) -> Offer:
        """The card whose price holds."""
        allowed = principal.models
        if model:
            offer = self._catalog.offer(model)
            if allowed and offer.card.id not in allowed:
                raise Refused("insufficient_permissions", "model", thing="model")
            if "search" not in offer.abilities:
                raise Refused("unsupported_ability", "model", ability="search")
            return offer
        for offer in self._catalog.offers():
            if "search" in offer.abilities and (not allowed or offer.card.id in allowed):
                return offer
        raise Refused("insufficient_permissions", thing="endpoint")

    async def _search(
        self, held: Held, lookup: Lookup, principal: Principal, headers: dict[str, str]
    ) -> Found:
        began_s, created_ms = self._clock.monotonic_s(), held.row.created_ms

        def told(status: int) -> Told:
            passed_s = self._clock.monotonic_s() - began_s
            return Told(
                self._finding.engine.name, created_ms, status=status,
                duration_ms=int(passed_s * 1000),
            )  # fmt: skip

        async def give_back(outcome: Outcome, status: int, kind: str | None = None) -> None:
            tale = told(status)
            await self._book.void(held, outcome, Usage(), tale)
            self._report(held, outcome, Bill(Usage(), 0), tale, kind)

        async def settle(results: Sequence[Result], searches: int) -> Found:
            passed_s, tale = self._clock.monotonic_s() - began_s, told(200)
            bill = await self._book.settle(held, "done", Usage(searches=searches), tale)
            self._report(held, "done", bill, tale)
            return Found(tuple(results), bill, passed_s, headers)

        pages = lookup.pages and not principal.zero_retention
        try:
            results = await self._finding.find(lookup.query, lookup.results_max, pages=pages)
        except SearchFailed as error:
            if error.kind == "empty":  # it was asked and knows of nothing: no fault, and no fee
                return await settle((), 0)
            gone = Refused(_BOOKED, why=ERRORS.get(error.kind, error.kind))
            await give_back("upstream_error", gone.status, error.kind)
            raise gone from None
        except asyncio.CancelledError:
            await give_back("client_left", _LEFT)
            raise
        except Exception:
            await give_back("gateway_error", Refused("internal_error").status)
            raise
        return await settle(results, 1)

    def _report(
        self, held: Held, outcome: Outcome, bill: Bill, told: Told, kind: str | None = None
    ) -> None:
        row, engine = held.row, self._finding.engine.name
        self._metrics.resolved(row.model, engine, outcome, bill, 0)
        self._log.event(
            "request", request=row.id, key=row.key, account=row.account, model=row.model,
            upstream=engine, outcome=outcome, status=told.status, streamed=False,
            amount_nanos=bill.cost_nanos, duration_ms=told.duration_ms, kind=kind,
        )  # fmt: skip
