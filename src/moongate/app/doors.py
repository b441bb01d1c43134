"""The sockets: the port that clients call and the admin socket, opened, stopped and let go."""

import os
import socket
from pathlib import Path
from typing import Final

from aiohttp import web

from moongate.app.words import cannot_listen
from moongate.core.errors import ConfigurationError
from moongate.web.server import Door, Server

LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
_BACKLOG: Final = 1024


def reserve(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """Bind before anything slow, so that a taken port is said at once. Raises ConfigurationError.

    ``shared``: several processes of ours listen there, and the kernel spreads calls over them.
    """
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise ConfigurationError(cannot_listen(host, port, error)) from None
    return listening


class Doors:
    """What listens. ``closing`` tells every answer to end its connection."""

    def __init__(self, admin: Path) -> None:
        self._admin = admin
        self._open: list[tuple[Door, web.ServerRunner]] = []

    async def listen(self, door: Door, listening: socket.socket, host: str, port: int) -> None:
        """Serve ``door`` on a socket that was reserved. Raises ConfigurationError."""
        try:
            await web.SockSite(await self._runner(door), listening, backlog=_BACKLOG).start()
        except OSError as error:
            raise ConfigurationError(cannot_listen(host, port, error)) from None

    async def listen_admin(self, door: Door) -> None:
        """Serve the admin socket: mode 0600, so only this user's commands reach it."""
        runner = await self._runner(door)
        self._admin.unlink(missing_ok=True)
        mask = os.umask(0o177)
        try:
            await web.UnixSite(runner, str(self._admin)).start()
        except OSError as error:
            why = (error.strerror or "unknown error").lower()
            raise ConfigurationError(
                f"The admin socket {self._admin} cannot be made: {why}."
            ) from None
        finally:
            os.umask(mask)

    async def stop(self) -> None:
        """Take no new connections from clients; the admin socket stays to the end."""
        for door, _ in self._open:
            door.closing = True
        for door, runner in self._open:
            for site in tuple(runner.sites) if not door.local else ():
                await site.stop()

    async def close(self) -> None:
        """End what is still connected and let the sockets go."""
        for _, runner in self._open:
            await runner.cleanup()
        if any(door.local for door, _ in self._open):
            self._admin.unlink(missing_ok=True)

    async def _runner(self, door: Door) -> web.ServerRunner:
        runner = web.ServerRunner(Server(door), shutdown_timeout=1.0)
        await runner.setup()
        self._open.append((door, runner))
        return runner
