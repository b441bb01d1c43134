"""The life of one request, top to bottom: start reading here.

:meth:`Gateway.handle` owns every branch; what it calls is a leaf that knows nothing of the others.
The order is: who asks, what is asked, which model at which price, which targets, money set aside,
the upstream's events through the meter to the client, and the charge, durable before the client
sees the end.

A visit whose client leaves stops the upstream at once and is charged for what was generated; when
the upstream or we fail, the customer pays nothing. Booking is never interrupted.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Final

import msgspec

from moongate.access.keys import Keys, Principal, tenant_tag
from moongate.access.limits import Limits
from moongate.core.cards import DataPolicy, Facts
from moongate.core.errors import (
    ClientLeft,
    LedgerUnavailable,
    Refused,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamProtocolError,
    UpstreamRefused,
)
from moongate.core.events import Event, Failed
from moongate.core.money import Bill, charge
from moongate.core.ports import Ask, Clock, Codec, Head, Upstream
from moongate.core.request import Request
from moongate.core.rows import HoldRow, Outcome
from moongate.delivery import Pulse, Streamed, Whole, refuse
from moongate.ledger.book import Book, Told
from moongate.log import Log
from moongate.metrics import Metrics
from moongate.route import plan, rules
from moongate.route.catalog import Catalog
from moongate.route.health import Health
from moongate.visit import Job, Visit

_BOOK_TRIES: Final = 3
_BOOK_WAIT_S: Final = 0.1
_OVERLOADED_WAIT_S: Final = 2.0


class Gateway:
    """Everything that a request meets, put together by the application."""

    def __init__(
        self,
        *,
        keys: Keys,
        catalog: Catalog,
        limits: Limits,
        book: Book,
        health: Health,
        upstreams: Mapping[str, Upstream],
        clock: Clock,
        log: Log,
        metrics: Metrics,
        tenant_secret: bytes,
        require: DataPolicy = "none",
        unretained: frozenset[str] = frozenset(),
    ) -> None:
        self.keys, self.catalog, self.limits, self.book = keys, catalog, limits, book
        self.health, self.upstreams, self.clock = health, upstreams, clock
        self.log, self.metrics = log, metrics
        self.pulse = Pulse()
        self._tenant_secret = tenant_secret
        self._require: DataPolicy = require
        self._unretained = unretained
        self._visits: set[Visit] = set()

    async def handle(self, codec: Codec, visit: Visit) -> None:
        """Serve one visit. Raises CancelledError when its client left; nothing else leaves."""
        try:
            principal = await self._identify(visit)
            with self.limits.enter(principal):
                request = codec.read_request(await visit.body())
                job = self._admit(codec, visit, principal, request)
                visit.task = asyncio.create_task(self._serve(visit, job))
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
            await refuse(visit.reply, codec, error, {"x-request-id": visit.id})
        except LedgerUnavailable as error:
            self.log.event("ledger_unavailable", request=visit.id, kind=error.kind)
            gone = Refused("ledger_unavailable", retry_after_s=_OVERLOADED_WAIT_S)
            await refuse(visit.reply, codec, gone, {"x-request-id": visit.id})
        finally:
            self._visits.discard(visit)

    def stop(self) -> int:
        """End every visit at no charge to the customer; returns how many there were."""
        for visit in tuple(self._visits):
            visit.end("gateway_error")
        return len(self._visits)

    def facts(self, upstream: str) -> Facts:
        """What the upstream of that name says of itself."""
        return self.upstreams[upstream].facts()

    async def _identify(self, visit: Visit) -> Principal:
        if isinstance(visit.credential, Principal):
            return visit.credential
        return await self.keys.identify(visit.credential)

    def _admit(self, codec: Codec, visit: Visit, principal: Principal, request: Request) -> Job:
        """Decide everything that can be decided before money moves. Raises Refused."""
        offer = self.catalog.offer(request.model)
        if principal.models and offer.card.id not in principal.models:
            raise Refused("insufficient_permissions", "model", thing="model")
        allowed = self._unretained if principal.zero_retention else self.upstreams.keys()
        targets = [target for target in offer.card.targets if target.upstream in allowed]
        steps = plan.order(targets, self.facts, self.health.alive, self._require)
        first, rest = steps[0].target, steps[1:]
        offers = {s: self.catalog.offer(request.model, s.target.upstream) for s in steps}
        offer = offers[steps[0]]
        fit = tuple(step for step in rest if rules.fits(request, offers[step], principal.policy))
        request, left_out = rules.check(request, offer, principal.policy)
        asked = request.output_tokens_max
        cap = min(asked or offer.output_tokens_default, offer.window)
        tenant = tenant_tag(self._tenant_secret, principal.account)
        ask = Ask(visit.id, request, first.model, cap, tenant)
        dropped = (*left_out, *self.upstreams[first.upstream].dropped(request))
        headers = {"x-request-id": visit.id}
        if dropped:
            headers["x-moongate-dropped"] = ",".join(dropped)
        if asked is not None and asked > cap:
            headers["x-moongate-clamped"] = "max_completion_tokens"
        now = (self.clock.monotonic_s(), self.clock.now_ms())
        head = Head(
            f"chatcmpl-{visit.id[-24:]}", now[1] // 1000, offer.card.id, offer.fingerprint,
            request.include_usage,
        )  # fmt: skip
        form = Streamed if request.stream else Whole
        delivery = form(codec, head, visit.reply, headers, self.clock)
        return Job(principal, offer, (steps[0], *fit), ask, delivery, headers, *now)

    async def _serve(self, visit: Visit, job: Job) -> None:
        """Hold, ask, pass on, book, tell the end. Its task is cancelled by Visit.end alone."""
        hold = await self.book.hold(
            id=visit.id,
            key=job.principal.key,
            account=job.principal.account,
            model=job.offer.card.id,
            amount_nanos=job.worst_nanos(),
            price=job.offer.price,
        )
        outcome: Outcome = "done"
        try:
            visit.enter("reading")
            await self._pass_on(visit, job)
        except asyncio.CancelledError:
            outcome = visit.ended or "gateway_error"
            if outcome == "gateway_error":
                job.refuse(Refused("draining", retry_after_s=1))
        except ClientLeft:
            outcome = "client_left"
        except UpstreamRefused as error:
            outcome = "refused"
            job.refuse(Refused(error.row, **error.facts), within=error.row)
        except UpstreamError as error:
            outcome = "upstream_error"
            job.refuse(_unavailable(error))
        except Exception as error:  # noqa: BLE001 - a fault of ours ends one request, uncharged
            outcome = "gateway_error"
            self.log.event("fault", request=visit.id, error=type(error).__name__)
            job.refuse(Refused("internal_error"))
        visit.enter("closing")
        bill = await self._book(job, hold, outcome)
        await self._tell(job, outcome, bill)

    async def _pass_on(self, visit: Visit, job: Job) -> None:
        """Let the upstream's events through the meter to the client, up to the answer's end."""
        delivery, tap = job.delivery, job.tap
        if isinstance(delivery, Streamed):
            self.pulse.add(delivery)
        try:
            async with aclosing(self._events(job)) as batches:
                async for events in batches:
                    tap.see(events)
                    if job.first_token_ms is None and tap.pieces:
                        passed_s = self.clock.monotonic_s() - job.started_s
                        job.first_token_ms = int(passed_s * 1000)
                    await delivery.write(events)
                    if tap.finished:
                        visit.enter("tail")
        finally:
            self.pulse.discard(delivery)
        if not tap.finished:
            raise UpstreamProtocolError("no_finish")

    async def _events(self, job: Job) -> AsyncGenerator[list[Event], None]:
        """The events of the first target that answers; another is asked only before any content."""
        step, tried = job.steps[0], 1
        while True:
            job.upstream = step.target.upstream
            job.headers["x-moongate-upstream"] = job.upstream
            facts = self.facts(job.upstream)
            job.headers["x-moongate-data-policy"] = facts.data_policy
            job.delivery.served_by(facts.fingerprint)
            ask = msgspec.structs.replace(job.ask, model=step.target.model)
            try:
                async with aclosing(self.upstreams[job.upstream].stream(ask)) as batches:
                    async for events in batches:
                        yield events
                        if events and type(events[-1]) is Failed:
                            raise UpstreamProtocolError(events[-1].kind)
                self.health.report(job.upstream, ok=True)
                return
            except UpstreamError as error:
                if isinstance(error, UpstreamRefused):
                    self.health.report(job.upstream, ok=True)
                    raise
                self.health.report(job.upstream, ok=not error.unhealthy)
                self.metrics.faults.labels(job.upstream, error.kind).inc()
                word = "operator_alert" if error.kind == "account" else "upstream_fault"
                about = {"request": job.ask.id, "upstream": job.upstream, "kind": error.kind}
                self.log.event(word, **about, attempt=tried)
                again = plan.after(error, job.steps, tried)
                if again is None or job.tap.pieces or job.tap.finished:
                    raise
                step, wait_s = again
                tried += 1
                job.tap.restart()
                await asyncio.sleep(wait_s)

    async def _book(self, job: Job, hold: HoldRow, outcome: Outcome) -> Bill | None:
        """Settle or void, durably; ``None`` when there is nothing to bill the client for."""
        usage, price = job.outcome_used(outcome), job.offer.price
        told = job.told(outcome, self.clock.monotonic_s())
        for attempt in range(_BOOK_TRIES):
            try:
                if outcome in {"done", "client_left"} and (job.tap.accepted or outcome == "done"):
                    bill = await self.book.settle(hold, price, outcome, usage, told)
                    self._report(job, outcome, bill, told)
                    return bill
                await self.book.void(hold, price, outcome, usage, told)
                self._report(job, outcome, Bill(usage, 0), told)
                return None
            except LedgerUnavailable as error:
                self.log.event("ledger_unavailable", request=job.ask.id, kind=error.kind)
                if error.kind == "resolved":
                    break
                await asyncio.sleep(_BOOK_WAIT_S * (attempt + 1))
        gone = Refused("ledger_unavailable", retry_after_s=_OVERLOADED_WAIT_S)
        job.refuse(gone, within="ledger_unavailable")
        return None

    async def _tell(self, job: Job, outcome: Outcome, bill: Bill | None) -> None:
        """Write the answer's end, or what went wrong; a client that has left is no matter."""
        try:
            if outcome == "client_left":
                return
            if bill is not None:
                await job.delivery.end(bill)
            elif job.refusal is not None:
                await job.delivery.fail(*job.refusal)
        except ClientLeft:
            return

    def _report(self, job: Job, outcome: Outcome, bill: Bill, told: Told) -> None:
        """One event of scalars, and the metrics."""
        usage, model = bill.usage, job.offer.card.id
        forgiven = charge(usage, job.offer.price.price) - bill.cost_nanos
        self.metrics.resolved(model, job.upstream, outcome, bill, forgiven)
        self.metrics.timed(model, told.first_token_ms, told.duration_ms)
        for word in job.tap.odd:
            self.log.event("odd_usage", request=job.ask.id, upstream=job.upstream, kind=word)
        self.log.event(
            "request", request=job.ask.id, key=job.principal.key, account=job.principal.account,
            model=model, upstream=job.upstream, outcome=outcome, status=told.status,
            streamed=told.streamed, input=usage.input, cached=usage.cache_read,
            output=usage.output, estimated=usage.estimated or None,
            amount_nanos=bill.cost_nanos, first_token_ms=told.first_token_ms,
            duration_ms=told.duration_ms,
        )  # fmt: skip


def _unavailable(error: UpstreamError) -> Refused:
    """What the client is told of an upstream's fault before anything was sent."""
    if error.kind == "account":  # our wallet or key there: never the customer's 402
        return Refused("overloaded", retry_after_s=_OVERLOADED_WAIT_S)
    if isinstance(error, UpstreamOverloaded):
        return Refused(error.code, retry_after_s=error.retry_after_s or _OVERLOADED_WAIT_S)
    return Refused(error.code)
