"""What each route answers. A paid request is handed to the gateway; the rest is read and shown."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec
from aiohttp import web

from moongate import __version__
from moongate.admin import Office
from moongate.core.errors import Refused
from moongate.core.ports import Codec, Store
from moongate.gateway import Gateway
from moongate.route.wish import HEADERS as WAYS
from moongate.search.desk import asked_by_client
from moongate.visit import Visit
from moongate.web import body
from moongate.web.billing import Billing
from moongate.web.cards import card, priced
from moongate.web.openapi import document
from moongate.web.reply import shown, whole
from moongate.web.server import Handler, Hit
from moongate.wire import fields

READY_S: Final = 0.25
"""How long the store may take to answer before we are not ready."""
_ADMIN_BYTES_MAX: Final = 1 << 20
_encode = msgspec.json.encode


class Handlers:
    """The handlers of every route, by the name that the route table gives."""

    def __init__(
        self,
        *,
        gateway: Gateway,
        codec: Codec,
        office: Office,
        store: Store,
        metrics: Callable[[], Awaitable[bytes]],
        body_bytes_max: int,
        draining: Callable[[], bool],
        policy: Mapping[str, Any],
    ) -> None:
        self._gateway, self._codec, self._office = gateway, codec, office
        self._store, self._collect = store, metrics
        self._body_bytes_max = body_bytes_max
        self._draining = draining
        self._policy = _encode(policy)

    def table(self) -> dict[str, Handler]:
        """Handler name -> handler."""
        return {
            "chat": self.chat,
            "estimate": self.estimate,
            "models": self.models,
            "model": self.model,
            "pricing": self.pricing,
            "data_policy": self.data_policy,
            "healthz": self.healthz,
            "readyz": self.readyz,
            "metrics": self.metrics,
            "openapi": self.openapi,
            "index": self.index,
            "admin": self.admin,
            **Billing(self._office.means).table(),
        }

    async def chat(self, hit: Hit) -> web.StreamResponse:
        """``POST /v1/chat/completions``: the gateway owns everything from here."""
        if hit.principal is not None and self._draining():
            raise Refused("draining", retry_after_s=1)  # the admin socket stays open to the end
        body.check_head(hit.request, json=True)
        visit = Visit(
            hit.id,
            hit.principal or hit.bearer(),
            lambda admit: body.read(hit.request, self._body_bytes_max, admit),
            hit.reply,
            hit.request.headers.get("idempotency-key"),
            {name: said for name in WAYS if (said := hit.request.headers.get(name)) is not None},
            searches=asked_by_client(hit.request.headers),
        )
        await self._gateway.handle(self._codec, visit)
        assert hit.reply.response is not None
        return hit.reply.response

    async def estimate(self, hit: Hit) -> web.StreamResponse:
        """``POST /v1/tokenizers/estimate-token-count``: Moonshot's shape."""
        body.check_head(hit.request, json=True)
        assert hit.principal is not None
        prompt = await self._gateway.estimate(
            self._codec,
            hit.id,
            hit.principal,
            lambda admit: body.read(hit.request, self._body_bytes_max, admit),
        )
        data = {"total_tokens": prompt.tokens}
        answer = {"code": 0, "data": data, "scode": "0x0", "status": True}
        exact = "true" if prompt.exact else "false"
        return whole(200, _encode(answer), {"x-request-id": hit.id, "x-moongate-exact": exact})

    async def models(self, hit: Hit) -> web.StreamResponse:
        """``GET /v1/models``."""
        offers = self._gateway.catalog.offers()
        allowed = hit.principal.models if hit.principal else ()
        cards = [card(offer) for offer in offers if not allowed or offer.card.id in allowed]
        return shown(hit.id, {"object": "list", "data": cards})

    async def model(self, hit: Hit) -> web.StreamResponse:
        """``GET /v1/models/{id}``, aliases included."""
        offer = self._gateway.catalog.offer(hit.rest)
        allowed = hit.principal.models if hit.principal else ()
        if allowed and offer.card.id not in allowed:
            raise Refused("model_not_found", "model")
        return shown(hit.id, card(offer))

    async def pricing(self, hit: Hit) -> web.StreamResponse:
        """``GET /v1/pricing``: public; out of the rows that this process charges by."""
        catalog = self._gateway.catalog
        rows = [priced(offer, catalog.upcoming(offer.card.id)) for offer in catalog.offers()]
        return shown(hit.id, {"object": "list", "data": rows})

    async def data_policy(self, hit: Hit) -> web.StreamResponse:
        """``GET /v1/data-policy``: public; what is kept, and where content may go."""
        return whole(200, self._policy, {"x-request-id": hit.id})

    async def healthz(self, hit: Hit) -> web.StreamResponse:
        """``GET /healthz``: the process runs."""
        return shown(hit.id, {"status": "ok", "version": __version__})

    async def readyz(self, hit: Hit) -> web.StreamResponse:
        """``GET /readyz``: new requests are welcome. 503 while draining or without a store."""
        if self._draining():
            raise Refused("draining", retry_after_s=1)
        try:
            async with asyncio.timeout(READY_S):
                await self._store.ping()
        except TimeoutError:
            raise Refused("ledger_unavailable", retry_after_s=1) from None
        return shown(hit.id, {"status": "ready"})

    async def metrics(self, hit: Hit) -> web.StreamResponse:
        """``GET /metrics`` in Prometheus' text format."""
        kind = "text/plain; version=0.0.4; charset=utf-8"
        return whole(200, await self._collect(), {"x-request-id": hit.id}, kind)

    async def openapi(self, hit: Hit) -> web.StreamResponse:
        """``GET /openapi.json``."""
        return shown(hit.id, document())

    async def index(self, hit: Hit) -> web.StreamResponse:
        """``GET /``: for whoever opens the address in a browser."""
        offers = self._gateway.catalog.offers()
        served = ", ".join(offer.card.id for offer in offers)
        text = (
            f"Moongate {__version__} is running. It serves: {served}.\n\n"
            "Point an OpenAI SDK at this address with /v1 behind it, with a key that\n"
            "`moongate keys create` gave you, or try:\n\n"
            "  curl THIS_ADDRESS/v1/chat/completions \\\n"
            '    -H "Authorization: Bearer YOUR_KEY" -H "Content-Type: application/json" \\\n'
            f'    -d \'{{"model":"{offers[0].card.id if offers else "MODEL"}",'
            '"messages":[{"role":"user","content":"Name three moons."}]}\'\n\n'
            "The interface for machines: /openapi.json\n"
        )
        return whole(200, text.encode(), {"x-request-id": hit.id}, "text/plain; charset=utf-8")

    async def admin(self, hit: Hit) -> web.StreamResponse:
        """``/admin/v1/…``: the operator's commands over HTTP."""
        payload: Any = {}
        if hit.request.method == "POST":
            raw = await body.read(hit.request, _ADMIN_BYTES_MAX)
            payload = fields.parse(raw) if raw else {}
        path = hit.route.path.partition("{")[0] + hit.rest
        query = dict(hit.request.query)
        status, answer = await self._office.dispatch(hit.request.method, path, query, payload)
        return whole(status, _encode(answer), {"x-request-id": hit.id})
