"""Several servers in the test's own process on one PostgreSQL store, with one pepper."""

import contextlib
import shutil
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from moongate.core.ports import Clock
from moongate.home import Home
from moongate.store.postgres import PostgresStore
from moongate.upstream.prompts import Script
from moongate.upstream.scripted import ScriptedServer
from postgres_kit import database
from serving_kit import ONE_UPSTREAM, Served, serve


@contextlib.asynccontextmanager
async def replicas(
    folder: Path,
    count: int,
    script: Script,
    *,
    clocks: Sequence[Clock | None] = (),
    more: str = "",
    url: str = "",
) -> AsyncIterator[tuple[list[Served], ScriptedServer]]:
    """So many servers; every one answers for the first one's key.

    They are patient with a database that shares this machine. ``more`` is configuration.
    """
    url = url or database()
    clocks = [*clocks, *[None] * (count - len(clocks))]
    async with ScriptedServer(script) as scripted, contextlib.AsyncExitStack() as stack:
        config = ONE_UPSTREAM.format(kind="moonshot", base_url=scripted.base_url)
        config += f'\n[store]\nurl = "{url}"\n{more}'
        servers: list[Served] = []
        for n, clock in enumerate(clocks):
            place = folder / str(n)
            place.mkdir()
            if servers:
                ours = Home(place / "home").open()
                shutil.copy(servers[0].app.home.pepper_file, ours.pepper_file)
            store = PostgresStore(url, patience_s=10.0)
            served = await stack.enter_async_context(serve(place, config, store=store, clock=clock))
            counter = served.app.gateway.limits._counter
            counter._tick_s = 1  # type: ignore[attr-defined]  # a busy machine is not what is tested
            served.key = served.key or servers[0].key
            servers.append(served)
        yield servers, scripted


async def first_key(served: Served) -> str:
    """The id of the key that every test uses."""
    (row,) = [row for row in await served.app.store.keys() if row.name == "first"]
    return row.id
