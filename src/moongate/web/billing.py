"""What the holder of a key is told of their own money: receipts, usage, invoices, balance.

Everything is the key's account's; another's is as if it were not there. The figures are made by
the operator's operations; here they are only asked for and shown.
"""

import msgspec
from aiohttp import web

from moongate.access.keys import Principal
from moongate.admin import Means, balance, invoice, pages, receipts, usage
from moongate.admin.fields import Fields
from moongate.core.errors import Refused
from moongate.core.money import nanos_to_usd
from moongate.web.reply import shown, whole
from moongate.web.server import Handler, Hit

_FORMS = ("html", "json")


class Billing:
    """The handlers of these routes, over the office's means."""

    def __init__(self, means: Means) -> None:
        self._means = means

    def table(self) -> dict[str, Handler]:
        """Handler name -> handler."""
        return {
            "receipt": self.receipt,
            "receipt_key": self.receipt_key,
            "usage": self.usage,
            "invoice": self.invoice,
            "balance": self.balance,
        }

    async def receipt_key(self, hit: Hit) -> web.StreamResponse:
        """``GET /v1/receipts/key``: public."""
        return shown(hit.id, receipts.key_shape(self._means))

    async def receipt(self, hit: Hit) -> web.StreamResponse:
        """``GET /v1/receipts/{request}``."""
        account = _principal(hit).account
        return shown(hit.id, await receipts.signed(self._means, hit.rest, account))

    async def usage(self, hit: Hit) -> web.StreamResponse:
        """``GET /v1/usage``. An admin key may ask for another ``account``."""
        who, query = _principal(hit), dict(hit.request.query)
        account = query.get("account", who.account)
        known = account == who.account or (
            who.admin and await self._means.store.account(account) is not None
        )
        if not known:
            raise Refused("not_found", thing="account")
        return shown(hit.id, await usage.grouped(self._means, account, query))

    async def invoice(self, hit: Hit) -> web.StreamResponse:
        """``GET /v1/invoices/{month}``."""
        form = Fields(dict(hit.request.query), ("format",)).word("format", _FORMS)
        data = await invoice.of_month(self._means, _principal(hit).account, hit.rest)
        if form == "json":
            return shown(hit.id, data)
        headers = {
            "x-request-id": hit.id,
            "content-security-policy": f"{pages.POLICY}; frame-ancestors 'none'",
            "referrer-policy": "no-referrer",
        }
        return whole(200, pages.invoice(data).encode(), headers, "text/html; charset=utf-8")

    async def balance(self, hit: Hit) -> web.StreamResponse:
        """``GET /v1/users/me/balance``: Moonshot's shape; numbers printed from integers."""
        available, voucher = await balance.balance(self._means, _principal(hit).account)
        figures = {
            "available_balance": available,
            "voucher_balance": voucher,
            "cash_balance": available - voucher,
        }
        data = {name: msgspec.Raw(nanos_to_usd(n).encode()) for name, n in figures.items()}
        return shown(hit.id, {"code": 0, "data": data, "scode": "0x0", "status": True})


def _principal(hit: Hit) -> Principal:
    assert hit.principal is not None  # the route table says that these need a key
    return hit.principal
