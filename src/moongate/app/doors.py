"""The sockets: the port that clients call and the admin socket, opened, stopped and let go."""

import asyncio
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from aiohttp import web

from moongate.app.words import cannot_listen
from moongate.core.errors import ConfigurationError
from moongate.web.server import Door, Server

LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
_BACKLOG: Final = 1024
_LOOK_S: Final = 0.02


class Place(NamedTuple):
    """Which of a server's processes this is: the only one, unless a supervisor says otherwise.

    ``listening`` and ``admin`` are the sockets that all of them share: the supervisor keeps both,
    so whoever connects while a worker is gone is answered by another, or waits for the next.
    """

    number: int = 1
    of: int = 1
    listening: socket.socket | None = None
    admin: socket.socket | None = None

    @property
    def first(self) -> bool:
        """Whether this process does what a server does once, not once a worker."""
        return self.number == 1


def reserve(host: str, port: int) -> socket.socket:
    """Bind before anything slow: a taken port is said at once. Raises ConfigurationError."""
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise ConfigurationError(cannot_listen(host, port, error)) from None
    return listening


def reserve_admin(path: Path) -> socket.socket:
    """Bind the admin socket at ``path``: mode 0600, so only this user's commands reach it.

    Raises ConfigurationError.
    """
    with private(path):
        listening = socket.socket(socket.AF_UNIX)
        try:
            listening.bind(str(path))
        except OSError:
            listening.close()
            raise
    return listening


@contextmanager
def private(path: Path) -> Iterator[None]:
    """Make a unix socket at ``path`` with mode 0600. Raises ConfigurationError."""
    path.unlink(missing_ok=True)
    mask = os.umask(0o177)
    try:
        yield
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise ConfigurationError(f"The socket {path} cannot be made: {why}.") from None
    finally:
        os.umask(mask)


class _AdminSite(web.SockSite):
    """A site on a unix socket that is bound already."""

    async def start(self) -> None:
        await web.BaseSite.start(self)
        server = self._runner.server
        assert server is not None
        more: dict[str, Any] = {}
        if sys.version_info >= (3, 13):
            # From 3.13 on a loop unlinks the path when it stops to listen, for all that share it.
            more["cleanup_socket"] = False
        self._server = await asyncio.get_running_loop().create_unix_server(
            server, sock=self._sock, backlog=self._backlog, **more
        )


class Doors:
    """What listens. ``closing`` tells every answer to end its connection."""

    def __init__(self) -> None:
        self._open: list[tuple[Door, web.ServerRunner]] = []

    async def listen(self, door: Door, listening: socket.socket, host: str, port: int) -> None:
        """Serve ``door`` on a socket that was reserved. Raises ConfigurationError."""
        try:
            await web.SockSite(await self._runner(door), listening, backlog=_BACKLOG).start()
        except OSError as error:
            raise ConfigurationError(cannot_listen(host, port, error)) from None

    async def listen_admin(self, door: Door, listening: socket.socket) -> None:
        """Serve ``door`` on an admin socket that was reserved."""
        await _AdminSite(await self._runner(door), listening, backlog=_BACKLOG).start()

    async def stop(self) -> None:
        """Take no new connections from clients; the admin socket stays to the end."""
        for door, _ in self._open:
            door.closing = True
        for door, runner in self._open:
            for site in tuple(runner.sites) if not door.local else ():
                await site.stop()

    async def empty(self, patience_s: float) -> None:
        """Wait until no client is connected, at most so long.

        Meanwhile whoever asks once more on a connection that was kept is answered, and told that
        it ends; a connection that is closed at once may have a request on its way.
        """
        servers = [runner.server for door, runner in self._open if not door.local]
        for _ in range(round(patience_s / _LOOK_S)):
            if not any(server and server.connections for server in servers):
                return
            await asyncio.sleep(_LOOK_S)

    async def close(self) -> None:
        """End what is still connected and let the sockets go."""
        for _, runner in self._open:
            await runner.cleanup()

    async def _runner(self, door: Door) -> web.ServerRunner:
        runner = web.ServerRunner(Server(door), shutdown_timeout=1.0)
        await runner.setup()
        self._open.append((door, runner))
        return runner
