"""Running one server in this process: signals, the drain, the end."""

import asyncio
import gc
import signal
import sys

import uvloop

from moongate.app.application import Application
from moongate.app.parts import Announce
from moongate.home import Home
from moongate.log import hush
from moongate.settings import Settings


async def serve(settings: Settings, home: Home, announce: Announce) -> None:
    """Start, serve until SIGTERM or SIGINT, drain, stop. A second signal ends the drain."""
    app = Application(settings, home, announce)
    hush(app.log)
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    ready = False
    try:
        starting = asyncio.create_task(app.start())
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait([starting, stopped], return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
        await starting
        ready = True
        await stopped
        stop.clear()
        hurry = asyncio.create_task(stop.wait())
        draining = asyncio.create_task(app.drain())
        await asyncio.wait([hurry, draining], return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        pass
    finally:
        await app.close()
        if ready:
            announce({"event": "stopped"})


_SWITCH_S = 0.002
"""How long a busy event loop may keep the interpreter from the store's writer thread, which asks
for it after every statement. Python's own 5 ms add up over a commit; much less costs the loop a
seventh of its speed in switches (measured)."""


def run(settings: Settings, home: Home, announce: Announce) -> int:
    """Serve in this process until told to stop; returns the exit code.

    Raises ConfigurationError with a sentence for the operator when the start cannot go on.
    """
    sys.setswitchinterval(_SWITCH_S)
    gc.freeze()  # what is loaded by now stays: no collection need look at it again
    gc.set_threshold(20_000, 20, 20)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(settings, home, announce))
    return 0
