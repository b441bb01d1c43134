"""Chores: what a server does beside its requests, for as long as it runs.

Each says for itself what it bears (a store that is gone); what nobody thought of is told by type,
and the chore begins again a moment later. None may end in silence: without the sweep leases lapse,
without the rows prices grow old.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from moongate.ledger.sweep import Report

PAUSE_S: Final = 1.0


async def lasting(name: str, chore: Callable[[], Awaitable[None]], report: Report) -> None:
    """Do ``chore`` until it is done or cancelled, and again after each fault of its own."""
    while True:
        try:
            await chore()
        except Exception as error:  # noqa: BLE001 - whatever it is, the next turn must come
            report("fault", kind=name, error=type(error).__name__)
            await asyncio.sleep(PAUSE_S)
        else:
            return
