"""One search: an engine, a deadline, results that were cleaned, pages that were read, one count.

Whatever an engine does, what comes back is a list with something in it, or SearchFailed with a
word. Nothing is kept, and nothing but the engine's name and that word is told to anybody.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from moongate.core.cards import DataPolicy
from moongate.search.results import RESULTS_MAX, Engine, Result, SearchFailed, clean

DEADLINE_S: Final = 15.0
"""An engine has its own, shorter limits; this one holds whatever it does."""
WITHIN_S: Final = 45.0
"""For engine and pages together, where the caller has no less."""


class Reads(Protocol):
    """Reads the pages of results: the same results, with more of their text where it could."""

    async def __call__(self, found: Sequence[Result]) -> list[Result]: ...


class Finding:
    """Searches with ``engine``. ``counted`` is told engine and outcome of every search.

    ``policy`` is what happens at the engine to a query.
    """

    def __init__(
        self,
        engine: Engine,
        policy: DataPolicy,
        *,
        read: Reads | None = None,
        counted: Callable[[str, str], object] = lambda engine, outcome: None,  # noqa: ARG005 - the silent default
        deadline_s: float = DEADLINE_S,
    ) -> None:
        self.engine = engine
        self.policy: DataPolicy = policy
        self._read, self._counted, self._deadline_s = read, counted, deadline_s

    def __repr__(self) -> str:
        return f"Finding({self.engine.name})"

    @property
    def reads(self) -> bool:
        """Whether pages of results can be read."""
        return self._read is not None

    async def find(
        self, query: str, results_max: int, *, pages: bool = False, within_s: float = WITHIN_S
    ) -> list[Result]:
        """At least one and at most ``results_max`` results. Raises SearchFailed.

        It takes ``within_s`` at most. Pages that are not read by then leave what the engine said.
        """
        results_max = min(results_max, RESULTS_MAX)
        until_s = asyncio.get_running_loop().time() + within_s
        try:
            found = await self._ask(query, results_max, within_s)
        except SearchFailed as error:
            self._counted(self.engine.name, error.kind)
            raise
        self._counted(self.engine.name, "ok")
        if not pages or self._read is None:
            return found
        try:
            async with asyncio.timeout_at(until_s):
                return await self._read(found)
        except Exception:  # noqa: BLE001 - a page that hurts its reader leaves what the engine said
            return found

    async def _ask(self, query: str, results_max: int, within_s: float) -> list[Result]:
        try:
            async with asyncio.timeout(min(self._deadline_s, within_s)):
                found = await self.engine.find(query, results_max)
        except SearchFailed:
            raise
        except TimeoutError:
            raise SearchFailed("slow") from None
        except Exception:  # noqa: BLE001 - a fault of an engine ends a search, never an answer
            raise SearchFailed("malformed") from None
        cleaned = clean(found, results_max)
        if not cleaned:
            raise SearchFailed("empty")
        return cleaned
