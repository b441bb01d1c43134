"""Brave Search: an index of its own behind an API. It needs an account.

Source: Brave Search API, "Web search" (`GET /res/v1/web/search?q=…&count=…`, key in
`X-Subscription-Token`; `web.results[]` with `title`, `url`, `description`, `extra_snippets`,
`page_age`). Its descriptions mark the words found with `<strong>`, which is left out.
"""

import html
import re
from typing import Any, Final

from moongate.search.engines.asking import Asking
from moongate.search.results import RESULTS_MAX, Result, listed, word

BASE_URL: Final = "https://api.search.brave.com/res/v1"
_TAG: Final = re.compile(r"</?(?:strong|b|em|i)>")


class Brave:
    """The service, or what speaks like it, at ``base_url``."""

    name = "brave"

    def __init__(self, base_url: str = "", api_key: str = "") -> None:
        self._url = f"{(base_url or BASE_URL).rstrip('/')}/web/search"
        self._asking = Asking({"x-subscription-token": api_key} if api_key else {})

    async def start(self) -> None:
        await self._asking.start()

    async def close(self) -> None:
        await self._asking.close()

    async def find(self, query: str, results_max: int) -> list[Result]:
        """One page of at most 20 results."""
        asked = {"q": query, "count": str(min(results_max, RESULTS_MAX)), "result_filter": "web"}
        found = listed(await self._asking.json(self._url, params=asked), "web", "results")
        return [
            Result(
                _text(word(one, "title")),
                word(one, "url"),
                "\n".join(_text(piece) for piece in (word(one, "description"), *_more(one))),
                word(one, "page_age") or None,
            )
            for one in found[:results_max]
        ]


def _more(one: dict[str, Any]) -> list[str]:
    snippets = one.get("extra_snippets")
    return [s for s in snippets if isinstance(s, str)] if isinstance(snippets, list) else []


def _text(marked: str) -> str:
    return html.unescape(_TAG.sub("", marked))
