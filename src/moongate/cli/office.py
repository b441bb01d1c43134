"""An office over a store that this process opened itself, because no server runs."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from moongate.access.keys import Keys
from moongate.access.pepper import agree
from moongate.admin import Office
from moongate.app.parts import make_office, make_store, make_upstreams
from moongate.app.searches import Searches
from moongate.core.ports import SystemClock
from moongate.core.rows import PriceRow
from moongate.home import Home
from moongate.route.catalog import Catalog
from moongate.settings import Settings


@asynccontextmanager
async def opened(settings: Settings, home: Home, *, awake: bool) -> AsyncGenerator[Office, None]:
    """Open the store that ``settings`` name and yield an office over it.

    With ``awake`` remote upstreams may be looked at; the embedded engine is never started here.
    Raises ConfigurationError when the store cannot be opened, or a server has it.
    """
    home.open()
    clock = SystemClock()
    store = make_store(settings, home)
    pepper = home.pepper(settings.store.file(home.path))
    keys = Keys(store, pepper, clock)
    upstreams = make_upstreams(settings, home, lambda _: None, lambda *_, **__: None)
    searches = Searches(settings, pepper)
    serving = searches.around(upstreams)
    catalog = Catalog(
        settings.cards(), lambda name: serving[name].facts(), lambda _: True, clock,
        without=searches.without,
    )  # fmt: skip
    called = [up for up in upstreams.values() if awake and up.kind != "embedded"]
    await store.open()
    try:
        await agree(store, pepper, home.pepper_file)
        rows = await store.prices()
        # A price that no start has written yet is shown as the start will write it.
        known = {row.model for row in rows}
        seeds = settings.prices().items()
        rows += [PriceRow(0, name, price, 0) for name, price in seeds if name not in known]
        catalog.reprice(rows)
        for upstream in called:
            await upstream.start()
        yield make_office(settings, store, keys, clock, catalog, upstreams, pepper)
    finally:
        for upstream in called:
            await upstream.close()
        await store.close()
