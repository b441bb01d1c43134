"""A fake DNS, and an HTTP server that redirects, stalls and floods, for what fetches."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

from aiohttp import web

from moongate.media.addresses import Address, public
from moongate.media.fetch import Fetcher


class FakeDNS:
    """Answers by name, one after the other; ``asked`` is what was looked up."""

    def __init__(self, names: Mapping[str, Sequence[Sequence[str]]]) -> None:
        self._names = names
        self.asked: list[str] = []

    async def __call__(self, host: str) -> Sequence[str]:
        before = self.asked.count(host)
        self.asked.append(host)
        answers = self._names.get(host, ((),))
        return answers[min(before, len(answers) - 1)]


class Site:
    """A web server on loopback. ``pages`` are what it answers, by path; ``seen`` what came."""

    def __init__(self) -> None:
        self.pages: dict[str, Any] = {}
        self.seen: list[web.Request] = []
        self.port = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(request)
        page = self.pages.get(request.path)
        if page is None:
            return web.Response(status=404)
        if callable(page):
            return await page(request)
        if isinstance(page, str):
            return web.Response(status=302, headers={"Location": page})
        return web.Response(body=page, content_type="image/png")

    def url(self, path: str, host: str = "site.example.com") -> str:
        return f"http://{host}:{self.port}{path}"

    def fetcher(self, **names: Sequence[str]) -> Fetcher:
        """A fetcher for which 127.0.0.1 at this port is the public internet."""
        told = {
            name.replace("_", ".").replace("..", "-"): (found,) for name, found in names.items()
        }
        dns = FakeDNS({"site.example.com": (("127.0.0.1",),), **told})
        return Fetcher(resolve=dns, permits=permits, ports=frozenset({self.port}))


def permits(address: Address) -> bool:
    return str(address) == "127.0.0.1" or public(address)


@asynccontextmanager
async def site() -> AsyncIterator[Site]:
    it = Site()
    runner = web.ServerRunner(web.Server(it.answer), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    tcp = web.TCPSite(runner, "127.0.0.1", 0)
    await tcp.start()
    it.port = runner.addresses[0][1]
    try:
        yield it
    finally:
        await runner.cleanup()


async def flood(request: web.Request) -> web.StreamResponse:
    """Bytes without an end, and no length told."""
    response = web.StreamResponse()
    await response.prepare(request)
    try:
        for _ in count():
            await response.write(b"x" * 65_536)
    except (ConnectionError, asyncio.CancelledError):
        pass
    return response


async def trickle(request: web.Request) -> web.StreamResponse:
    """A byte now and then: never silent for long, never done."""
    response = web.StreamResponse()
    await response.prepare(request)
    try:
        for _ in count():
            await response.write(b"x")
            await asyncio.sleep(0.02)
    except (ConnectionError, asyncio.CancelledError):
        pass
    return response
