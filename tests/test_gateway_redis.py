"""A whole server that counts rates in Redis: it goes on without it, and tells its operator."""

import asyncio
from pathlib import Path

import pytest

from moongate.core.rows import Quota
from moongate.store.memory import MemoryStore
from moongate.upstream.scripted import ScriptedServer
from redis_kit import redis_server
from serving_kit import ONE_UPSTREAM, Served, ask, serve

pytestmark = pytest.mark.redis


async def left(served: Served) -> tuple[int, int]:
    """The status of a request, and how many of its key's requests it says are left."""
    response = await served.post(ask())
    return response.status, int(response.headers["x-ratelimit-remaining-requests"])


async def test_a_server_goes_on_without_redis_and_says_so(tmp_path: Path) -> None:
    with redis_server() as redis:
        async with (
            ScriptedServer("text Io") as scripted,
            serve(
                tmp_path,
                ONE_UPSTREAM.format(kind="moonshot", base_url=scripted.base_url)
                + f'\n[rates]\nredis_url = "{redis.url}"\n',
                store=MemoryStore(),
            ) as served,
        ):
            (key,) = [row for row in await served.app.store.keys() if row.name == "first"]
            assert await served.app.store.key_quota(key.id, Quota(rpm=60))
            assert await left(served) == (200, 59)
            redis.kill()
            assert await left(served) == (200, 58)
            assert b"\nmoongate_rates_degraded 1.0\n" in served.app.metrics.text()
            assert '"event":"rates_degraded","kind":"unreachable"' in served.log.getvalue()
            redis.start()
            async with asyncio.timeout(5):
                while '"event":"rates_shared"' not in served.log.getvalue():
                    await asyncio.sleep(0.05)
            assert b"\nmoongate_rates_degraded 0.0\n" in served.app.metrics.text()
            assert await left(served) == (200, 59), "a Redis that was killed forgot everything"
            await served.sound()
