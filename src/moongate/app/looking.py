"""What the start tells of the upstreams once it serves: who does not answer, what is not there."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

from moongate.core.cards import Card
from moongate.core.ports import Upstream
from moongate.route.health import COOL_S
from moongate.route.router import Router


async def look(
    upstreams: Mapping[str, Upstream], cards: Sequence[Card], note: Callable[[str], None]
) -> None:
    """Probe every upstream once; say which does not answer or lacks a model asked of it."""
    probes = await asyncio.gather(*(up.probe() for up in upstreams.values()))
    found = dict(zip(upstreams, probes, strict=True))
    for name, probe in found.items():
        if not probe.ok:
            note(f"Upstream {name} cannot be used now: {probe.detail}")
    for card in cards:
        for target in card.targets:
            models = found[target.upstream].models
            named = upstreams[target.upstream].kind != "embedded"
            if named and models is not None and target.model not in models:
                note(
                    f"Upstream {target.upstream} does not list {target.model}: requests for "
                    f"{card.id} will fail there. Point its target at a model that it lists, "
                    "or serve the open weights with vLLM, SGLang or an OpenAI-compatible host."
                )


async def look_again(router: Router, upstreams: Mapping[str, Upstream]) -> None:
    """Until cancelled: look at the places that are ejected; drop what is remembered too long."""
    while True:
        await asyncio.sleep(COOL_S)
        router.affinity.expire()
        for name in router.health.ejected():
            if name in upstreams and (await upstreams[name].probe()).ok:
                router.health.looked(name)
