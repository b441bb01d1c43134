"""A worker: a forked process that serves, takes orders from its supervisor and tells it events.

Orders come through a pipe, not as signals, so that a Ctrl-C or a service manager that signals
every process of a group cannot be taken for a second order. The pipe's end is an order too: the
supervisor is gone, and a worker without one drains and leaves. SIGTERM to one worker drains it.
"""

import asyncio
import json
import os
import signal
from contextlib import suppress
from typing import Final

from moongate.app.doors import Place
from moongate.app.running import Orders, in_loop, serve
from moongate.core.errors import MoongateError
from moongate.home import Home
from moongate.log import Log
from moongate.settings import Settings

DRAIN: Final = b"d"
HURRY: Final = b"h"
FAILED: Final = 1


def work(settings: Settings, home: Home, place: Place, orders: int, told: int) -> int:
    """Serve as one of several workers; returns the exit code.

    ``orders`` and ``told`` are the pipes from and to the supervisor.
    """

    def announce(event: dict[str, object]) -> None:
        data = json.dumps(event, ensure_ascii=False).encode() + b"\n"
        with suppress(OSError):  # nobody listens any more: our orders say so as well
            while data:
                data = data[os.write(told, data) :]

    async def serving() -> None:
        loop, ours = asyncio.get_running_loop(), Orders()
        loop.add_signal_handler(signal.SIGTERM, ours.drain.set)
        loop.add_reader(orders, _take, orders, ours)
        await serve(settings, home, announce, ours, place)

    try:
        in_loop(serving())
    except MoongateError as error:
        announce({"event": "failed", "text": str(error)})
        return FAILED
    except Exception as error:  # noqa: BLE001 - a fault of ours is told by type, as everywhere
        Log().event("fault", worker=place.number, error=type(error).__name__)
        return FAILED
    return 0


def _take(pipe: int, orders: Orders) -> None:
    """Read an order; the end of the pipe is one to drain."""
    said = os.read(pipe, 16)
    orders.drain.set()
    if HURRY in said:
        orders.hurry.set()
    if not said:
        asyncio.get_running_loop().remove_reader(pipe)
