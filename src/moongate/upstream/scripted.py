"""The scripted upstream: a real HTTP server on loopback that speaks Kimi's chat stream.

It is the fake of every HTTP upstream, for tests, docs and benchmarks. What it says stands in a
transcript (``transcript``), how it looks on the wire in ``frames``, what it would refuse in
``kimi_rules``; it shares no line with our own codecs. It remembers requests in memory, and
refuses to know who asks.

    async with ScriptedServer(transcript) as server:
        ...  # server.base_url, server.requests, server.violations

On a command line: ``python -m moongate.upstream.scripted FILE --port 0`` prints its address.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, Self

import msgspec
from aiohttp import web

from moongate.core.sealed import Sealed
from moongate.upstream.frames import Chaos, Frames, Look, shreds
from moongate.upstream.kimi_rules import KNOWN, complaints
from moongate.upstream.prompts import (
    Body,
    PrefixCache,
    Script,
    calls_before,
    prompt_tokens,
)
from moongate.upstream.transcript import Cut, Delay, Reply, Turn, parse

_BODY_BYTES_MAX: Final = 128 * 2**20
_GARBAGE: Final = b'data: {"choices":[{"delta":\xff\xfe]]\n\n'


class Seen(Sealed, frozen=True):
    """A request as it arrived. ``headers`` by lower-case name; ``at_s`` is monotonic time."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any
    at_s: float


class ScriptedServer:
    """Serves ``/v1/chat/completions`` and ``/v1/models`` from ``script`` on a free loopback port.

    ``script``: a transcript or turns (taken in order of arrival, the last one repeats), or a
    function from the request's JSON body to a turn or a transcript. ``chaos`` adds seeded trouble.
    ``cache`` reports repeated prompt prefixes as cached. ``api_key``: what it demands as bearer.
    ``rules``: check requests by Moonshot's rules into ``violations``; ``refuse``: answer those 400.

    ``requests``, ``violations`` (sentences), ``ignored`` (unknown field names), ``streams_open``
    and ``disconnects`` (monotonic seconds at which a client was seen to leave) tell what happened.
    """

    def __init__(
        self,
        script: Script = "text Hello.",
        *,
        look: Look | None = None,
        models: tuple[str, ...] = ("kimi-k2.5",),
        chaos: Chaos | None = None,
        cache: bool | PrefixCache = False,
        api_key: str | None = None,
        rules: bool = True,
        refuse: bool = False,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self._choose = _chooser(script)
        self._look = look or Look()
        self._models = models
        self._chaos = chaos
        self._cache = (PrefixCache() if cache is True else cache) or None
        self._api_key = api_key
        self._rules = rules
        self._refuse = refuse
        self._host = host
        self._port = port
        self._runner: web.AppRunner | None = None
        self.requests: list[Seen] = []
        self.violations: list[str] = []
        self.ignored: set[str] = set()
        self.disconnects: list[float] = []
        self.streams_open = 0
        self.base_url = ""

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Listen; ``base_url`` stands from here on. Raises OSError when the port is taken."""
        app = web.Application(client_max_size=_BODY_BYTES_MAX)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/v1/models", self._list)
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port)
        await site.start()
        port = self._runner.addresses[0][1]
        self.base_url = f"http://{self._host}:{port}/v1"

    async def close(self) -> None:
        """Stop listening and drop every stream."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def until(self, condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
        """Wait until ``condition`` holds, looking every 2 ms. Raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            while not condition():  # noqa: ASYNC110 - conditions are plain functions
                await asyncio.sleep(0.002)

    async def _list(self, request: web.Request) -> web.Response:
        self._note(request, None)
        if not self._allowed(request):
            return _refusal(401, "invalid_authentication_error", "Invalid Authentication")
        flags = {"supports_image_in": True, "supports_video_in": True, "supports_reasoning": True}
        data = [
            {"id": id, "object": "model", "created": self._look.created_s, "owned_by": "moonshot"}
            | {"context_length": 262_144}
            | flags
            for id in self._models
        ]
        return web.json_response({"object": "list", "data": data})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        try:
            raw = await request.read()
            body = msgspec.json.decode(raw)
        except msgspec.DecodeError:
            self._note(request, None)
            self.violations.append("the body is not JSON")
            return _refusal(400, "invalid_request_error", "Invalid request: not JSON")
        self._note(request, body)
        if not self._allowed(request):
            return _refusal(401, "invalid_authentication_error", "Invalid Authentication")
        if self._rules:
            found = complaints(body)
            self.violations.extend(found)
            self.ignored.update(set(body) - KNOWN if isinstance(body, dict) else ())
            if found and self._refuse:
                return _refusal(400, "invalid_request_error", f"Invalid request: {found[0]}")
        turn = self._choose(body)
        self.streams_open += 1
        try:
            return await self._answer(request, body, turn, len(self.requests))
        except asyncio.CancelledError:
            self._left()
            raise
        except ConnectionError:
            self._left()
            return web.Response()
        finally:
            self.streams_open -= 1

    async def _answer(
        self, request: web.Request, body: Body, turn: Turn, number: int
    ) -> web.StreamResponse:
        await _pause(turn.hold_s)
        if turn.reply is not None:
            return _reply(request, turn.reply)
        response = web.StreamResponse(
            headers={
                "content-type": "text/event-stream; charset=utf-8",
                "cache-control": "no-cache",
                "msh-request-id": f"scripted-{number}",
            }
        )
        await response.prepare(request)
        async for data in self._wire(request, body, turn, number):
            await response.write(data)
        if request.transport is None or request.transport.is_closing():
            return response
        await response.write_eof()
        return response

    async def _wire(
        self, request: web.Request, body: Body, turn: Turn, number: int
    ) -> AsyncIterator[bytes]:
        """The bytes of a turn at their times, with the trouble that chaos adds."""
        dice = self._chaos.dice(number) if self._chaos else None
        due_s = time.monotonic()
        for item in self._frames(request, body).write(turn.steps):
            if isinstance(item, Cut):
                _cut(request)
                return
            if isinstance(item, Delay):
                # Kept to a schedule, so that a paced story does not drift.
                due_s = max(due_s, time.monotonic() - 1.0) + (item.seconds or 0.0)
                await _pause(None if item.seconds is None else due_s - time.monotonic())
                continue
            if self._chaos is None or dice is None:
                yield item
                continue
            if dice.random() < self._chaos.delay:
                await asyncio.sleep(dice.random() * self._chaos.delay_s)
            if dice.random() < self._chaos.garbage:
                yield _GARBAGE
            if dice.random() < self._chaos.cut:
                _cut(request)
                return
            for piece in shreds(item, dice) if self._chaos.shred else (item,):
                yield piece
                await asyncio.sleep(0)

    def _frames(self, request: web.Request, body: Body) -> Frames:
        cached = 0
        prompt = prompt_tokens(body)
        if self._cache is not None:
            credential = request.headers.get("authorization", "")
            cached = min(self._cache.cached(credential, body), prompt - 1)
        options = body.get("stream_options")
        return Frames(
            self._look,
            prompt=prompt,
            cached=cached,
            include_usage=isinstance(options, dict) and options.get("include_usage") is True,
            calls_before=calls_before(body),
        )

    def _left(self) -> None:
        """A client is gone; those that we drop while closing do not count."""
        if self._runner is not None:
            self.disconnects.append(time.monotonic())

    def _note(self, request: web.Request, body: Any) -> None:
        headers = {name.lower(): value for name, value in request.headers.items()}
        seen = Seen(request.method, request.path, headers, body, time.monotonic())
        self.requests.append(seen)

    def _allowed(self, request: web.Request) -> bool:
        wanted = self._api_key
        return wanted is None or request.headers.get("authorization") == f"Bearer {wanted}"


def _chooser(script: Script) -> Callable[[Body], Turn]:
    if callable(script):
        chosen = script

        def choose(body: Body) -> Turn:
            turn = chosen(body)
            return parse(turn)[0] if isinstance(turn, str) else turn

        return choose
    turns = parse(script) if isinstance(script, str) else script
    left = list(turns)
    return lambda _body: left.pop(0) if len(left) > 1 else left[0]


async def _pause(seconds: float | None) -> None:
    if seconds is None:
        await asyncio.Event().wait()
    elif seconds > 0:
        await asyncio.sleep(seconds)


def _cut(request: web.Request) -> None:
    """Break the connection. What was written before is on its way."""
    if request.transport is not None:
        request.transport.abort()


def _reply(request: web.Request, reply: Reply) -> web.Response:
    if reply.status == 0:
        _cut(request)
        return web.Response()
    headers = {"content-type": reply.content_type}
    if reply.retry_after is not None:
        headers["retry-after"] = reply.retry_after
    return web.Response(status=reply.status, body=reply.body.encode(), headers=headers)


def _refusal(status: int, kind: str, message: str) -> web.Response:
    body = json.dumps({"error": {"message": message, "type": kind}})
    return web.Response(status=status, text=body, content_type="application/json")


if __name__ == "__main__":
    from moongate.upstream.scripted_main import main

    main()
