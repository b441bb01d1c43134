"""What `doctor` looks at of the web search: who searches, under which policy, whether it works."""

import asyncio
import time
from collections.abc import Iterator
from typing import Final

from moongate.app.searches import make_engine
from moongate.cli.check import Check
from moongate.cli.desk import Desk
from moongate.core.errors import MoongateError
from moongate.route.plan import meets
from moongate.search.finding import Finding
from moongate.search.results import Engine, SearchFailed
from moongate.settings import Settings

QUERY: Final = "moons of Mars"
_KEYED: Final = ("tavily", "brave")
"""Engines that want a key of the operator's."""
_WHY: Final = {
    "down": "it cannot be reached",
    "slow": "it does not answer in time",
    "empty": "it finds nothing, which may mean that it turns us away",
    "malformed": "what it answers is not its own form",
    "limited": "it is limiting us",
    "refused": "it refuses: look at its key, and for SearXNG at `search.formats` with json",
    "status": "it answers with an error",
}


def search_checks(desk: Desk, settings: Settings, *, live: bool) -> Iterator[Check]:
    """One look, and where ``live`` one real search, with a query of ours."""
    if all("search" not in model.abilities for model in settings.models):
        return
    table = settings.search
    if table.engine == "moonshot":
        yield _maker(settings)
        return
    used = settings
    if live and table.engine in _KEYED:  # the server tells no secrets, so its key is read here
        try:
            used = desk.settings(secrets=True)
        except MoongateError as error:
            yield Check("search", "broken", str(error))
            return
        if used.search.engine != table.engine:
            yield Check(
                "search", "broken",
                f"the server searches with {table.engine}, and the configuration that is read "
                f"here names {used.search.engine}. Give the server's own with --config FILE.",
            )  # fmt: skip
            return
    engine = make_engine(used)
    if engine is None:
        yield Check(
            "search", "warning",
            "no search: the package of the engine ddgs is not installed. "
            "pip install moongate[search], or name another engine.",
        )  # fmt: skip
        return
    if live:
        yield asyncio.run(_look(engine))
        return
    said = f"{table.engine}, data policy {table.data_policy}"
    if table.agreement is not None:
        said += f": {table.agreement.title}, effective {table.agreement.effective}"
    if not meets(table.data_policy, settings.privacy.require):
        yield Check(
            "search", "warning",
            f"{said}: every search is refused (no_zdr_route), for privacy.require is "
            f'"{settings.privacy.require}". Name an engine that promises as much.',
        )  # fmt: skip
        return
    yield Check("search", "ok", f"{said}; `moongate doctor --search` tries it")


def _maker(settings: Settings) -> Check:
    """Whether there is a target where the model's maker can search."""
    makers = {one.name for one in settings.upstreams if one.kind == "moonshot"}
    searching = [model for model in settings.models if "search" in model.abilities]
    if any(target.upstream in makers for model in searching for target in model.targets):
        return Check("search", "ok", "moonshot: the model's maker searches, where it serves it")
    return Check(
        "search", "warning",
        "no search: engine moonshot searches at upstreams of that kind alone, and no model is "
        "served from one. Name such an upstream, or another engine.",
    )  # fmt: skip


async def _look(engine: Engine) -> Check:
    """One real search."""
    began_s = time.monotonic()
    try:
        await engine.start()
        found = await Finding(engine, "none").find(QUERY, 5)
    except SearchFailed as error:
        return Check("search", "broken", f"{engine.name}: {_WHY.get(error.kind, error.kind)}.")
    except MoongateError as error:
        return Check("search", "broken", str(error))
    finally:
        await engine.close()
    passed_s = time.monotonic() - began_s
    return Check("search", "ok", f"{engine.name}: {len(found)} results in {passed_s:.1f} s")
