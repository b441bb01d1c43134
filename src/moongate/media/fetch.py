"""Fetching what a stranger names, without a way to the inside.

A name is resolved once; every address that it has must be public, and the connection goes to one
of exactly those: the client is given them instead of a resolver, and the place where sockets are
made looks at each address a last time, literal or not. A redirect is a new URL, read and checked
anew. No proxy, cookie, credential or referrer is used, nothing is decompressed, and time and size
are bounded while bytes come.

It does not know what it fetches. What it says of a failure is one word of ours.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Any, Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from moongate.core.errors import FetchFailed, UrlRefused
from moongate.core.sealed import Sealed
from moongate.media import addresses, urls
from moongate.media.addresses import Address
from moongate.media.resolver import Resolve, SystemResolver
from moongate.media.urls import Place

BYTES_MAX: Final = 16 << 20
TOTAL_S: Final = 20.0
REDIRECTS_MAX: Final = 3
_CONNECT_S: Final = 5.0
_SILENCE_S: Final = 10.0
_ADDRESSES_MAX: Final = 32
_PIECE_BYTES: Final = 1 << 16
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_AGENT: Final = "Mozilla/5.0 (compatible; Moongate)"


class Fetched(Sealed, frozen=True):
    """What came, from which URL in the end.

    ``content_type`` and ``charset`` are what its server called it.
    """

    data: bytes
    content_type: str
    url: str
    charset: str | None = None


def permitted(address: Address) -> bool:
    """Whether ``address`` may be connected to: it is public, and not this machine's own."""
    return addresses.public(address) and not addresses.ours(address)


class Fetcher:
    """Fetches over HTTP and HTTPS. ``resolve``, ``permits`` and ``ports`` are for tests.

    ``tls`` is for operators whose way out has certificates of its own.
    """

    def __init__(
        self,
        *,
        resolve: Resolve | None = None,
        permits: Callable[[Address], bool] = permitted,
        ports: frozenset[int] = urls.PORTS,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._resolve = resolve or SystemResolver()
        self._permits = permits
        self._ports = ports
        self._tls = tls

    async def fetch(
        self,
        url: str,
        *,
        bytes_max: int = BYTES_MAX,
        total_s: float = TOTAL_S,
        accept: str = "*/*",
    ) -> Fetched:
        """What is at ``url``: a 200 of at most ``bytes_max`` bytes, whole within ``total_s``.

        Raises UrlRefused and FetchFailed.
        """
        place = urls.read(url, self._ports)
        try:
            async with asyncio.timeout(total_s):
                for _ in range(REDIRECTS_MAX + 1):
                    found = await self._ask(place, bytes_max, accept)
                    if isinstance(found, Fetched):
                        return found
                    place = urls.follow(place, found, self._ports)
        except TimeoutError:
            raise FetchFailed("timeout") from None
        raise FetchFailed("redirects")

    async def _ask(self, place: Place, bytes_max: int, accept: str) -> Fetched | str:
        """One request; what came, or where it is said to be instead."""
        gate = _Gate(await self._addresses(place), place.port, self._permits)
        connector = aiohttp.TCPConnector(
            resolver=_Pinned(place.host, gate.allowed),
            socket_factory=gate.socket,
            use_dns_cache=False,
            force_close=True,
            ssl=True if self._tls is None else self._tls,
        )
        times = aiohttp.ClientTimeout(sock_connect=_CONNECT_S, sock_read=_SILENCE_S)
        headers = {"User-Agent": _AGENT, "Accept": accept, "Accept-Encoding": "identity"}
        try:
            async with (
                aiohttp.ClientSession(
                    connector=connector,
                    cookie_jar=aiohttp.DummyCookieJar(),
                    trust_env=False,
                    auto_decompress=False,
                    timeout=times,
                ) as session,
                session.get(place.url, headers=headers, allow_redirects=False) as response,
            ):
                return await _read(response, place, bytes_max)
        except TimeoutError:
            raise FetchFailed("timeout") from None
        except (aiohttp.ClientError, OSError, ValueError):
            if gate.closed:
                raise UrlRefused("address") from None
            raise FetchFailed("connection") from None

    async def _addresses(self, place: Place) -> tuple[Address, ...]:
        """Every address of ``place``, all of them permitted."""
        if place.literal is not None:
            found: list[Address | None] = [place.literal]
        else:
            told = await self._resolve(place.host)
            found = [addresses.parse(text) for text in told[:_ADDRESSES_MAX]]
        if not found:
            raise FetchFailed("name")
        allowed = tuple(a for a in found if a is not None and self._permits(a))
        if len(allowed) < len(found):
            raise UrlRefused("address")
        return allowed


class _Gate:
    """Where sockets are made: the last look at an address before it is connected to."""

    def __init__(
        self, allowed: Sequence[Address], port: int, permits: Callable[[Address], bool]
    ) -> None:
        self.allowed = tuple(allowed)
        self.closed = False
        self._port = port
        self._permits = permits

    def socket(self, about: tuple[Any, Any, int, str, Any]) -> socket.socket:
        """A socket for ``about``. Raises OSError where it may not be connected."""
        family, kind, protocol, _, where = about
        address = addresses.parse(str(where[0]))
        scoped = len(where) == 4 and where[3] != 0
        known = address in self.allowed and where[1] == self._port and not scoped
        if address is None or not known or not self._permits(address):
            self.closed = True
            raise OSError("not permitted")
        return socket.socket(family, kind, protocol)


class _Pinned(AbstractResolver):
    """Answers with the addresses that were checked, for the host that was checked, and no other."""

    def __init__(self, host: str, allowed: Sequence[Address]) -> None:
        self._host, self._allowed = host, allowed

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = [
            ResolveResult(
                hostname=host,
                host=str(address),
                port=port,
                family=socket.AF_INET if address.version == 4 else socket.AF_INET6,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for address in (self._allowed if host == self._host else ())
        ]
        if not found:
            raise OSError("another host")
        return [one for one in found if family in (socket.AF_UNSPEC, one["family"])]

    async def close(self) -> None:
        """Nothing is held."""


async def _read(response: aiohttp.ClientResponse, place: Place, bytes_max: int) -> Fetched | str:
    """The body, or the place of a redirect. Raises FetchFailed."""
    if response.status in _REDIRECTS:
        return response.headers.get("Location", "")
    if response.status != 200:
        raise FetchFailed("status")
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise FetchFailed("encoding")
    if (response.content_length or 0) > bytes_max:
        raise FetchFailed("size")
    pieces: list[bytes] = []
    size = 0
    async for piece in response.content.iter_chunked(_PIECE_BYTES):
        size += len(piece)
        if size > bytes_max:
            raise FetchFailed("size")
        pieces.append(piece)
    return Fetched(b"".join(pieces), response.content_type, str(place.url), response.charset)
