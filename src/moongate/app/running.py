"""Running one server in this process: orders, the drain, the end."""

import asyncio
import signal
import sys
from collections.abc import Coroutine
from typing import Any, Final

import uvloop

from moongate.app import memory
from moongate.app.application import Application
from moongate.app.doors import Place
from moongate.app.parts import Announce
from moongate.home import Home
from moongate.log import hush
from moongate.settings import Settings

SWITCH_S: Final = 0.0005
"""After so long a thread beside the event loop lets it go on: a tenth of Python's own figure."""


class Orders:
    """What a running server is told: to drain, and then to hurry."""

    def __init__(self) -> None:
        self.drain, self.hurry = asyncio.Event(), asyncio.Event()

    def stop(self) -> None:
        """Drain; told once more, hurry."""
        (self.hurry if self.drain.is_set() else self.drain).set()


async def serve(
    settings: Settings, home: Home, announce: Announce, orders: Orders, place: Place
) -> None:
    """Start, serve until told to drain, drain until told to hurry, stop."""
    app = Application(settings, home, announce, place=place)
    hush(app.log)
    ready = False
    try:
        starting = asyncio.create_task(app.start())
        stopped = asyncio.create_task(orders.drain.wait())
        await asyncio.wait([starting, stopped], return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
        await starting
        ready = True
        await stopped
        hurry = asyncio.create_task(orders.hurry.wait())
        draining = asyncio.create_task(app.drain())
        await asyncio.wait([hurry, draining], return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        pass
    finally:
        await app.close()
        if ready:
            announce({"event": "stopped"})


async def serve_alone(settings: Settings, home: Home, announce: Announce) -> None:
    """Serve until SIGTERM or SIGINT; a second one ends the drain."""
    orders, loop = Orders(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, orders.stop)
    await serve(settings, home, announce, orders, Place())


def in_loop(serving: Coroutine[Any, Any, None]) -> None:
    """Run ``serving`` to its end in an event loop of its own."""
    memory.keep()
    sys.setswitchinterval(SWITCH_S)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serving)
