"""Web search over HTTP, outside a chat: our own form, and Tavily's, for clients that speak it.

Our own takes no field that it does not know. Tavily's takes any, as its clients send many; those
that are not acted on are named in ``x-moongate-dropped``. Source: Tavily API reference, "Search".
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from aiohttp import web

from moongate.core.errors import Refused, safe_name
from moongate.core.money import nanos_to_usd
from moongate.lookup import Found, Lookup, Lookups
from moongate.search.results import QUERY_CHARS_MAX, RESULTS_MAX
from moongate.web import body
from moongate.web.reply import whole
from moongate.web.server import Handler, Hit
from moongate.wire import fields

_BYTES_MAX: Final = 1 << 16
_RESULTS: Final = 5
_KNOWN: Final = frozenset({"query", "max_results", "model", "pages"})
_DROPPED_MAX: Final = 64
"""So many names stand in the header."""
_encode = msgspec.json.encode


class FindingHandlers:
    """The two routes. ``draining``: whether no new request is welcome."""

    def __init__(self, lookups: Lookups, draining: Callable[[], bool]) -> None:
        self._lookups, self._draining = lookups, draining

    def table(self) -> dict[str, Handler]:
        """Handler name -> handler."""
        return {"search": self.search, "tavily_search": self.tavily_search}

    async def search(self, hit: Hit) -> web.StreamResponse:
        """``POST /v1/search``."""
        found = await self._serve(hit, read_lookup)
        results = [
            {
                "title": one.title,
                "url": one.url,
                "content": one.text,
                "published_date": one.published,
            }
            for one in found.results
        ]
        return _answer(hit, found, {"results": results, "usage": _usage(found)})

    async def tavily_search(self, hit: Hit) -> web.StreamResponse:
        """``POST /apis/v1/tavily/search``; a result's score is its place."""
        dropped: dict[str, None] = {}

        def read(data: bytes) -> Lookup:
            obj = fields.parse(data)
            dropped.update((safe_name(name), None) for name in fields.rest(obj, _KNOWN))
            return _lookup(obj)

        found = await self._serve(hit, read)
        count = len(found.results)
        results = [
            {
                "title": one.title,
                "url": one.url,
                "content": one.text,
                "score": round(1 - at / count, 3),
                "raw_content": None,
                "published_date": one.published,
            }
            for at, one in enumerate(found.results)
        ]
        said = {
            "answer": None,
            "images": [],
            "follow_up_questions": None,
            "results": results,
            "response_time": round(found.duration_s, 3),
            "request_id": hit.id,
            "usage": _usage(found),
        }
        return _answer(hit, found, said, [*dropped][:_DROPPED_MAX])

    async def _serve(self, hit: Hit, read: Callable[[bytes], Lookup]) -> Found:
        if self._draining():
            raise Refused("draining", retry_after_s=1)
        body.check_head(hit.request, json=True)
        return await self._lookups.serve(
            hit.id,
            hit.principal or hit.bearer(),
            lambda admit: body.read(hit.request, _BYTES_MAX, admit),
            read,
            hit.request.headers.get("idempotency-key"),
        )


def _answer(
    hit: Hit, found: Found, said: dict[str, Any], dropped: Sequence[str] = ()
) -> web.StreamResponse:
    headers = {"x-request-id": hit.id, **found.headers}
    if dropped:
        headers["x-moongate-dropped"] = ",".join(dropped)
    return whole(200, _encode(said), headers)


def read_lookup(data: bytes) -> Lookup:
    """What a body of our own form asks for. Raises Refused naming the field."""
    obj = fields.parse(data)
    for name in fields.rest(obj, _KNOWN):
        raise Refused("unknown_parameter", safe_name(name))
    return _lookup(obj)


def _lookup(obj: dict[str, Any]) -> Lookup:
    """What is asked for, in either form."""
    query = (fields.string(obj, "query") or "").strip()
    if not query:
        raise fields.missing("query")
    if len(query) > QUERY_CHARS_MAX:
        raise fields.wrong_value("query", f"a text of at most {QUERY_CHARS_MAX} characters")
    return Lookup(
        query,
        fields.whole(obj, "max_results", RESULTS_MAX) or _RESULTS,
        fields.string(obj, "model") or "",
        fields.flag(obj, "pages") or False,
    )


def _usage(found: Found) -> dict[str, Any]:
    bill = found.bill
    return {
        "searches": bill.usage.searches,
        "cost": msgspec.Raw(nanos_to_usd(bill.cost_nanos).encode()),
        "cost_nanos": bill.cost_nanos,
    }
