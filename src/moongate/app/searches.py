"""Web search as the settings say: an engine, the rules, and a loop around every upstream."""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Final

from moongate.access.keys import derive
from moongate.core.cards import Ability
from moongate.core.ports import Upstream
from moongate.gateway import Gateway
from moongate.lookup import Lookups
from moongate.media.fetch import Fetcher
from moongate.search.desk import Desk
from moongate.search.engines.brave import Brave
from moongate.search.engines.duckduckgo import Ddgs
from moongate.search.engines.searxng import Searxng
from moongate.search.engines.tavily import Tavily
from moongate.search.finding import Finding, Reads
from moongate.search.loop import Searching
from moongate.search.results import Engine
from moongate.search.sealing import Seal
from moongate.settings import Settings
from moongate.web.finding import FindingHandlers
from moongate.web.server import Handler

_SEARCH: Final[frozenset[Ability]] = frozenset({"search"})


class Searches:
    """Who searches. ``finding`` is ``None`` where nobody does, or the model's maker itself."""

    def __init__(
        self,
        settings: Settings,
        pepper: bytes,
        counted: Callable[[str, str], object] = lambda engine, outcome: None,  # noqa: ARG005 - the silent default
    ) -> None:
        self._seal = Seal(derive(pepper, "search receipts"))
        table = settings.search
        self.by_maker = table.engine == "moonshot"
        engine = make_engine(settings)
        self.finding: Finding | None = None
        if engine is not None:
            read = make_reader() if table.pages else None
            self.finding = Finding(engine, table.data_policy, read=read, counted=counted)
        self.desk = Desk(
            self._seal,
            None if engine is None else table.data_policy,
            require=settings.privacy.require,
            unretained=engine is not None and table.keeps_nothing(),
            by_maker=self.by_maker,
        )

    @property
    def without(self) -> frozenset[Ability]:
        """The ability to search, where nobody does."""
        return _SEARCH if self.finding is None and not self.by_maker else frozenset()

    def around(self, upstreams: Mapping[str, Upstream]) -> dict[str, Upstream]:
        """The upstreams, each with the loop around it."""
        if self.without:
            return dict(upstreams)
        return {
            name: Searching(upstream, self.finding, self._seal)
            for name, upstream in upstreams.items()
        }

    def handlers(self, gateway: Gateway, draining: Callable[[], bool]) -> dict[str, Handler]:
        """The handlers of the search outside a chat; none where no engine of ours searches."""
        if self.finding is None:
            return {}
        lookups = Lookups(
            keys=gateway.keys,
            finding=self.finding,
            desk=self.desk,
            catalog=gateway.catalog,
            limits=gateway.limits,
            book=gateway.book,
            idempotency=gateway.idempotency,
            metrics=gateway.metrics,
            clock=gateway.clock,
            log=gateway.log,
        )
        return FindingHandlers(lookups, draining).table()

    async def start(self) -> None:
        """Open what the engine needs. Raises ConfigurationError."""
        if self.finding is not None:
            await self.finding.engine.start()

    async def close(self) -> None:
        """Release it."""
        if self.finding is not None:
            await self.finding.engine.close()


def make_reader() -> Reads | None:
    """What reads the pages of results; ``None`` where the package for it is not installed."""
    if find_spec("selectolax") is None:
        return None
    # Only this needs the package, which the plain install leaves out.
    from moongate.search.pages import Pages  # noqa: PLC0415 - see above

    return Pages(Fetcher())


def make_engine(settings: Settings) -> Engine | None:
    """The engine that the settings name; ``None`` where the model's maker searches, or nobody."""
    table = settings.search
    key = table.api_key.reveal() if table.api_key else ""
    match table.engine:
        case "searxng":
            return Searxng(table.base_url, key)
        case "tavily":
            return Tavily(table.base_url, key)
        case "brave":
            return Brave(table.base_url, key)
        case "ddgs":
            # The default: where its package is not installed there is no search.
            return Ddgs() if find_spec("ddgs") is not None else None
        case _:
            return None
