"""Whether an engine keeps the prompt caches of two salts apart: asked of it, not believed.

A prompt that nobody else can know is sent twice with one salt and once with another, on the same
way as any request. A hit for the second salt means that every customer could find out by the
clock what others have sent: then the upstream is not used, unless its operator says that it may
be; nor is it used while it fails to answer the question. Where the engine tells no cached counts
nothing can be said.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Final, Literal

from moongate.core.errors import UpstreamDown, UpstreamError, UpstreamRefused
from moongate.core.events import Event, Used
from moongate.core.ids import new_id
from moongate.core.ports import Ask
from moongate.core.request import Message, Request

Verdict = Literal["apart", "shared", "untold", "unasked"]

LOOK_S: Final = 20.0
AGAIN_S: Final[dict[Verdict, float]] = {"shared": 60.0, "untold": 3600.0, "unasked": 1.0}
"""Seconds after which a verdict is asked for anew; ``apart`` holds as long as this process."""
_WORDS: Final = 200
"""Of six hexadecimal digits each: more than 256 tokens, fewer than a thousand."""

SHARED: Final = (
    "It ignores cache_salt: what one account sent is found in its prompt cache by others. It is "
    "not used. Update the engine, or say shared_cache = true under it to accept that."
)
_SAID: Final[dict[Verdict, str]] = {
    "apart": "Its prompt cache keeps accounts apart.",
    "shared": SHARED,
    "untold": "It tells no cached tokens, so whether its prompt cache keeps accounts apart is "
    "unknown (vLLM: --enable-prompt-tokens-details, SGLang: --enable-cache-report).",
    "unasked": "Whether its prompt cache keeps accounts apart could not be asked.",
}


class Salts:
    """What is known of one upstream's salts. ``stream`` asks it; ``model`` is a name there.

    ``report`` hears ``cache_shared`` when that is found.
    """

    def __init__(
        self,
        stream: Callable[[Ask], AsyncGenerator[list[Event], None]],
        model: str,
        report: Callable[[str], None],
    ) -> None:
        self._stream = stream
        self._model = model
        self._report = report
        self._looking = asyncio.Lock()
        self._until_s = 0.0
        self._trouble: UpstreamError = UpstreamDown("cache_unasked")
        self.verdict: Verdict = "unasked"

    async def look(self) -> str:
        """Ask, where that is due; a sentence for the operator. Never raises an UpstreamError."""
        async with self._looking:
            if self.verdict != "apart" and time.monotonic() >= self._until_s:
                try:
                    async with asyncio.timeout(LOOK_S):
                        found = await self._ask()
                except (UpstreamError, TimeoutError) as error:
                    found = "shared" if self.verdict == "shared" else "unasked"
                    self._trouble = _trouble(error)
                if found == "shared" != self.verdict:
                    self._report("cache_shared")
                self.verdict = found
                self._until_s = time.monotonic() + AGAIN_S.get(found, 0.0)
        return _SAID[self.verdict]

    async def require(self) -> None:
        """Raises UpstreamDown where tenants would share a cache.

        Where it could not be asked, what the asking met is raised: the request would meet it too.
        """
        await self.look()
        if self.verdict == "shared":
            raise UpstreamDown("cache_shared")
        if self.verdict == "unasked":
            raise self._trouble.with_traceback(None)

    async def _ask(self) -> Verdict:
        prompt = " ".join(secrets.token_hex(3) for _ in range(_WORDS))
        one, other = secrets.token_hex(16), secrets.token_hex(16)
        await self._cached(prompt, one)
        if not await self._cached(prompt, one):
            return "untold"
        return "shared" if await self._cached(prompt, other) else "apart"

    async def _cached(self, prompt: str, salt: str) -> int:
        """Cached tokens that are told for ``prompt`` under ``salt``; 0 where none are."""
        ask = Ask(
            id=new_id("req_", time.time_ns() // 1_000_000),
            request=Request(model=self._model, messages=(Message("user", prompt),), thinking=False),
            model=self._model,
            output_tokens_max=1,
            tenant=salt,
        )
        cached = 0
        async with aclosing(self._stream(ask)) as batches:
            async for events in batches:
                for event in events:
                    if isinstance(event, Used):
                        cached = max(cached, event.counts.cached or 0)
        return cached


def _trouble(error: UpstreamError | TimeoutError) -> UpstreamError:
    """What a request is told of a question that failed; a refusal of it is not the client's."""
    if isinstance(error, TimeoutError | UpstreamRefused):
        return UpstreamDown("cache_unasked")
    return error
