"""Reading a request's body: bounded in size, time and rate, never decompressed, never on disk."""

import asyncio
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
            raise Refused("unsupported_media_type")


async def read(request: web.BaseRequest, limit: int) -> bytes:
    """The whole body (bytes). Raises Refused: 413 over ``limit`` while reading, 408 when too slow.

    A body may take ten seconds and one more for each KiB that has come.
    """
    declared = request.content_length
    if declared is not None and declared > limit:
        raise Refused("request_too_large", limit=limit)
    if request.headers.get("expect", "").lower() == "100-continue" and request.transport:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    if request.content.is_eof() and declared is not None:
        return request.content.read_nowait()  # all of it came with the head
    pieces: list[bytes] = []
    size = 0
    loop = asyncio.get_running_loop()
    start_s = loop.time()
    try:
        async with asyncio.timeout(GRACE_S) as patience:
            while piece := await request.content.readany():
                size += len(piece)
                if size > limit:
                    raise Refused("request_too_large", limit=limit)
                pieces.append(piece)
                patience.reschedule(start_s + GRACE_S + size / FLOOR_BYTES_PER_S)
    except TimeoutError:
        raise Refused("request_timeout") from None
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
