"""SearXNG: a metasearch engine that the operator runs; its JSON format must be turned on.

Source: SearXNG documentation, "Search API" (`/search?q=…&format=json`) and "settings: search"
(`formats` must list `json`, else it answers 403).
"""

from moongate.search.engines.asking import Asking
from moongate.search.results import Result, listed, word


class Searxng:
    """An instance at ``base_url``. It needs no key; one that is given goes as a bearer token."""

    name = "searxng"

    def __init__(self, base_url: str, api_key: str = "") -> None:
        self._url = f"{base_url.rstrip('/')}/search"
        self._asking = Asking({"authorization": f"Bearer {api_key}"} if api_key else {})

    async def start(self) -> None:
        await self._asking.start()

    async def close(self) -> None:
        await self._asking.close()

    async def find(self, query: str, results_max: int) -> list[Result]:
        """One page of results: its size is the instance's own."""
        asked = {"q": query, "format": "json"}
        found = listed(await self._asking.json(self._url, params=asked), "results")
        return [
            Result(
                word(one, "title"),
                word(one, "url"),
                word(one, "content"),
                word(one, "publishedDate") or None,
            )
            for one in found[:results_max]
        ]
