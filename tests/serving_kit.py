"""A whole Moongate in the test's own loop, over real sockets on free loopback ports."""

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from moongate.access.keys import DEFAULT_ACCOUNT
from moongate.app import Application
from moongate.core.ports import Clock, Store, Upstream
from moongate.core.rows import UsageRow
from moongate.home import Home
from moongate.log import Log
from moongate.settings import load

ONE_UPSTREAM = """
[server]
port = 0
drain_s = 2

[[upstreams]]
name = "{kind}"
kind = "{kind}"
base_url = "{base_url}"
cache_probe = false
first_token_timeout_s = 5
idle_timeout_s = 5

[[models]]
id = "kimi-k2.5"
targets = [{{ upstream = "{kind}", model = "kimi-k2.5" }}]
price = {{ input = "0.48", cached = "0.10", output = "2.00", search = "0.005" }}
"""


@dataclass
class Served:
    app: Application
    url: str
    key: str
    http: aiohttp.ClientSession
    log: io.StringIO
    told: list[dict[str, object]] = field(default_factory=list)

    @property
    def port(self) -> int:
        return self.app.port

    async def post(self, body: Any, **headers: str) -> aiohttp.ClientResponse:
        head = {"authorization": f"Bearer {self.key}"} | headers
        return await self.http.post(f"{self.url}/chat/completions", json=body, headers=head)

    async def usage(self) -> list[UsageRow]:
        return await self.app.store.usage()

    async def wallet(self, account: str = DEFAULT_ACCOUNT) -> tuple[int, int]:
        row = await self.app.store.account(account)
        assert row is not None
        return row.posted_nanos, row.held_nanos

    async def quiet(self) -> None:
        """Wait until no hold is open."""
        async with asyncio.timeout(30):
            while await self.app.store.open_holds():
                await asyncio.sleep(0.01)

    async def rows(self, count: int) -> list[UsageRow]:
        """The usage rows, as soon as there are so many."""
        async with asyncio.timeout(30):
            while len(rows := await self.usage()) < count:
                await asyncio.sleep(0.005)
        return rows

    async def leave_in_wallet(self, nanos: int) -> None:
        """Take money out until ``nanos`` are left."""
        posted, _ = await self.wallet()
        tx = f"out-{posted}-{nanos}"
        assert await self.app.store.credit("default", nanos - posted, "refund", tx, 1)

    async def sound(self) -> None:
        assert await self.app.store.audit() == []
        assert (await self.wallet())[1] == 0


@contextlib.asynccontextmanager
async def serve(
    tmp_path: Path,
    config: str,
    *,
    store: Store | None = None,
    upstreams: Mapping[str, Upstream] | None = None,
    env: Mapping[str, str] | None = None,
    clock: Clock | None = None,
) -> AsyncIterator[Served]:
    """Start an application on ``config`` (TOML text), stop it in the end."""
    tmp_path.mkdir(parents=True, exist_ok=True)
    file = tmp_path / "moongate.toml"
    file.write_text(config)
    told: list[dict[str, object]] = []
    log = io.StringIO()
    app = Application(
        load(file, env or {}),
        Home(tmp_path / "home").open(),
        told.append,
        store=store,
        upstreams=upstreams,
        clock=clock,
        log=Log(log, as_json=True),
    )
    async with aiohttp.ClientSession() as http:
        try:
            await app.start()
            ready = next(event for event in told if event["event"] == "ready")
            # Only the first start on a store tells a key.
            key = next((event["key"] for event in told if event["event"] == "key"), "")
            yield Served(app, str(ready["api"]), str(key), http, log, told)
        finally:
            await app.close()


def ask(text: str = "Name three moons.", **more: Any) -> dict[str, Any]:
    return {"model": "kimi-k2.5", "messages": [{"role": "user", "content": text}], **more}
