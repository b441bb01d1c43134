"""Events as Stripe sends them, signed; and a store with one wallet to pay into."""

import asyncio
import json
from copy import deepcopy
from typing import Any, Self

from aiohttp import web

from moongate.core.ports import ManualClock
from moongate.core.rows import AccountRow
from moongate.payments.signature import sign
from moongate.payments.till import Till
from moongate.store.memory import MemoryStore

SECRET = "whsec_of_the_tests"
SESSION = {
    "id": "cs_test_a1",
    "object": "checkout.session",
    "mode": "payment",
    "payment_status": "paid",
    "status": "complete",
    "currency": "usd",
    "amount_subtotal": 2000,
    "amount_total": 2000,
    "client_reference_id": "acme",
    "metadata": {"account": "acme"},
    "payment_method_types": ["card"],
    "livemode": False,
}
EVENT = {
    "id": "evt_1",
    "object": "event",
    "type": "checkout.session.completed",
    "created": 1_769_472_000,
    "data": {"object": SESSION},
    "pending_webhooks": 1,
}


def event(**session: Any) -> dict[str, Any]:
    """The event with other words in its session; a value of ``...`` takes the field out."""
    made = deepcopy(EVENT)
    for name, value in session.items():
        if value is ...:
            del made["data"]["object"][name]
        else:
            made["data"]["object"][name] = value
    return made


def signed(made: Any, at_s: int, secret: str = SECRET) -> tuple[str, bytes]:
    """The header and the body of one delivery."""
    body = json.dumps(made, indent=2).encode()
    return sign(secret.encode(), body, at_s), body


class Shop:
    """A wallet ``acme`` with nothing in it, and a till."""

    def __init__(self) -> None:
        self.store, self.clock = MemoryStore(), ManualClock()
        self.said: list[tuple[str, dict[str, Any]]] = []
        self.till = Till(self.store, self.clock, self.report, secret=SECRET)

    def report(self, name: str, /, **fields: str | int | bool | None) -> None:
        self.said.append((name, dict(fields)))

    async def start(self) -> "Shop":
        await self.store.open()
        await self.store.account_create(AccountRow("acme", "wallet", 0, 0, 0, 0))
        return self

    @property
    def now_s(self) -> int:
        return self.clock.now_ms() // 1000

    async def take(self, made: Any) -> str:
        return await self.till.take(*signed(made, self.now_s))

    async def posted(self, account: str = "acme") -> int:
        row = await self.store.account(account)
        assert row is not None
        return row.posted_nanos


class Elsewhere:
    """A web server of somebody else's on loopback: it remembers requests and says ``replies``.

    A reply is (status, body); a number is seconds of silence before the next one. The last is
    said again and again.
    """

    def __init__(self, *replies: tuple[int, bytes] | float) -> None:
        self.replies = list(replies)
        self.heard: list[tuple[str, dict[str, str], bytes]] = []
        self.url = ""

    async def __aenter__(self) -> Self:
        self._runner = web.ServerRunner(web.Server(self._answer), shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.heard.append((request.path, headers, body))
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, float):
            await asyncio.sleep(reply)
            return web.Response(status=200)
        status, said = reply
        headers = {"location": f"{self.url}/moved"} if 300 <= status < 400 else {}
        return web.Response(status=status, body=said, headers=headers)
