"""The life of one request, top to bottom: start reading here.

:meth:`Gateway.handle` owns every branch; what it calls is a leaf that knows nothing of the others.
The order is: who asks, what is asked, which model at which price, which targets, money set aside,
the upstream's events through the meter to the client, and the charge, durable before the client
sees the end.

A visit whose client leaves stops the upstream at once and is charged for what was generated; when
the upstream or we fail, the customer pays nothing. Booking is never interrupted.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final

from moongate.access.idempotency import Idempotency
from moongate.access.keys import Keys, Principal
from moongate.access.limits import Lease, Limits
from moongate.admission import Admission
from moongate.core.cards import DataPolicy
from moongate.core.errors import (
    ClientLeft,
    LedgerUnavailable,
    Refused,
    UpstreamError,
    UpstreamRefused,
)
from moongate.core.money import Bill, charge
from moongate.core.ports import NO_FILES, Clock, Codec, Upstream
from moongate.core.request import Request
from moongate.core.rows import Outcome, PriceRow
from moongate.core.spelling import Spelling, long_texts
from moongate.core.store import Idem
from moongate.counting import Counting
from moongate.cover import Cover
from moongate.delivery import OVERLOADED_WAIT_S, refuse, unavailable
from moongate.ledger.book import Book, Held, Payer, Told
from moongate.log import Log
from moongate.media.eyes import Eyes
from moongate.meter.tokenizer import Tokenizer
from moongate.meter.tokens import Count
from moongate.metrics import Metrics
from moongate.passage import Passage
from moongate.route.catalog import Catalog
from moongate.route.router import Router
from moongate.search.desk import Desk
from moongate.upstream.replay import Replay
from moongate.visit import Admit, Job, Visit

_READ_AT_ONCE: Final = 2 << 20
"""Bytes of a body that take a few milliseconds to read."""


class Gateway:
    """Everything that a request meets, put together by the application."""

    def __init__(
        self,
        *,
        keys: Keys,
        catalog: Catalog,
        idempotency: Idempotency,
        limits: Limits,
        book: Book,
        router: Router,
        upstreams: Mapping[str, Upstream],
        clock: Clock,
        log: Log,
        metrics: Metrics,
        tenant_secret: bytes,
        desk: Desk,
        require: DataPolicy = "none",
        unretained: frozenset[str] = frozenset(),
        wishing: frozenset[str] = frozenset(),
        tokenizers: Mapping[str, Tokenizer] | None = None,
        eyes: Eyes | None = None,
    ) -> None:
        self.keys, self.catalog, self.limits, self.book = keys, catalog, limits, book
        self.router, self.upstreams, self.clock = router, upstreams, clock
        self.log, self.metrics, self.idempotency = log, metrics, idempotency
        self.replay = Replay(clock)
        self.eyes = eyes or Eyes(None, NO_FILES)
        self.passage = Passage(
            upstreams=upstreams, router=router, clock=clock, log=log, metrics=metrics,
            replay=self.replay,
        )  # fmt: skip
        self.admission = Admission(
            catalog=catalog, upstreams=upstreams, router=router, clock=clock,
            counting=Counting(upstreams, tokenizers or {}),
            tenant_secret=tenant_secret, require=require, unretained=unretained,
            replay=self.replay, eyes=self.eyes, desk=desk, wishing=wishing,
        )  # fmt: skip
        self._visits: set[Visit] = set()

    async def handle(self, codec: Codec, visit: Visit) -> None:
        """Serve one visit. Raises CancelledError when its client left; nothing else leaves."""
        headers = {"x-request-id": visit.id}
        try:
            principal = await self._identify(visit)
            with self.limits.enter(principal) as lease:
                body = await visit.body(lease.bytes)
                request = await self._read(codec, body)
                job = await self.admission.admit(
                    codec, visit, principal, request, headers, lease.bytes,
                    partial(self._look, visit, lease),
                )  # fmt: skip
                idem = await self.idempotency.mark(
                    principal.account, visit.idempotency, codec.name, body
                )
                del body  # an answer may take minutes; what it needs of the bytes is in the request
                await lease.admit(visit.id, job.tokens_first(self.book.slices))
                headers |= lease.headers()
                visit.task = asyncio.create_task(self._serve(visit, job, idem, lease))
                self._visits.add(visit)
                try:
                    await asyncio.shield(visit.task)
                except asyncio.CancelledError:
                    visit.end("client_left")
                    await asyncio.gather(visit.task, return_exceptions=True)
                    raise
        except Refused as error:
            self.metrics.refusals.labels(str(error.status)).inc()
            self.log.event("refused", request=visit.id, status=error.status, code=error.code)
            await refuse(visit.reply, codec, error, headers)
        except LedgerUnavailable as error:
            self.log.event("ledger_unavailable", request=visit.id, kind=error.kind)
            gone = Refused("ledger_unavailable", retry_after_s=OVERLOADED_WAIT_S)
            await refuse(visit.reply, codec, gone, headers)
        finally:
            self._visits.discard(visit)
            if visit.berth is not None:
                visit.berth.leave()

    async def estimate(
        self, codec: Codec, id: str, principal: Principal, body: Callable[[Admit], Awaitable[bytes]]
    ) -> Count:
        """The prompt tokens of the request that ``body`` reads, as answering it would count them.

        It takes a request of the rates, and no tokens. Raises Refused.
        """
        with self.limits.enter(principal) as lease:
            request = await self._read(codec, await body(lease.bytes))
            await lease.admit(id, 0)
            prompt = await self.admission.count(principal, request, lease.bytes)
            await lease.close(0)
            return prompt

    def stop(self) -> int:
        """End every visit at no charge to the customer; returns how many there were."""
        for visit in tuple(self._visits):
            visit.end("gateway_error")
        return len(self._visits)

    async def _read(self, codec: Codec, body: bytes) -> Request:
        """Decode ``body``; beside the event loop, when it is large. Raises Refused."""
        if len(body) <= _READ_AT_ONCE:
            return codec.read_request(body)
        return await asyncio.to_thread(codec.read_request, body)

    async def _identify(self, visit: Visit) -> Principal:
        if isinstance(visit.credential, Principal):
            return visit.credential
        return await self.keys.identify(visit.credential)

    async def _look(self, visit: Visit, lease: Lease, price: PriceRow) -> None:
        """Take one request of the rates, and see that there is money. Raises Refused."""
        await lease.admit(visit.id, 0)
        await self.book.look(_payer(lease.principal), price)

    async def _hold(self, job: Job, idem: Idem | None, lease: Lease) -> Held:
        """Set money aside. Raises Refused, which costs no tokens of a rate, LedgerUnavailable."""
        texts = long_texts(job.ask.request)
        ahead = asyncio.create_task(_spell(job.ask.ahead, texts)) if texts else None
        try:
            held = await self.book.hold(
                id=job.ask.id,
                payer=_payer(job.principal),
                model=job.offer.card.id,
                price=job.offer.price,
                terms=job.terms(),
                idem=idem,
            )
        except (Refused, LedgerUnavailable):
            await lease.close(0)
            raise
        finally:
            if ahead is not None:
                ahead.cancel()  # what is spelt by now is used
        held.used = job.used
        return held

    async def _serve(self, visit: Visit, job: Job, idem: Idem | None, lease: Lease) -> None:
        """Hold, ask, pass on, book, tell the end. Its task is cancelled by Visit.end alone."""
        held = await self._hold(job, idem, lease)
        outcome: Outcome = "done"
        try:
            visit.enter("reading")
            debit = self.book.track
            cover = Cover(self.book, held, self.clock, lambda more: debit(lease.debit(more)))
            outcome = await self.passage.through(visit, job, cover)
            job.delivery.draft(job.shown(self.book.bill(held, job.used(), job.attempts)))
        except asyncio.CancelledError:
            outcome = visit.ended or "gateway_error"
            if outcome == "gateway_error":
                job.refuse(Refused("draining", retry_after_s=1))
        except ClientLeft:
            outcome = "client_left"
        except LedgerUnavailable as error:
            outcome = "gateway_error"
            self._no_ledger(job, error)
        except UpstreamRefused as error:
            outcome = "refused"
            job.refuse(Refused(error.row, **error.facts), within=error.row)
        except UpstreamError as error:
            outcome = "upstream_error"
            job.refuse(unavailable(error))
        except Exception as error:  # noqa: BLE001 - a fault of ours ends one request, uncharged
            outcome = "gateway_error"
            self.log.event("fault", request=visit.id, error=type(error).__name__)
            job.refuse(Refused("internal_error"))
        visit.enter("closing")
        bill = await self._book(job, held, outcome)
        early = outcome == "client_left" and bill is None  # what it took of the rates stays taken
        await lease.close(None if early else bill.usage.total if bill else 0)
        await self._tell(job, outcome, bill)

    async def _book(self, job: Job, held: Held, outcome: Outcome) -> Bill | None:
        """Settle or void, durably; ``None`` when there is nothing to bill the client for."""
        if outcome in {"client_left", "credit_stop"}:
            job.tap.infer(job.step.matched, job.prefix.size)
        usage = job.used(final=True)
        told = job.told(outcome, self.clock.monotonic_s())
        charged = outcome in {"done", "credit_stop"} or (outcome == "client_left" and job.owed)
        try:
            if charged:
                bill = await self.book.settle(held, outcome, usage, told)
                self._report(job, outcome, bill, told)
                return bill
            await self.book.void(held, outcome, usage, told)
            self._report(job, outcome, Bill(usage, 0, told.attempts), told)
        except LedgerUnavailable as error:
            self._no_ledger(job, error)
        return None

    def _no_ledger(self, job: Job, error: LedgerUnavailable) -> None:
        """Note that the ledger cannot serve a request that runs: it costs nothing."""
        self.log.event("ledger_unavailable", request=job.ask.id, kind=error.kind)
        gone = Refused("ledger_unavailable", retry_after_s=OVERLOADED_WAIT_S)
        job.refuse(gone, within="ledger_unavailable")

    async def _tell(self, job: Job, outcome: Outcome, bill: Bill | None) -> None:
        """Write the answer's end, or what went wrong; a client that has left is no matter."""
        try:
            if outcome == "client_left":
                return
            if bill is not None:
                await job.delivery.end(job.shown(bill))
            elif job.refusal is not None:
                await job.delivery.fail(*job.refusal)
        except ClientLeft:
            return

    def _report(self, job: Job, outcome: Outcome, bill: Bill, told: Told) -> None:
        """One event of scalars, and the metrics."""
        usage, model = bill.usage, job.offer.card.id
        price = job.offer.price.price
        forgiven = charge(usage, price) - bill.cost_nanos
        spoiled = charge(told.spoiled, price)
        self.metrics.resolved(model, job.upstream, outcome, bill, forgiven + spoiled)
        self.metrics.timed(model, told.first_token_ms, told.duration_ms)
        over = ["over_hold"] if outcome == "done" and forgiven else []
        for word in [*job.tap.odd, *over]:
            self.log.event("odd_usage", request=job.ask.id, upstream=job.upstream, kind=word)
        self.log.event(
            "request", request=job.ask.id, key=job.principal.key, account=job.principal.account,
            model=model, upstream=job.upstream, outcome=outcome, status=told.status,
            streamed=told.streamed, input=usage.input, cached=usage.cache_read,
            output=usage.output, estimated=usage.estimated or None,
            amount_nanos=bill.cost_nanos, first_token_ms=told.first_token_ms,
            duration_ms=told.duration_ms, attempt=told.attempts if told.attempts > 1 else None,
        )  # fmt: skip


def _payer(who: Principal) -> Payer:
    return Payer(who.key, who.account, who.project)


async def _spell(ahead: Spelling, texts: Sequence[str]) -> None:
    """Spell ``texts`` for the upstream; others have their turn between any two pieces."""
    for _ in ahead.write(texts):
        await asyncio.sleep(0)
