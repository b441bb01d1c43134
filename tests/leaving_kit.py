"""A client that leaves: raw HTTP on a socket, cut in each way in which a connection can end."""

import asyncio
import json
import re
import socket
import struct
import time
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, Self

Mode = Literal["fin", "rst", "half-close"]
MODES: Final[tuple[Mode, ...]] = ("fin", "rst", "half-close")
_CONTENT: Final = re.compile(
    rb'"(?:content|reasoning_content|arguments)":"(?:[^"\\]|\\.)+"|"type":"function"'
)


class Place(Protocol):
    """A server, as a visitor sees it."""

    @property
    def port(self) -> int: ...
    @property
    def key(self) -> str: ...


@dataclass
class Visitor:
    """One request on a connection of its own, and what came back so far."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    got: bytes = b""

    @classmethod
    async def call(cls, served: Place, body: dict[str, Any], *, part: float = 1.0) -> Self:
        """Send a request, or the first ``part`` of its body."""
        line = socket.socket()
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)  # of one size on any machine
        line.setblocking(False)
        await asyncio.get_running_loop().sock_connect(line, ("127.0.0.1", served.port))
        reader, writer = await asyncio.open_connection(sock=line)
        payload = json.dumps(body).encode()
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n"
            f"content-type: application/json\r\nauthorization: Bearer {served.key}\r\n"
            f"content-length: {len(payload)}\r\n\r\n"
        )
        writer.write(head.encode() + payload[: int(len(payload) * part)])
        await writer.drain()
        return cls(reader, writer)

    async def read_chunks(self, count: int) -> None:
        """Read until so many pieces of content came."""
        async with asyncio.timeout(20):
            while len(_CONTENT.findall(self.got)) < count:
                piece = await self.reader.read(65536)
                assert piece, self.got
                self.got += piece

    async def read_all(self) -> bytes:
        """Read until the other side ends the connection or the answer."""
        async with asyncio.timeout(20):
            while not self.got.endswith((b"\r\n0\r\n\r\n", b"}")):
                piece = await self.reader.read(65536)
                if not piece:
                    break
                self.got += piece
        return self.got

    def leave(self, mode: Mode) -> float:
        """Go; returns when that was (monotonic seconds)."""
        if mode == "half-close":
            self.writer.write_eof()
        elif mode == "fin":
            self.writer.close()
        else:
            line = self.writer.get_extra_info("socket")
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.writer.transport.abort()
        return time.monotonic()

    def drop(self) -> None:
        """Let the socket go, left or not."""
        self.writer.transport.abort()
