"""Search engines of the tests: one real HTTP server that speaks like SearXNG and like Tavily.

What it finds is said by ``pages``; ``trouble`` makes it fail in one of the ways of engines.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from moongate.upstream.scripted import ScriptedServer
from serving_kit import ONE_UPSTREAM

BUILTIN = {"type": "builtin_function", "function": {"name": "$web_search"}}
SEARCH_NANOS = 5_000_000


@dataclass
class Page:
    title: str
    url: str
    text: str
    published: str | None = None


MOONS = (
    Page("Moons of Mars", "https://example.org/mars", "Mars has two moons, Phobos and Deimos."),
    Page("Phobos", "https://example.org/phobos", "Phobos circles Mars.", "2026-01-05"),
)


@dataclass
class FakeEngine:
    """``asked`` are the queries that came; ``heads`` their headers."""

    pages: Callable[[str], tuple[Page, ...]] = lambda query: MOONS
    trouble: str = ""
    url: str = ""
    asked: list[str] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    heads: list[dict[str, str]] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Both dialects: SearXNG's is a GET, Tavily's a POST."""
        self.heads.append({name.lower(): value for name, value in request.headers.items()})
        tavily = request.method == "POST"
        body = await request.json() if tavily else dict(request.query)
        self.bodies.append(body)
        query = body["query" if tavily else "q"]
        self.asked.append(query)
        if self.trouble == "slow":
            await asyncio.sleep(30)
        if self.trouble.isdigit():
            return web.Response(status=int(self.trouble), text=f"no {query}")
        if self.trouble == "garbage":
            return web.Response(text=f"<html>{query}", content_type="text/html")
        if self.trouble == "shape":
            return web.json_response({"results": {"0": query}})
        if self.trouble == "huge":
            return web.Response(body=b" " * (5 * 2**20), content_type="application/json")
        date = "published_date" if tavily else "publishedDate"
        found = [
            {"title": p.title, "url": p.url, "content": p.text, date: p.published}
            for p in (() if self.trouble == "empty" else self.pages(query))
        ]
        return web.json_response({"query": query, "results": found})


@contextlib.asynccontextmanager
async def engine(**how: Any) -> AsyncIterator[FakeEngine]:
    """A search engine on a free port."""
    fake = FakeEngine(**how)
    app = web.Application()
    app.router.add_route("*", "/search", fake.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield fake
    finally:
        await runner.cleanup()


def config(base_url: str, search_url: str, *, kind: str = "vllm", name: str = "searxng") -> str:
    """One upstream, and an engine of the kind ``name``."""
    return ONE_UPSTREAM.format(kind=kind, base_url=base_url) + (
        f'\n[search]\nengine = "{name}"\nbase_url = "{search_url}"\npages = false\n'
    )


def call(query: str) -> str:
    """The script of a turn that searches."""
    return f"tool web_search {json.dumps({'query': query})}\nfinish tool_calls\n"


def told(message: dict[str, Any]) -> dict[str, Any]:
    """What a tool message of ours holds."""
    return json.loads(message["content"])


def bodies(upstream: ScriptedServer) -> list[dict[str, Any]]:
    """What the upstream was asked, in order."""
    return [one.body for one in upstream.requests if one.method == "POST"]
