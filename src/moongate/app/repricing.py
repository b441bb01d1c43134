"""The price rows in the store, read again and again, so that every worker charges by a new one.

The worker that writes a row has it at once; the others within a second. A store that cannot be
read leaves the rows that are known: prices are never guessed, and a request pins its version.
"""

import asyncio
from contextlib import suppress
from typing import Final

from moongate.core.errors import LedgerUnavailable
from moongate.core.ports import Store
from moongate.route.catalog import Catalog

EVERY_S: Final = 0.8


async def keep_prices(store: Store, catalog: Catalog, every_s: float = EVERY_S) -> None:
    """Give ``catalog`` the store's price rows again and again, for ever."""
    while True:
        await asyncio.sleep(every_s)
        with suppress(LedgerUnavailable):
            catalog.reprice(await store.prices())
