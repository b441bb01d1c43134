"""ddgs: the public pages of search engines, read without an account; the default.

The package works with threads and blocking calls, so it gets a few threads of its own, and its
answer is awaited for a bounded time. Its exceptions and its logger may hold the query: neither is
passed on. The engines that it asks are named here, so that it is known who sees a query.

Source: ddgs documentation, `DDGS.text`.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from moongate.core.errors import ConfigurationError
from moongate.search.results import Result, SearchFailed, word

ASKED: Final = "duckduckgo,brave,mojeek"
"""Who sees a query."""
TIMEOUT_S: Final = 12.0
_EACH_S: Final = 5
_THREADS: Final = 4


class Ddgs:
    """The package ``ddgs``, which the extra ``search`` installs."""

    name = "ddgs"

    def __init__(self, timeout_s: float = TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._client: Callable[..., Any] | None = None
        self._threads: ThreadPoolExecutor | None = None

    async def start(self) -> None:
        try:
            # Only this engine needs the package, which the plain install leaves out.
            from ddgs import DDGS  # noqa: PLC0415 - see above
        except ImportError:
            raise ConfigurationError(
                'search.engine is "ddgs"; the package for it is not installed. '
                "Install it: pip install moongate[search]"
            ) from None
        self._client = DDGS
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="search")

    async def close(self) -> None:
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._threads = None

    async def find(self, query: str, results_max: int) -> list[Result]:
        """Results of the first engines that have some."""
        if self._threads is None:
            raise SearchFailed("not_started")
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeout_s):
                found = await loop.run_in_executor(self._threads, self._ask, query, results_max)
        except TimeoutError:
            raise SearchFailed("slow") from None
        if not isinstance(found, list):
            raise SearchFailed("malformed")
        return [
            Result(word(one, "title"), word(one, "href", "url"), word(one, "body"))
            for one in found
            if isinstance(one, dict)
        ]

    def _ask(self, query: str, results_max: int) -> Any:
        """What the package answers; runs in a thread."""
        assert self._client is not None
        try:
            client = self._client(timeout=_EACH_S)
            return client.text(query, backend=ASKED, max_results=results_max)
        except Exception as error:  # noqa: BLE001 - whatever a scraper raises, one word leaves here
            raise SearchFailed(_word(error)) from None


def _word(error: Exception) -> str:
    """A word for an exception of the package, by its type, and no text but for "nothing found"."""
    kind = type(error).__name__
    if kind == "RatelimitException":
        return "limited"
    if kind == "TimeoutException":
        return "slow"
    return "empty" if "No results found" in str(error) else "down"
