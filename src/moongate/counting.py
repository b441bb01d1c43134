"""Counting a prompt before money moves: who can tell, in which order, and where it is done.

An upstream that can count does (the embedded engine); else the model's own tokenizer, where the
operator put its file and nothing else may answer in the model's place; else bytes bound it. What
takes long runs beside the event loop, few at once.
"""

import asyncio
import os
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from moongate.core.cards import Offer
from moongate.core.ports import Upstream
from moongate.core.request import Request
from moongate.meter import tokens
from moongate.meter.tokenizer import Tokenizer
from moongate.meter.tokens import Count
from moongate.route.plan import Step

BESIDE: Final = 65_536
"""From so many characters on a tokenizer does not run on the event loop."""
BESIDE_BYTES: Final = 1 << 20
"""From so many on not even bytes are counted there."""
ENGINE: Final = 4 << 20
"""More characters are not sent to an engine only to be counted: they are far over its window."""


class Counting:
    """Counts for every request. ``tokenizers`` are by the model card's id."""

    def __init__(
        self, upstreams: Mapping[str, Upstream], tokenizers: Mapping[str, Tokenizer]
    ) -> None:
        self._upstreams, self._tokenizers = upstreams, tokenizers
        self._turns = asyncio.Semaphore(max(1, (os.cpu_count() or 1) - 1))  # one for the loop

    def tokenizer(self, offer: Offer, steps: Sequence[Step]) -> Tokenizer | None:
        """The model's, unless something that stands in for it may answer."""
        facts = (self._upstreams[step.target.upstream].facts() for step in steps)
        return None if any(fact.stand_in for fact in facts) else self._tokenizers.get(offer.card.id)

    async def prompt(self, request: Request, offer: Offer, steps: Sequence[Step]) -> Count:
        """The prompt of ``request`` at its first step; the bound holds at every one."""
        weight = tokens.weight(request)
        counts: list[Count] = []
        ours: Count | None = None
        for name in dict.fromkeys(step.target.upstream for step in steps):
            upstream = self._upstreams[name]
            told = await upstream.count(request) if weight <= ENGINE else None
            if told is not None:
                counts.append(Count.exactly(told))
                continue
            ours = ours or await self._ours(request, offer, steps, weight)
            counts.append(ours)
        return msgspec.structs.replace(counts[0], bound=max(count.bound for count in counts))

    async def _ours(
        self, request: Request, offer: Offer, steps: Sequence[Step], weight: int
    ) -> Count:
        tokenizer = self.tokenizer(offer, steps)
        if weight < (BESIDE if tokenizer else BESIDE_BYTES):
            return tokens.count(request, offer.window, tokenizer)
        async with self._turns:
            return await asyncio.to_thread(tokens.count, request, offer.window, tokenizer)
