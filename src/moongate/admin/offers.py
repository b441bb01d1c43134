"""The operations on what is on offer: models, upstreams, and the server itself."""

import asyncio
from typing import Final

from moongate.admin import shapes
from moongate.admin.call import Answer, Call, Means, Operation, listed
from moongate.admin.fields import Fields
from moongate.core.errors import Refused


async def models(means: Means, call: Call) -> Answer:
    """The models on offer now."""
    Fields(call.query, ())
    return listed([shapes.model(offer) for offer in means.offers()])


async def upstreams(means: Means, call: Call) -> Answer:
    """Every upstream, looked at now."""
    Fields(call.query, ())
    ends = means.upstreams.values()
    probes = await asyncio.gather(*(end.probe() for end in ends))
    return listed(
        [shapes.upstream(end, end.facts(), probe) for end, probe in zip(ends, probes, strict=True)]
    )


async def server(means: Means, call: Call) -> Answer:
    """The server itself: process, version, address, and its configuration in effect."""
    Fields(call.query, ())
    if means.about is None:
        raise Refused("not_found", thing="server")
    return {"object": "server", **means.about()}


OPERATIONS: Final = (
    Operation("GET", "/models", models),
    Operation("GET", "/upstreams", upstreams),
    Operation("GET", "/server", server),
)
