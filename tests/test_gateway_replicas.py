"""Two servers on one PostgreSQL store: rates hold for both together, changes within a second."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from moongate.app import Application
from moongate.core.rows import Quota
from moongate.home import Home
from moongate.settings import load
from moongate.upstream.scripted import ScriptedServer
from postgres_kit import database
from serving_kit import ONE_UPSTREAM, Served, ask, serve

pytestmark = pytest.mark.postgres


@asynccontextmanager
async def two(folder: Path) -> AsyncIterator[tuple[Served, Served]]:
    """Two servers with one store and one pepper; the second answers for the first's key."""
    async with ScriptedServer("text Io") as scripted:
        config = ONE_UPSTREAM.format(kind="moonshot", base_url=scripted.base_url)
        config += f'\n[store]\nurl = "{database()}"\n'
        for name in ("one", "two"):
            (folder / name).mkdir()
        async with serve(folder / "one", config) as first:
            other = Home(folder / "two" / "home").open()
            shutil.copy(first.app.home.pepper_file, other.pepper_file)
            told: list[dict[str, object]] = []
            app = Application(load(folder / "one" / "moongate.toml", {}), other, told.append)
            try:
                await app.start()
                url = next(str(event["api"]) for event in told if event["event"] == "ready")
                for each in (first.app, app):  # a busy machine is not what is tested
                    each.gateway.limits._counter._tick_s = 1  # type: ignore[attr-defined]  # a Ladder
                yield first, Served(app, url, first.key, first.http, first.log)
            finally:
                await app.close()


async def key(served: Served) -> str:
    (row,) = [row for row in await served.app.store.keys() if row.name == "first"]
    return row.id


async def test_both_together_admit_what_the_limit_says(tmp_path: Path) -> None:
    async with two(tmp_path) as (one, other):
        await one.app.store.key_quota(await key(one), Quota(rpm=6))
        asked = [(one, other)[n % 2].post(ask()) for n in range(18)]
        replies = await asyncio.gather(*asked)
        assert sorted(reply.status for reply in replies) == [200] * 6 + [429] * 12
        assert not one.app.gateway.limits.leases
        await one.sound()


async def test_a_changed_rate_and_a_revoked_key_hold_on_the_other_within_a_second(
    tmp_path: Path,
) -> None:
    async with two(tmp_path) as (one, other):
        reply = await other.post(ask())
        assert (reply.status, reply.headers.get("x-ratelimit-limit-requests")) == (200, None)
        await one.app.keys.limit(await key(one), Quota(rpm=60))
        await asyncio.sleep(1)
        reply = await other.post(ask())
        assert (reply.status, reply.headers["x-ratelimit-limit-requests"]) == (200, "60")
        assert await one.app.keys.revoke(await key(one))
        assert (await one.post(ask())).status == 401
        await asyncio.sleep(1)
        assert (await other.post(ask())).status == 401
