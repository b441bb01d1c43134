"""The store's price rows and its time, read again and again: every worker charges by a new price.

The worker that writes a row has it at once; the others within a second. A store that cannot be
read leaves the rows that are known: prices are never guessed, and a request pins its version.
"""

import asyncio
from contextlib import suppress
from typing import Final

from moongate.app.clock import StoreClock
from moongate.core.errors import LedgerUnavailable
from moongate.core.ports import Store
from moongate.route.catalog import Catalog

EVERY_S: Final = 0.8


async def keep_prices(
    store: Store, catalog: Catalog, clock: StoreClock, every_s: float = EVERY_S
) -> None:
    """Give ``catalog`` the store's price rows and ``clock`` its time again and again, for ever."""
    while True:
        await asyncio.sleep(every_s)
        with suppress(LedgerUnavailable):
            await clock.follow(store)
            catalog.reprice(await store.prices())
