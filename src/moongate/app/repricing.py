"""The price rows in the store, read again and again, so that every worker charges by a new one.

The worker that writes a row has it at once; the others within ``EVERY_S``. A store that cannot be
read leaves the rows that are known: prices are never guessed, and a request pins its version.
"""

import asyncio
from contextlib import suppress
from typing import Final

from moongate.core.errors import LedgerUnavailable
from moongate.core.ports import Store
from moongate.route.catalog import Catalog

EVERY_S: Final = 1.0


async def keep_prices(store: Store, catalog: Catalog) -> None:
    """Give ``catalog`` the store's price rows every second, for ever."""
    while True:
        await asyncio.sleep(EVERY_S)
        with suppress(LedgerUnavailable):
            catalog.reprice(await store.prices())
