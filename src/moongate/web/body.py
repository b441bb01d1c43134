"""Reading a request's body: bounded in size, time and rate, never decompressed, never on disk.

Bytes are admitted before they are kept: all at once where the client says how many will come, else
as they come. What is not admitted stays in the socket.
"""

import asyncio
import io
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from moongate.core.errors import Refused

GRACE_S: Final = 10.0
FLOOR_BYTES_PER_S: Final = 1024


def check_head(request: web.BaseRequest, *, json: bool) -> None:
    """Refuse what must not be read: a compressed body (415), another type than JSON (415)."""
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.strip().lower() not in ("identity", ""):
        raise Refused("unsupported_content_encoding")
    if json:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json" and not (kind.startswith("application/") and "+json" in kind):
            raise Refused("unsupported_media_type", wanted="application/json")


def welcome(request: web.BaseRequest) -> None:
    """Tell a client to go on that asked whether its body may come."""
    if request.headers.get("expect", "").lower() == "100-continue" and request.transport:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


async def freely(count: int) -> None:
    """Admit bytes of a body that is small."""


async def read(
    request: web.BaseRequest, limit: int, admit: Callable[[int], Awaitable[None]] = freely
) -> bytes:
    """The whole body (bytes). Raises Refused: 413 over ``limit`` while reading, 408 when too slow.

    ``admit`` takes so many bytes more in, and may wait for them or refuse. A body may take ten
    seconds and one more for each KiB that has come.
    """
    declared = request.content_length
    if declared is not None:
        if declared > limit:
            raise Refused("request_too_large", limit=limit)
        await admit(declared)
    welcome(request)
    if request.content.is_eof() and declared is not None:
        return request.content.read_nowait()  # all of it came with the head
    kept = io.BytesIO()  # grows in place, and its value is no copy
    size = 0
    loop = asyncio.get_running_loop()
    start_s = loop.time()
    try:
        async with asyncio.timeout(GRACE_S) as patience:
            while piece := await request.content.readany():
                size += len(piece)
                if size > limit:
                    raise Refused("request_too_large", limit=limit)
                if declared is None:
                    patience.reschedule(None)
                    came_s = loop.time()
                    await admit(len(piece))
                    start_s += loop.time() - came_s  # no fault of the client's
                kept.write(piece)
                patience.reschedule(start_s + GRACE_S + size / FLOOR_BYTES_PER_S)
    except TimeoutError:
        raise Refused("request_timeout") from None
    return kept.getvalue()
