"""Top-ups over HTTP: a checkout that a key's holder opens, and the signed event that pays it in.

What is not configured has no handler here, so its route does not exist: without a webhook secret
there is nothing that could be told a payment.
"""

from typing import Final

import msgspec
from aiohttp import web

from moongate.admin.fields import Fields
from moongate.core.money import nanos_to_usd
from moongate.payments.checkout import Checkout
from moongate.payments.till import Till
from moongate.web import body
from moongate.web.reply import whole
from moongate.web.server import Handler, Hit
from moongate.wire import fields

EVENT_BYTES_MAX: Final = 256 << 10
_TOPUP_BYTES_MAX: Final = 4 << 10
_encode = msgspec.json.encode


class Paying:
    """The handlers of top-ups, as far as ``till`` and ``checkout`` are there."""

    def __init__(self, till: Till | None, checkout: Checkout | None) -> None:
        self._till, self._checkout = till, checkout

    def table(self) -> dict[str, Handler]:
        """Handler name -> handler."""
        table: dict[str, Handler] = {}
        if self._till is not None:
            table["stripe_event"] = self.stripe_event
        if self._checkout is not None:
            table["topup"] = self.topup
        return table

    async def topup(self, hit: Hit) -> web.StreamResponse:
        """``POST /v1/topups``: a hosted checkout for the key's account."""
        assert self._checkout is not None
        assert hit.principal is not None
        body.check_head(hit.request, json=True)
        asked = fields.parse(await body.read(hit.request, _TOPUP_BYTES_MAX))
        nanos = Fields(asked, ("usd",)).credit_nanos("usd")
        session = await self._checkout.open(hit.principal.account, nanos, hit.id)
        answer = {
            "object": "topup",
            "id": session.id,
            "url": session.url,
            "account": hit.principal.account,
            "amount_nanos": nanos,
            "amount_usd": nanos_to_usd(nanos),
        }
        return whole(200, _encode(answer), {"x-request-id": hit.id})

    async def stripe_event(self, hit: Hit) -> web.StreamResponse:
        """``POST /webhooks/stripe``: the till judges the signature over the very bytes."""
        assert self._till is not None
        body.check_head(hit.request, json=True)
        raw = await body.read(hit.request, EVENT_BYTES_MAX)
        signature = ",".join(hit.request.headers.getall("stripe-signature", []))
        taken = await self._till.take(signature, raw)
        return whole(200, _encode({"received": True, "result": taken}), {"x-request-id": hit.id})
