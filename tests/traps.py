"""A network of traps: in a namespace of its own every address there is leads to our own server.

Run as a program it enters the namespace, lets a fetcher loose on every form of ``ssrf_forms`` and
prints which addresses were connected to. Which fetcher is its argument: ``guarded`` is the real
one; ``open`` is the real one without its judgement of addresses; ``naive`` is a client that looks
names up once to check them, and then connects by itself; ``own`` asks for an address of the
machine's own that is public, guarded and open.
"""

import asyncio
import ctypes
import json
import os
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp

from media_kit import FakeDNS
from moongate.core.errors import FetchError
from moongate.media.addresses import parse, public
from moongate.media.fetch import Fetcher
from ssrf_forms import DIRECT, FORMS, HOST, NAMES, PUBLIC, REBOUND, REDIRECTS

_NEWUSER, _NEWNET = 0x1000_0000, 0x4000_0000
_ROUTE_LOCAL, _TABLE_LOCAL, _SCOPE_HOST, _SCOPE_ALL = 2, 255, 254, 0


def enter() -> None:
    """A network namespace with a loopback of its own, where this process is root."""
    user, group = os.getuid(), os.getgid()
    if ctypes.CDLL(None, use_errno=True).unshare(_NEWUSER | _NEWNET):
        raise OSError(ctypes.get_errno(), "no namespace")
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"0 {user} 1"),
        ("gid_map", f"0 {group} 1"),
    ):
        Path(f"/proc/self/{name}").write_text(text, "ascii")
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as netlink:
        _tell(netlink, 16, 0, struct.pack("=BxHiII", 0, 0, 1, 1, 1))  # the loopback is up


def every_address_is_here() -> None:
    """The whole internet, both versions, is delivered to this namespace's loopback."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as netlink:
        for family, scope in ((socket.AF_INET, _SCOPE_HOST), (socket.AF_INET6, _SCOPE_ALL)):
            route = struct.pack(
                "=BBBBBBBBI", family, 0, 0, 0, _TABLE_LOCAL, 3, scope, _ROUTE_LOCAL, 0
            )
            _tell(netlink, 24, 0x600, route + struct.pack("=HHI", 8, 4, 1))


def have(address: str) -> None:
    """Give the loopback one more address."""
    raw = socket.inet_aton(address)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as netlink:
        body = struct.pack("=BBBBI", socket.AF_INET, 32, 0, 0, 1)
        _tell(netlink, 20, 0x600, body + struct.pack("=HH", 8, 2) + raw)


def _tell(netlink: socket.socket, kind: int, flags: int, body: bytes) -> None:
    netlink.send(struct.pack("=IHHII", 16 + len(body), kind, 5 | flags, 1, 0) + body)
    error = struct.unpack("=i", netlink.recv(4096)[16:20])[0]
    if error:
        raise OSError(-error, "netlink")


class Traps:
    """Servers on every address at the ports that may be asked; who was reached is noted."""

    def __init__(self) -> None:
        self.reached: list[str] = []
        self.servers: list[asyncio.Server] = []

    async def open(self) -> None:
        for where in ("0.0.0.0", "::"):
            for port in (22, 80, 443, 6379, 8000, 8443):
                self.servers.append(await asyncio.start_server(self._meet, where, port))

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reached.append(writer.get_extra_info("sockname")[0])
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            head = await reader.readuntil(b"\r\n\r\n")
            target = head.split(b" ")[1].decode()
            if target.startswith("/to?"):
                place = REDIRECTS[int(target[4:])]
                answer = f"HTTP/1.1 302 Found\r\nLocation: {place}\r\nContent-Length: 0\r\n\r\n"
            else:
                answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
            writer.write(answer.encode())
            await writer.drain()
        writer.close()

    def inside(self) -> list[str]:
        """Connections to what is not public."""
        return [address for address in self.reached if address not in PUBLIC]


class NaiveResolver(aiohttp.abc.AbstractResolver):
    """What a client without our care does: it looks names up by itself."""

    def __init__(self, dns: FakeDNS) -> None:
        self._dns = dns

    async def resolve(self, host: str, port: int = 0, family: Any = 0) -> Any:
        found = await self._dns(host) or [
            str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        ]
        versions = {4: socket.AF_INET, 6: socket.AF_INET6}
        return [
            {"hostname": host, "host": str(a), "port": port, "proto": 6, "flags": 0,
             "family": versions[a.version]}
            for text in found if (a := parse(text)) is not None
        ]  # fmt: skip

    async def close(self) -> None:
        pass


async def naively(url: str, dns: FakeDNS) -> None:
    """Look the name up, see that it is public, then let the client connect."""
    name = url.partition("//")[2].partition("/")[0]
    if name in REBOUND and not all(public(parse(text)) for text in await dns(name)):
        return
    connector = aiohttp.TCPConnector(resolver=NaiveResolver(dns), use_dns_cache=False)
    timeout = aiohttp.ClientTimeout(total=1)
    async with (
        aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
        session.get(url) as response,
    ):
        await response.read()


async def loose(which: str) -> dict[str, Any]:
    dns = FakeDNS({**NAMES, **REBOUND})
    traps = Traps()
    await traps.open()
    permits = public if which == "guarded" else lambda address: True
    # Every address is this machine's own here, so that check has a test of its own.
    fetcher = Fetcher(resolve=dns, permits=permits)
    outcomes: dict[str, str] = {}
    for url in (*FORMS, *(f"http://{name}/" for name in REBOUND)):
        try:
            if which == "naive":
                await naively(url, dns)
            else:
                await fetcher.fetch(url, total_s=2)
            outcomes[url] = "fetched"
        except FetchError as error:
            outcomes[url] = f"{type(error).__name__} {error.kind}"
        except (aiohttp.ClientError, OSError, ValueError, AssertionError) as error:
            outcomes[url] = type(error).__name__
    return {"inside": traps.inside(), "reached": traps.reached, "outcomes": outcomes}


async def own() -> dict[str, Any]:
    traps = Traps()
    await traps.open()
    asked: dict[str, Callable[..., Any]] = {
        "guarded": Fetcher,
        "open": lambda: Fetcher(permits=public),
    }
    for word, make in asked.items():
        before = len(traps.reached)
        with suppress(FetchError):
            await make().fetch("http://8.8.4.4/", total_s=2)
        asked[word] = len(traps.reached) - before  # type: ignore[assignment]  # its count from here
    return dict(asked)


def main() -> None:
    which = sys.argv[1]
    try:
        enter()
        have("8.8.4.4") if which == "own" else every_address_is_here()
    except OSError as error:
        print(json.dumps({"unable": f"{error.strerror}"}))
        return
    found = asyncio.run(own() if which == "own" else loose(which))
    print(
        json.dumps(
            {**found, "forms": len(FORMS) + len(REBOUND), "direct": len(DIRECT), "host": HOST}
        )
    )


if __name__ == "__main__":
    main()
