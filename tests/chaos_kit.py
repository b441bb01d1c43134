"""A TCP proxy on loopback that fails on command: what networks and servers do to a connection.

``Chaos(port)`` stands before a server; clients talk to its own ``port``. Each trouble is an
attribute that acts on connections there are and on those to come, until it is mended:

- ``delay_s``: every piece is late by so much, in both directions;
- ``rate``: so many bytes a second at most, in each direction;
- ``blackhole``: pieces vanish both ways, and nobody is told;
- ``deaf``: pieces from the server vanish, those to it arrive;
- ``refuse``: new connections are reset at once.

``reset()``, ``finish()`` and ``half_close()`` cut what is connected: with RST, with FIN on both
sides, with FIN towards the server alone. ``eat(after)`` lets the next piece of a client's that
contains ``after`` pass, loses every answer from then on, and resets its connection.
"""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

PIECE = 65_536


class Leg:
    """One client's connection: its own socket's streams and those to the server."""

    def __init__(
        self,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self.client, self.server = client, server
        self.dumb = False  # the server's answers are lost

    def reset(self) -> None:
        for _, writer in (self.client, self.server):
            hang_up(writer)

    def finish(self) -> None:
        for _, writer in (self.client, self.server):
            writer.close()


def hang_up(writer: asyncio.StreamWriter) -> None:
    """Close with RST: whatever is under way is lost."""
    sock = writer.get_extra_info("socket")
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class Chaos:
    """The proxy; see the module's own words."""

    def __init__(self, server_port: int, host: str = "127.0.0.1") -> None:
        self._to = (host, server_port)
        self.port = 0
        self.delay_s = 0.0
        self.rate: int | None = None
        self.blackhole = self.deaf = self.refuse = False
        self.legs: set[Leg] = set()
        self.accepted = 0
        self.eaten = 0
        self._bait: bytes | None = None
        self._listener: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._listener = await asyncio.start_server(self._meet, "127.0.0.1", self.port)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Cut everything and stop."""
        assert self._listener is not None
        self._listener.close()
        self.reset()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def mend(self) -> None:
        """No trouble for what comes from now on."""
        self.delay_s, self.rate, self._bait = 0.0, None, None
        self.blackhole = self.deaf = self.refuse = False

    def reset(self) -> None:
        for leg in list(self.legs):
            leg.reset()

    def finish(self) -> None:
        for leg in list(self.legs):
            leg.finish()

    def half_close(self) -> None:
        for leg in list(self.legs):
            with suppress(OSError):
                leg.server[1].write_eof()

    def eat(self, after: bytes) -> None:
        """The next request that contains ``after`` is carried out, and its answer lost."""
        self._bait = after

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        if self.refuse:
            hang_up(writer)
            return
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            leg = Leg((reader, writer), await asyncio.open_connection(*self._to))
        except OSError:
            hang_up(writer)
            return
        self.legs.add(leg)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._carry(leg, up=True))
                both.create_task(self._carry(leg, up=False))
        except* OSError:
            leg.reset()
        finally:
            self.legs.discard(leg)
            leg.finish()

    async def _carry(self, leg: Leg, *, up: bool) -> None:
        reader = (leg.client if up else leg.server)[0]
        writer = (leg.server if up else leg.client)[1]
        while piece := await reader.read(PIECE):
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            if self.rate:
                await asyncio.sleep(len(piece) / self.rate)
            if up and self._bait is not None and self._bait in piece:
                self._bait, leg.dumb = None, True
            if not up and leg.dumb:
                # The server has answered: it is done there. Nobody will hear of it.
                self.eaten += 1
                leg.reset()
                return
            if self.blackhole or (self.deaf and not up):
                continue
            writer.write(piece)
            await writer.drain()
        with suppress(OSError):
            writer.write_eof()


@asynccontextmanager
async def chaos(server_port: int) -> AsyncIterator[Chaos]:
    """A proxy before ``server_port`` for the length of a block."""
    proxy = Chaos(server_port)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.close()
