"""One JSON question to a search engine over HTTP: bounded in time and size, one word on failure.

The address is the operator's own and may be private; nothing that a client or a page says gets into
it but the query. No proxy variables, cookies or redirects. No text of the other side leaves it.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import aiohttp
import msgspec

from moongate.search.results import SearchFailed

TIMEOUT_S: Final = 10.0
BYTES_MAX: Final = 4 * 2**20
_WORDS: Final = {401: "refused", 402: "refused", 403: "refused", 429: "limited", 432: "limited"}


class Asking:
    """A connection pool to one engine. ``headers`` may hold its key: they are never shown."""

    def __init__(self, headers: Mapping[str, str], timeout_s: float = TIMEOUT_S) -> None:
        self._headers = dict(headers)
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None

    def __repr__(self) -> str:
        return "Asking()"

    async def start(self) -> None:
        """Open the pool."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=32),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
            trust_env=False,
            headers={
                "accept": "application/json", "accept-encoding": "identity",
                "user-agent": "moongate", **self._headers,
            },
        )  # fmt: skip

    async def close(self) -> None:
        """Close the pool."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def json(
        self, url: str, *, params: Mapping[str, str] | None = None, body: Any = None
    ) -> Any:
        """The JSON value at ``url``: a GET with ``params``, or a POST of ``body``.

        Raises SearchFailed.
        """
        if self._session is None:
            raise SearchFailed("not_started")
        data = None if body is None else msgspec.json.encode(body)
        headers = {} if body is None else {"content-type": "application/json"}
        method = "GET" if body is None else "POST"
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._session.request(
                    method, url, params=params, data=data, headers=headers, allow_redirects=False
                ) as answer,
            ):
                if answer.status != 200:
                    raise SearchFailed(_WORDS.get(answer.status, "status"))
                read = await _whole(answer)
        except TimeoutError:
            raise SearchFailed("slow") from None
        except (aiohttp.ClientError, OSError, ValueError):
            raise SearchFailed("down") from None
        try:
            return msgspec.json.decode(read)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            raise SearchFailed("malformed") from None


async def _whole(answer: aiohttp.ClientResponse) -> bytes:
    """The body, as far as its size is sane."""
    read = bytearray()
    async for piece in answer.content.iter_any():
        read += piece
        if len(read) > BYTES_MAX:
            raise SearchFailed("malformed")
    return bytes(read)
