"""Tavily: a search service made for language models. It needs an account.

Source: Tavily API reference, "Search" (`POST /search`, bearer key; `results[]` with `title`, `url`,
`content`, and `published_date` for news).
"""

from typing import Final

from moongate.search.engines.asking import Asking
from moongate.search.results import RESULTS_MAX, Result, listed, word

BASE_URL: Final = "https://api.tavily.com"


class Tavily:
    """The service, or what speaks like it, at ``base_url``."""

    name = "tavily"

    def __init__(self, base_url: str = "", api_key: str = "") -> None:
        self._url = f"{(base_url or BASE_URL).rstrip('/')}/search"
        self._asking = Asking({"authorization": f"Bearer {api_key}"} if api_key else {})

    async def start(self) -> None:
        await self._asking.start()

    async def close(self) -> None:
        await self._asking.close()

    async def find(self, query: str, results_max: int) -> list[Result]:
        """The basic depth, which costs one of the service's credits."""
        body = {
            "query": query,
            "max_results": min(results_max, RESULTS_MAX),
            "search_depth": "basic",
            "include_answer": False,
            "include_images": False,
            "include_raw_content": False,
        }
        found = listed(await self._asking.json(self._url, body=body), "results")
        return [
            Result(
                word(one, "title"),
                word(one, "url"),
                word(one, "content"),
                word(one, "published_date") or None,
            )
            for one in found[:results_max]
        ]
