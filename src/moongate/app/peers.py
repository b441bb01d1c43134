"""The workers of one server tell each other their metrics, so that whichever is asked tells of all.

Each writes its registry to whoever connects to its own unix socket in the home folder (mode 0600).
One that does not answer at once is left out, and the figures say of how many they are.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from moongate.app.doors import Place, private
from moongate.metrics import merged

PATIENCE_S: Final = 0.5


class Peers:
    """The workers beside this one. ``text`` gives this process's own registry."""

    def __init__(
        self, path: Callable[[int], Path], place: Place, text: Callable[[], bytes]
    ) -> None:
        self._path, self._place, self._text = path, place, text
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Answer the others. Raises ConfigurationError when the socket cannot be made."""
        if self._place.of > 1:
            path = self._path(self._place.number)
            with private(path):
                self._server = await asyncio.start_unix_server(self._answer, path)

    async def close(self) -> None:
        """Answer no more."""
        if self._server is not None:
            self._server.close()
            self._path(self._place.number).unlink(missing_ok=True)

    async def collect(self) -> bytes:
        """The registries of every worker that answers, as one, in Prometheus' text format."""
        if self._place.of == 1:
            return self._text()
        others = (n for n in range(1, self._place.of + 1) if n != self._place.number)
        told = await asyncio.gather(*(self._ask(self._path(number)) for number in others))
        return merged([self._text(), *filter(None, told)])

    async def _ask(self, path: Path) -> bytes:
        """What the worker at ``path`` tells; nothing when it does not answer in time."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                reader, writer = await asyncio.open_unix_connection(path)
                try:
                    return await reader.read()
                finally:
                    writer.close()
        except OSError:  # a timeout is one too
            return b""

    async def _answer(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            writer.write(self._text())
            await writer.drain()
        writer.close()
