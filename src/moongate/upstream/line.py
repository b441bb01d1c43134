"""One HTTP reply being read: its bytes as they come, a limit on silence, and an end that is felt.

A single timer watches a whole stream: it looks when the limit would be over and, where bytes
moved the limit on, looks again later. (A timer for each read was a seventh of a stream's cost.)
It refuses to know what the bytes say.
"""

import asyncio
from typing import Final

import aiohttp

from moongate.core.errors import UpstreamProtocolError, UpstreamTimeout

REFUSAL_TIMEOUT_S: Final = 5.0
LINGER_S: Final = 0.25


class Line:
    """The connection under ``response``. ``deadline_s`` is loop time, for the first token.

    At most ``bytes_max`` bytes are read. Call :meth:`drop` at the end, whatever happened.
    """

    def __init__(self, response: aiohttp.ClientResponse, deadline_s: float, bytes_max: int) -> None:
        self._response = response
        self._loop = asyncio.get_running_loop()
        self._deadline_s = deadline_s
        self._left = bytes_max
        self._silence = "first_token"
        self._over = False
        self._timer = self._loop.call_at(deadline_s, self._look)

    def heard(self, idle_timeout_s: float) -> None:
        """An event came: from now on silence may last ``idle_timeout_s`` seconds."""
        self._deadline_s = self._loop.time() + idle_timeout_s
        if self._silence != "idle":
            self._silence = "idle"
            self._timer.cancel()
            self._timer = self._loop.call_at(self._deadline_s, self._look)

    async def read(self) -> bytes:
        """The next bytes, empty at the end.

        Raises UpstreamTimeout after too long a silence and UpstreamProtocolError when the
        connection broke or the reply is too large.
        """
        try:
            data = await self._response.content.readany()
        except aiohttp.ClientError:
            if self._over:
                raise UpstreamTimeout(self._silence) from None
            raise UpstreamProtocolError("cut") from None
        if self._over:
            raise UpstreamTimeout(self._silence)
        self._left -= len(data)
        if self._left < 0:
            raise UpstreamProtocolError("too_large")
        return data

    async def linger(self) -> None:
        """After the end mark: a moment for the reply to end, so that its connection is kept."""
        if self._response.content.at_eof():
            return
        try:
            async with asyncio.timeout(LINGER_S):
                await self._response.content.readany()
        except (aiohttp.ClientError, TimeoutError):
            return  # the answer is whole; only the connection is lost

    def drop(self) -> None:
        """Stop watching, and break a connection that was not read to its end."""
        self._timer.cancel()
        self._abort()
        self._response.close()

    def _look(self) -> None:
        if self._loop.time() < self._deadline_s:
            self._timer = self._loop.call_at(self._deadline_s, self._look)
            return
        self._over = True
        self._abort()

    def _abort(self) -> None:
        connection = self._response.connection
        if connection is not None and connection.transport is not None:
            connection.transport.abort()


async def short_body(response: aiohttp.ClientResponse, bytes_max: int) -> bytes:
    """The first ``bytes_max`` bytes of a reply, or what came of them within 5 s."""
    pieces: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(REFUSAL_TIMEOUT_S):
            while size < bytes_max and (piece := await response.content.readany()):
                pieces.append(piece)
                size += len(piece)
    except (aiohttp.ClientError, TimeoutError):
        return b"".join(pieces)[:bytes_max]  # the status speaks for itself
    return b"".join(pieces)[:bytes_max]
