"""Admission: everything that can be decided about a request before money moves.

Which offer, which targets in which order, what the model's rules leave of the request, how many
tokens its prompt is and how long the answer may get, and how it goes back. It asks nobody for an
answer and holds no money.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from itertools import islice
from typing import Final

import msgspec

from moongate.access.keys import Principal, tenant_tag
from moongate.core.cards import DataPolicy, Facts, Offer
from moongate.core.errors import Refused
from moongate.core.ports import Ask, Clock, Codec, Head, Upstream, WebSearch
from moongate.core.request import Request
from moongate.core.rows import PriceRow
from moongate.counting import Counting
from moongate.delivery import Streamed, Whole
from moongate.media.eyes import Admit, Eyes
from moongate.meter import tokens
from moongate.meter.tokens import Count
from moongate.route import plan, rules, wish
from moongate.route.catalog import Catalog
from moongate.route.plan import Step
from moongate.route.prefix import BESIDE, Prefix
from moongate.route.router import Router
from moongate.route.wish import Wish
from moongate.search.desk import Desk, tell_lost, with_room
from moongate.upstream.replay import Replay
from moongate.visit import Job, Visit

Look = Callable[[PriceRow], Awaitable[None]]
"""Raises Refused where a request at that price would be refused, whatever it says."""
STEPS_MAX: Final = 4
"""So many places of a plan are looked at closely; only two are ever asked."""


async def unasked(price: PriceRow) -> None:
    """Nothing more is to be asked."""
    del price


class Chosen(msgspec.Struct, frozen=True):
    """What serves a request: the offer of its first step, and the steps in order.

    ``request`` is what is left to ask: the key's policy had the fields ``left_out`` dropped, and
    ``repaired`` are the messages whose reasoning was put back. ``tenant`` is whose it is.
    ``prefix`` is what it begins with.
    ``search``: how the answer may search the web. ``lost`` are the messages whose results of a
    search could not be opened.
    """

    request: Request
    offer: Offer
    steps: tuple[Step, ...]
    left_out: tuple[str, ...]
    tenant: str
    repaired: tuple[int, ...]
    prefix: Prefix
    search: WebSearch | None = None
    lost: tuple[int, ...] = ()


class Admission:
    """Decides for every request. ``unretained`` names the places that keep nothing.

    ``wishing`` are the accounts that may say where a request goes (``*``: all).
    """

    def __init__(
        self,
        *,
        catalog: Catalog,
        upstreams: Mapping[str, Upstream],
        router: Router,
        counting: Counting,
        clock: Clock,
        tenant_secret: bytes,
        require: DataPolicy,
        unretained: frozenset[str],
        replay: Replay,
        eyes: Eyes,
        desk: Desk,
        wishing: frozenset[str] = frozenset(),
    ) -> None:
        self._catalog, self._upstreams = catalog, upstreams
        self._router, self._clock = router, clock
        self._wishing = wishing
        self._counting = counting
        self._tenant_secret = tenant_secret
        self._require: DataPolicy = require
        self._unretained = unretained
        self._replay, self._eyes, self._desk = replay, eyes, desk

    def wish(self, principal: Principal, headers: Mapping[str, str]) -> Wish | None:
        """What the client's headers say of the way. Raises Refused naming one."""
        allowed = not self._wishing.isdisjoint({"*", principal.account})
        known = {name.partition("/")[0] for name in self._upstreams}
        return wish.read(headers, known, allowed=allowed)

    async def choose(
        self,
        principal: Principal,
        request: Request,
        admit: Admit,
        wished: Wish | None = None,
        *,
        searches: bool = False,
        look: Look = unasked,
    ) -> Chosen:
        """Who serves ``request``, and what is left of it once all that it shows was brought.

        ``admit`` is told how many bytes came beside the body, ``look`` what a token costs before
        anything is fetched. Raises Refused.
        """
        offer = self._catalog.offer(request.model)
        if principal.models and offer.card.id not in principal.models:
            raise Refused("insufficient_permissions", "model", thing="model")
        allowed = self._unretained if principal.zero_retention else self._upstreams.keys()
        targets = [target for target in offer.card.targets if target.upstream in allowed]
        targets = plan.fit(targets, self._facts, self._require)
        targets = self._router.open_to(principal.account, targets)
        if wished is not None:
            targets = wished.grant(targets)
        tenant = tenant_tag(self._tenant_secret, principal.account)
        prefix = await self._prefix(tenant, request, offer)
        steps = [*islice(self._router.order(offer.card, targets, prefix), STEPS_MAX)]
        offers = {s: self._catalog.offer(request.model, s.target.upstream) for s in steps}
        offer = offers[steps[0]]
        fit = [s for s in steps[1:] if rules.fits(request, offers[s], principal.policy)]
        request, left_out = rules.check(request, offer, principal.policy)
        kept = not principal.zero_retention
        # After the abilities, so that nothing is fetched that cannot be used.
        request = await self._eyes.bring(
            request, principal.account, keep=kept, admit=admit, look=partial(look, offer.price)
        )
        repaired: tuple[int, ...] = ()
        if offer.card.family == "kimi":
            request, repaired = await self._replay.mend(tenant, request, kept=kept)
        prepared = self._desk.admit(
            request, tenant, zero_retention=principal.zero_retention, by_client=searches
        )
        left_out = (*left_out, *prepared.left_out)
        return Chosen(
            prepared.request, offer, (steps[0], *fit), left_out, tenant, repaired,
            prefix, prepared.search, prepared.lost,
        )  # fmt: skip

    async def _prefix(self, tenant: str, request: Request, offer: Offer) -> Prefix:
        """What ``request`` begins with; a large one is hashed beside the event loop."""
        request = msgspec.structs.replace(request, model=offer.card.id)
        if tokens.weight(request) < BESIDE:
            return self._router.prefix(tenant, request)
        return await asyncio.to_thread(self._router.prefix, tenant, request)

    async def count(self, principal: Principal, request: Request, admit: Admit) -> Count:
        """The prompt tokens of ``request``, as :meth:`admit` counts them. Raises Refused."""
        chosen = await self.choose(principal, request, admit)
        return await self._counting.prompt(chosen.request, chosen.offer, chosen.steps)

    async def admit(
        self,
        codec: Codec,
        visit: Visit,
        principal: Principal,
        request: Request,
        headers: dict[str, str],
        admit: Admit,
        look: Look = unasked,
    ) -> Job:
        """The job that ``request`` is; writes what it says of it into ``headers``. Raises Refused.

        No money has moved, and no answer was asked for, when it returns.
        """
        wished = self.wish(principal, visit.way)
        chosen = await self.choose(
            principal, request, admit, wished, searches=visit.searches, look=look
        )
        request, offer, first = chosen.request, chosen.offer, chosen.steps[0].target
        visit.berth = berth = self._router.take(chosen.steps[0], chosen.prefix)
        prompt = await self._counting.prompt(request, offer, chosen.steps)
        wanted = request.output_tokens_max or offer.output_tokens_default
        cap = tokens.cap(prompt, wanted, offer.window)
        search = with_room(chosen.search, prompt, offer.window)
        ask = Ask(
            visit.id, request, first.model, cap, chosen.tenant, chosen.repaired,
            offer.card.family, search,
        )  # fmt: skip
        tell_lost(headers, chosen.lost)
        if cap < wanted:
            headers["x-moongate-clamped"] = "max_completion_tokens"
        now = (self._clock.monotonic_s(), self._clock.now_ms())
        head = Head(
            f"chatcmpl-{visit.id[-24:]}", now[1] // 1000, offer.card.id, offer.fingerprint,
            request.include_usage,
        )  # fmt: skip
        form = Streamed if request.stream else Whole
        delivery = form(codec, head, visit.reply, headers, self._clock)
        tokenizer = self._counting.tokenizer(offer, chosen.steps)
        return Job(
            principal, offer, chosen.steps, ask, prompt, tokenizer, delivery, headers, *now,
            chosen.prefix, berth,
            lambda more: self._counting.prompt(more, offer, chosen.steps),
            left_out=chosen.left_out,
        )  # fmt: skip

    def _facts(self, upstream: str) -> Facts:
        """What the upstream of that name says of itself."""
        return self._upstreams[upstream].facts()
