"""The way back over aiohttp: a whole answer or an event stream, with bounded patience.

A client that reads nothing for ``SLOW_READER_S`` while its buffer is full counts as gone; the
buffer is aiohttp's high-water mark (64 KiB).
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from aiohttp import web

from moongate.core.errors import ClientLeft

SLOW_READER_S: Final = 30.0
_BACKED_UP_BYTES: Final = 32 * 1024
"""With less than this to send in all, a write does not wait, so it needs no timer."""

FIXED_HEADERS: Final = {
    "server": "moongate",
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
}
_STREAM_HEADERS: Final = {"content-type": "text/event-stream", "x-accel-buffering": "no"}


def whole(
    status: int,
    body: bytes,
    headers: Mapping[str, str] | None = None,
    content_type: str = "application/json",
) -> web.Response:
    """A response with a body in one piece and our fixed headers."""
    merged = {**FIXED_HEADERS, "content-type": content_type, **(headers or {})}
    return web.Response(status=status, body=body, headers=merged)


def shown(id: str, value: Any) -> web.Response:
    """``value`` as JSON, the answer to the request ``id``."""
    return whole(200, msgspec.json.encode(value), {"x-request-id": id})


class HttpReply:
    """The reply to one HTTP request; ``response`` is what the server hands back at the end."""

    def __init__(self, request: web.BaseRequest) -> None:
        self._request = request
        self._stream = web.StreamResponse()
        self.response: web.StreamResponse | None = None

    def __repr__(self) -> str:
        return "HttpReply()"

    async def begin(self, headers: Mapping[str, str]) -> None:
        self._stream = web.StreamResponse(headers={**FIXED_HEADERS, **_STREAM_HEADERS, **headers})
        self.response = self._stream
        try:
            await self._stream.prepare(self._request)
        except ConnectionError:
            raise ClientLeft from None

    async def write(self, data: bytes) -> None:
        transport = self._request.transport
        try:
            if transport is not None:
                to_send = transport.get_write_buffer_size() + len(data)
                if to_send < _BACKED_UP_BYTES:
                    await self._stream.write(data)
                    return
            async with asyncio.timeout(SLOW_READER_S):
                await self._stream.write(data)
        except TimeoutError:
            if transport is not None:
                transport.abort()
            raise ClientLeft from None
        except ConnectionError:
            raise ClientLeft from None

    async def send(
        self, status: int, headers: Mapping[str, str], body: bytes, *, close: bool = False
    ) -> None:
        self.response = whole(status, body, headers)
        if close:
            self.response.force_close()
