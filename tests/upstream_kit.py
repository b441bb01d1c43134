"""What the tests of the upstreams share: a request, an upstream at a server, its events."""

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

from moongate.core.cards import Family
from moongate.core.events import Event, Fold, Used
from moongate.core.ports import Ask
from moongate.core.request import Message, Request
from moongate.upstream.http import HttpUpstream
from moongate.wire.chat import ChatCodec

KEY = "sk-canary-7f3e"


def an_ask(*messages: Message, cap: int = 1000, family: Family = "kimi", **fields: Any) -> Ask:
    request = Request(
        model="kimi-k2.5",
        messages=messages or (Message(role="user", content="Name three moons"),),
        **fields,
    )
    return Ask(
        id="req_1",
        request=request,
        model="kimi-k2.5",
        output_tokens_max=cap,
        tenant="tenant-a",
        family=family,
    )


def an_upstream(base_url: str, kind: Any = "moonshot", **fields: Any) -> HttpUpstream:
    fields = {"name": "there", "api_key": KEY, **fields}
    return HttpUpstream(kind=kind, base_url=base_url, codec=ChatCodec(), **fields)


@asynccontextmanager
async def running(
    base_url: str, kind: Any = "moonshot", **fields: Any
) -> AsyncIterator[HttpUpstream]:
    upstream = an_upstream(base_url, kind, **fields)
    await upstream.start()
    try:
        yield upstream
    finally:
        await upstream.close()


async def events_of(upstream: HttpUpstream, ask: Ask | None = None) -> list[Event]:
    found: list[Event] = []
    async with aclosing(upstream.stream(ask or an_ask())) as batches:
        async for batch in batches:
            assert batch
            found.extend(batch)
    return found


def told(events: list[Event]) -> tuple[Any, Any]:
    """What a stream comes to, however it was cut: its answer and its last counts."""
    fold = Fold()
    counts = None
    for event in events:
        fold.add(event)
        if isinstance(event, Used):
            counts = event.counts
    return fold.answer(), counts
