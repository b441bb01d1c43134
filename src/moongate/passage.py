"""The way from an upstream to the client: who is asked next, what is metered, what may pass.

Another target is asked only before any content, and the same one once more where the answer was not
as promised and the client has seen none of it. What has passed was seen by the meter, and was paid
for: where no more can be set aside, the answer ends with ``length``.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Final, Literal

import msgspec

from moongate.core.errors import (
    NotAsPromised,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamProtocolError,
    UpstreamRefused,
    UpstreamTooLong,
)
from moongate.core.events import (
    Aside,
    Due,
    Event,
    Failed,
    Finished,
    Text,
    Thinking,
    ToolArgs,
    ToolCall,
)
from moongate.core.ports import Clock, Upstream
from moongate.cover import Cover
from moongate.delivery import Pulse, Streamed
from moongate.log import Log
from moongate.metrics import Metrics
from moongate.route import plan
from moongate.route.plan import Step
from moongate.route.router import Router
from moongate.upstream.replay import WANTING, Replay, Watch, tell
from moongate.visit import Job, Visit

_CONTENT: Final = frozenset({Text, Thinking, ToolArgs, ToolCall, Aside})
_NO_ROOM: Final = frozenset({"full", "queue_full", "queue_wait", "rate_limited"})
"""Our own queues to an upstream, or its limits, said no: that tells nothing of its health."""


class Passage:
    """Lets answers through; one for the whole process."""

    def __init__(
        self,
        *,
        upstreams: Mapping[str, Upstream],
        router: Router,
        clock: Clock,
        log: Log,
        metrics: Metrics,
        replay: Replay,
    ) -> None:
        self.upstreams, self.router, self.clock = upstreams, router, clock
        self.health = router.health
        self.log, self.metrics, self.replay = log, metrics, replay
        self.pulse = Pulse()

    async def through(self, visit: Visit, job: Job, cover: Cover) -> Literal["done", "credit_stop"]:
        """Let the upstream's events through to the answer's end, or to the end of what is paid.

        Raises an UpstreamError, ClientLeft, or LedgerUnavailable.
        """
        delivery, tap = job.delivery, job.tap
        if isinstance(delivery, Streamed):
            self.pulse.add(delivery)
        try:
            async with aclosing(self._events(job)) as batches:
                async for events in batches:
                    if not await self._let(job, cover, events):
                        finishes = [Finished("length", at, unpaid=True) for at in tap.unfinished()]
                        await delivery.write(await job.guard.take(finishes))
                        return "credit_stop"
                    if job.first_token_ms is None and tap.pieces:
                        passed_s = self.clock.monotonic_s() - job.started_s
                        job.first_token_ms = int(passed_s * 1000)
                    visit.enter("tail" if tap.finished else "reading")
        finally:
            self.pulse.discard(delivery)
        if not tap.finished:
            raise UpstreamProtocolError("no_finish")
        if job.watch is not None:
            await job.watch.end()
        await cover.catch_up(tap.count)
        return "done"

    async def _let(self, job: Job, cover: Cover, events: list[Event]) -> bool:
        """Pass a batch on, as far as it is paid for; False when the rest never will be.

        Of an answer that broke, nothing passes and nobody pays: it is only counted.
        """
        tap = job.tap
        if type(events[0]) is Due:
            return await job.fund(events[0], cover)
        whole = cover.fits(tap.after(events))
        for piece in (events,) if whole else _pieces(events):
            if not (whole or job.guard.broken) and type(piece[0]) in _CONTENT:
                count = tap.after(piece)
                if not cover.fits(count) and not await cover.reach(count):
                    return False
            tap.see(piece)
            passed = await job.guard.take(piece)
            if job.watch is not None:
                job.watch.see(passed)
            await job.delivery.write(passed)
        if not (tap.finished or job.guard.broken):
            cover.look(tap.count)
        return True

    async def _events(self, job: Job) -> AsyncGenerator[list[Event], None]:
        """The events of the first target that answers, until one is as promised or none will be."""
        step, tried = job.steps[0], 1
        self.router.budget.request()
        while True:
            upstream = self._go(job, step)
            ask = msgspec.structs.replace(job.ask, model=step.target.model)
            asked_s, first_token_s = self.clock.monotonic_s(), None
            try:
                async with aclosing(upstream.stream(ask)) as batches:
                    async for events in batches:
                        if first_token_s is None and any(type(e) in _CONTENT for e in events):
                            first_token_s = self.clock.monotonic_s() - asked_s
                            self.router.affinity.remember(job.prefix, step.target.upstream)
                            ask.ahead.clear()
                        yield events
                        if events and type(events[-1]) is Failed:
                            raise UpstreamProtocolError(events[-1].kind)
                        # Behind its finish stand its counts, which tell what it took.
                        if job.guard.broken and not (job.may_ask_again and job.tap.finished):
                            raise NotAsPromised
                if job.guard.broken:
                    raise NotAsPromised
                self.router.answered(step.target.upstream, first_token_s)
                return
            except UpstreamError as error:
                again = self._failed(job, error, tried)
                if isinstance(error, UpstreamTooLong) and job.lower(error):
                    job.tap.restart()
                    continue
                if isinstance(error, NotAsPromised) and job.may_ask_again:
                    job.ask_again()
                    tried += 1
                    continue
                if again is None:
                    raise
                step, wait_s = again
                tried += 1
                job.tap.restart()
                await asyncio.sleep(wait_s)

    def _go(self, job: Job, step: Step) -> Upstream:
        """Note that ``step`` is asked next, and who it is in the answer's headers."""
        upstream = self.upstreams[step.target.upstream]
        job.step = step
        job.berth.move(step.target.upstream)
        self.health.begin(step.target.upstream)
        self.metrics.routed.labels(job.upstream, step.reason).inc()
        job.headers["x-moongate-upstream"] = job.upstream
        tell(job.headers, job.ask, upstream.kind)
        job.name_dropped(upstream.dropped(job.ask.request))
        job.watch = self._watch(job, upstream)
        facts = upstream.facts()
        job.headers["x-moongate-data-policy"] = facts.data_policy
        job.delivery.served_by(facts.fingerprint)
        return upstream

    def _watch(self, job: Job, upstream: Upstream) -> Watch | None:
        """What remembers the answer's reasoning, where it may be asked back and may be kept."""
        asked_back = upstream.kind in WANTING
        keeps = asked_back and not job.principal.zero_retention
        return self.replay.watch(job.ask) if keeps else None

    def _failed(self, job: Job, error: UpstreamError, tried: int) -> tuple[plan.Step, float] | None:
        """Note an upstream's fault; the step to try next, and after how many seconds."""
        place = job.step.target.upstream
        if isinstance(error, UpstreamRefused):
            self.health.report(place, ok=True)
            return None
        if error.kind not in _NO_ROOM:
            self.health.report(place, ok=not error.unhealthy)
        if isinstance(error, UpstreamOverloaded) and error.retry_after_s:
            self.health.rest(place, error.retry_after_s)
        self.metrics.faults.labels(job.upstream, error.kind).inc()
        word = "operator_alert" if error.kind == "account" else "upstream_fault"
        about = {"request": job.ask.id, "upstream": job.upstream, "kind": error.kind}
        self.log.event(word, **about, attempt=tried)
        again = plan.after(error, job.steps, tried)
        if again is None or job.tap.begun or job.tap.finished:
            return None
        if job.delivery.begun and not self._as_said(job, again[0]):
            return None
        granted = self.router.budget.take()
        self.metrics.retries.labels("sent" if granted else "over_budget").inc()
        return again if granted else None

    def _as_said(self, job: Job, step: Step) -> bool:
        """Whether ``step`` keeps what the head, which is out, says of the data policy."""
        policy = self.upstreams[step.target.upstream].facts().data_policy
        said = self.upstreams[job.step.target.upstream].facts().data_policy
        return plan.meets(policy, said)


def _pieces(events: Sequence[Event]) -> Iterator[list[Event]]:
    """A batch in the pieces that may be passed on one by one: a content event with its counts.

    What follows a finish is none of the content's: final counts are judged when it is booked.
    """
    piece: list[Event] = []
    for event in events:
        if piece and (type(event) in _CONTENT or type(event) is Finished):
            yield piece
            piece = []
        piece.append(event)
    if piece:
        yield piece
