"""Starting a server: alone in this process, or as a supervisor and its workers."""

import gc
import sys
from typing import Final

from moongate.app.parts import Announce
from moongate.app.running import in_loop, serve_alone
from moongate.app.supervisor import Supervisor
from moongate.core.errors import ConfigurationError
from moongate.home import Home
from moongate.log import Log
from moongate.settings import Settings

_SWITCH_S: Final = 0.002
"""How long a busy event loop may keep the interpreter from the store's writer thread, which asks
for it after every statement. Python's own 5 ms add up over a commit; much less costs the loop a
seventh of its speed in switches (measured)."""


def run(settings: Settings, home: Home, announce: Announce) -> int:
    """Serve until told to stop, in this process or in workers of it; returns the exit code.

    Raises ConfigurationError with a sentence for the operator when the start cannot go on.
    """
    sys.setswitchinterval(_SWITCH_S)
    gc.freeze()  # what is loaded by now stays: no collection need look at it again
    gc.set_threshold(20_000, 20, 20)
    if settings.store.file(home.path) is not None:
        if settings.server.workers > 1:
            raise ConfigurationError(
                "--workers above 1 needs a PostgreSQL store: set store.url in the configuration."
            )
        in_loop(serve_alone(settings, home, announce))
        return 0
    with home.occupied():  # a file has a lock of its own
        if settings.server.workers == 1:
            in_loop(serve_alone(settings, home, announce))
        else:
            Supervisor(settings, home, announce, Log()).run()
    return 0
