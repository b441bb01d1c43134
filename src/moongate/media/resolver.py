"""Names to addresses, by the machine's own resolver, in threads of its own and within a time."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from moongate.core.errors import FetchFailed

Resolve = Callable[[str], Awaitable[Sequence[str]]]
"""A host name (ASCII, no trailing dot) to its addresses as text. Raises FetchFailed."""

TIMEOUT_S: Final = 5.0
_THREADS: Final = 8


class SystemResolver:
    """``getaddrinfo``. A lookup that hangs keeps a thread of ours, never one of the server's."""

    def __init__(self, timeout_s: float = TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="resolver")

    async def __call__(self, host: str) -> Sequence[str]:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeout_s):
                return await loop.run_in_executor(self._pool, look_up, host)
        except TimeoutError:
            raise FetchFailed("name_timeout") from None
        except (OSError, UnicodeError):
            raise FetchFailed("name") from None


def look_up(host: str) -> list[str]:
    """The addresses of ``host``, asked for as a whole name so that no search domain is added.

    An address with a scope keeps it, which makes it none that may be connected to.
    Raises OSError.
    """
    found: dict[str, None] = {}
    for *_, where in socket.getaddrinfo(f"{host}.", None, type=socket.SOCK_STREAM):
        scope = where[3] if len(where) == 4 else 0
        text = str(where[0])
        found[f"{text}%{scope}" if scope and "%" not in text else text] = None
    return list(found)
