"""The operations on what is on offer: prices, models, upstreams, and the server itself."""

import asyncio
from collections.abc import Sequence
from typing import Final

from moongate.admin import shapes
from moongate.admin.call import Answer, Call, Means, Operation, listed
from moongate.admin.fields import Fields
from moongate.core.errors import Refused
from moongate.core.rows import PriceRow


async def prices(means: Means, call: Call) -> Answer:
    """Every price row, with which are in force now."""
    Fields(call.query, ())
    rows = await means.store.prices()
    current = in_force(rows, means.clock.now_ms())
    return listed([shapes.price(row, in_force=row.version in current) for row in rows])


def in_force(rows: Sequence[PriceRow], now_ms: int) -> set[int]:
    """Versions of the rows that price a request admitted now: the latest begun, per model."""
    latest: dict[str, PriceRow] = {}
    for row in sorted(rows, key=lambda row: (row.from_ms, row.version)):
        if row.from_ms <= now_ms:
            latest[row.model] = row
    return {row.version for row in latest.values()}


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
    Operation("GET", "/prices", prices),
    Operation("GET", "/models", models),
    Operation("GET", "/upstreams", upstreams),
    Operation("GET", "/server", server),
)
