"""One visit: a request being served, where it stands, and what admission decided for it.

A visit's work runs in a task of its own, so that a client that leaves can stop the reading without
ever interrupting the booking.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Final, Literal

import msgspec

from moongate.access.keys import Principal
from moongate.core.cards import Offer
from moongate.core.errors import Refused, UpstreamTooLong
from moongate.core.events import Due, Round
from moongate.core.money import Bill, Usage
from moongate.core.ports import Ask, Reply
from moongate.core.request import Request
from moongate.core.rows import Outcome
from moongate.cover import Cover
from moongate.delivery import Delivery
from moongate.guarantee import Guard
from moongate.ledger.book import Told
from moongate.ledger.slices import Slices, Terms
from moongate.meter import tokens
from moongate.meter.tap import Tap
from moongate.meter.tokenizer import Tokenizer
from moongate.meter.tokens import Count
from moongate.route.loads import Berth
from moongate.route.plan import Step
from moongate.route.prefix import Prefix
from moongate.search.tool import shown
from moongate.upstream.replay import Watch

TAIL_S: Final = 2.0
"""How long the final usage is awaited when the client left after the answer's finish."""

Stage = Literal["admit", "reading", "tail", "closing"]


Admit = Callable[[int], Awaitable[None]]
"""Takes so many bytes more of a request in, or raises Refused."""


class Visit:
    """A request being served, and whether its client is still there.

    ``credential`` is a bearer secret, or the principal itself on the admin socket. ``body`` reads
    the request's bytes when they are wanted, and admits them as it goes. ``idempotency`` is the
    client's Idempotency-Key, ``way`` the headers in which it may say where to go. ``berth`` is
    where it counts, once it is chosen.
    ``searches``: the client runs the loop of a web search itself.
    """

    def __init__(
        self,
        id: str,
        credential: str | Principal | None,
        body: Callable[[Admit], Awaitable[bytes]],
        reply: Reply,
        idempotency: str | None = None,
        way: Mapping[str, str] = MappingProxyType({}),
        *,
        searches: bool = False,
    ) -> None:
        self.id, self.credential, self.body, self.reply = id, credential, body, reply
        self.idempotency, self.way, self.searches = idempotency, way, searches
        self.berth: Berth | None = None
        self.stage: Stage = "admit"
        self.ended: Literal["client_left", "gateway_error"] | None = None
        self.task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"Visit({self.id}, {self.stage})"

    def enter(self, stage: Stage) -> None:
        """Go on to ``stage``; CancelledError when the client left before reading began."""
        if stage == "reading" and self.ended is not None:
            raise asyncio.CancelledError
        self.stage = stage

    def end(self, why: Literal["client_left", "gateway_error"]) -> None:
        """Stop the work: at once while reading, ``TAIL_S`` later in the tail, never in booking."""
        if self.ended is not None or self.task is None:
            return
        self.ended = why
        if self.stage == "reading":
            self.task.cancel()
        elif self.stage == "tail":
            asyncio.get_running_loop().call_later(TAIL_S, self._cut_tail)

    def _cut_tail(self) -> None:
        if self.stage == "tail" and self.task is not None:
            self.task.cancel()


class Job:
    """What admission decided for one visit, and what is learnt on the way.

    ``headers`` are those of the answer; they may change until its head is sent. ``tokenizer`` is
    the model's, where it may count what is generated. ``count`` counts the prompt of a further
    round. ``refusal`` is what the client is told when
    there is no answer to end: the first while nothing was sent, the second inside a stream.
    ``step`` is who is asked, ``berth`` where it counts, ``prefix`` what the request begins with.
    ``watch`` gathers reasoning that is to be remembered. ``left_out`` names fields that the key's
    policy or the model's rules dropped. ``spoiled`` is what an attempt used that was not as
    promised and that nobody saw. Raises Refused where the request contradicts itself.
    """

    def __init__(
        self,
        principal: Principal,
        offer: Offer,
        steps: tuple[Step, ...],
        ask: Ask,
        prompt: Count,
        tokenizer: Tokenizer | None,
        delivery: Delivery,
        headers: dict[str, str],
        started_s: float,
        created_ms: int,
        prefix: Prefix,
        berth: Berth,
        count: Callable[[Request], Awaitable[Count]],
        *,
        left_out: tuple[str, ...] = (),
    ) -> None:
        self.principal, self.offer, self.steps, self.ask = principal, offer, steps, ask
        self.delivery, self.headers = delivery, headers
        self.started_s, self.created_ms = started_s, created_ms
        self.prompt, self._count, self.left_out = prompt, count, left_out
        self._lowered: str | None = None
        self.tap = Tap(prompt, ask.request.sampling.n or 1, tokenizer)
        self.step, self.prefix, self.berth = steps[0], prefix, berth
        self.guard = Guard(shown(ask.request, ask.search))
        self.attempts, self.spoiled = 1, Usage()
        self.first_token_ms: int | None = None
        self.refusal: tuple[Refused, Refused] | None = None
        self.watch: Watch | None = None

    def __repr__(self) -> str:
        return f"Job({self.ask.id})"

    @property
    def upstream(self) -> str:
        """The name of the upstream that is asked."""
        return self.step.target.name

    def terms(self) -> Terms:
        """What this request can cost: its prompt bound, and the cap for each choice."""
        output = self.ask.output_tokens_max * (self.ask.request.sampling.n or 1)
        return Terms.of(self.offer.price.price, self.prompt.bound, output)

    def tokens_first(self, slices: Slices) -> int:
        """Tokens that this request may use before more is set aside: prompt and first slice."""
        return self.prompt.bound + min(slices.first, self.terms().output_tokens_max)

    async def fund(self, due: Due, cover: Cover) -> bool:
        """Set aside what comes next beside the output; False when nobody can pay it.

        Raises LedgerUnavailable.
        """
        price = self.offer.price.price
        if due.round is None:
            return await cover.afford(due.searches * price.search, 0)
        prompt = await self._count(due.round.request)
        if not self._leave_room(due.round, prompt):
            return True  # it will not be asked for
        self.tap.expect(prompt)
        return await cover.afford(Terms.of(price, prompt.bound, 0).prompt_nanos, prompt.bound)

    def _leave_room(self, more: Round, prompt: Count) -> bool:
        """Lower the cap of a further round to what its ``prompt`` leaves; False: that is nothing.

        An upstream would refuse more, behind text that the client has and searches that were made.
        """
        wanted = more.output_tokens_max
        more.least, more.bound = prompt.least, prompt.bound
        try:
            more.output_tokens_max = tokens.cap(prompt, wanted, self.offer.window)
        except Refused:
            more.output_tokens_max = 0
        if more.output_tokens_max < wanted:
            self.headers["x-moongate-clamped"] = "max_completion_tokens"
        return more.output_tokens_max > 0

    def shown(self, bill: Bill) -> Bill:
        """``bill`` as the client sees it: with what became of searches that brought nothing."""
        return msgspec.structs.replace(bill, search_errors=tuple(self.tap.search_errors))

    def refuse(self, error: Refused, within: str = "stream_interrupted") -> None:
        """Remember what to tell the client instead of an answer."""
        self.refusal = (error, error if within == error.key else Refused(within))

    def name_dropped(self, names: tuple[str, ...]) -> None:
        """Name in the headers what was left out: before, and by the upstream asked now."""
        dropped = (*self.left_out, *names)
        self.headers.pop("x-moongate-dropped", None)
        if dropped:
            self.headers["x-moongate-dropped"] = ",".join(dropped)

    def lower(self, error: UpstreamTooLong) -> bool:
        """Lower the cap to the room that the upstream told of; False when that cannot help.

        Each upstream is asked so once, and only where it would make nothing twice; the hold stays
        what it was.
        """
        if self.tap.begun or self.delivery.told:
            return False
        cap = tokens.lowered(self.ask.output_tokens_max, self.prompt, error)
        if cap is None or self._lowered == self.upstream:
            return False
        self._lowered = self.upstream
        self.ask = msgspec.structs.replace(self.ask, output_tokens_max=cap)
        self.headers["x-moongate-clamped"] = "max_completion_tokens"
        return True

    @property
    def may_ask_again(self) -> bool:
        """Whether an answer that is not as promised may be replaced by another, once."""
        return self.attempts == 1 and not self.delivery.told

    def ask_again(self) -> None:
        """Leave an attempt behind that was not as promised."""
        self.attempts, self.spoiled = 2, self.used(final=True)
        self.first_token_ms = None
        self.tap.restart()
        self.guard.restart()
        self.delivery.restart()

    @property
    def owed(self) -> bool:
        """Whether what was made so far is the client's to pay for when they leave."""
        return self.tap.accepted and not self.guard.broken

    def told(self, outcome: Outcome, now_s: float) -> Told:
        """What the usage row says beside money, at monotonic ``now_s``.

        The status 499 (nginx's word for it) marks a client that left.
        """
        streamed = self.ask.request.stream
        status = 499 if outcome == "client_left" else 200
        if self.refusal is not None and not self.delivery.told:
            status = self.refusal[0].status
        return Told(
            upstream=self.upstream,
            created_ms=self.created_ms,
            streamed=streamed,
            status=status,
            counts=self.tap.counts,
            first_token_ms=self.first_token_ms,
            duration_ms=int((now_s - self.started_s) * 1000),
            attempts=self.attempts,
            spoiled=self.spoiled,
        )

    def used(self, *, final: bool = False) -> Usage:
        """The usage so far: none before an upstream accepted. ``final``: text is counted too."""
        return self.tap.usage(encode=final) if self.tap.accepted else Usage()
