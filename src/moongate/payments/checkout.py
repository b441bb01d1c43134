"""Opening a hosted checkout at Stripe: an account and an amount in, an address to pay at out.

Nothing is credited here: only the signed event that follows does that. Stripe's texts are read for
an id and an address and never passed on.

Sources: Stripe API reference, "Create a Checkout Session" (form fields, ``price_data``,
``client_reference_id``, ``metadata``, ``adaptive_pricing``) and "Idempotent requests".
"""

from typing import Any, Final

import aiohttp
import msgspec

from moongate.core.errors import Refused
from moongate.core.money import nanos_to_usd
from moongate.payments.stripe import NANOS_PER_CENT

OPENING_MAX: Final = 8
"""Sessions that are being opened at once; more are told to come back."""
_TIMEOUT_S: Final = 20.0
_WEB: Final = ("https://", "http://")
_ANSWER_BYTES_MAX: Final = 1 << 20


class Session(msgspec.Struct, frozen=True):
    """A checkout that is open: its id, and where the buyer pays."""

    id: str
    url: str


class Checkout:
    """Opens checkouts with the operator's ``api_key``, over whole cents from least to most.

    ``cancel_url`` may be empty.
    """

    def __init__(
        self,
        *,
        api_key: str,
        base_url: str,
        success_url: str,
        cancel_url: str,
        least_nanos: int,
        most_nanos: int,
        timeout_s: float = _TIMEOUT_S,
    ) -> None:
        self._api_key = api_key
        self._url = f"{base_url.rstrip('/')}/v1/checkout/sessions"
        self._success_url, self._cancel_url = success_url, cancel_url
        self._least_nanos, self._most_nanos = least_nanos, most_nanos
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._opening = 0

    def __repr__(self) -> str:
        return "Checkout()"

    async def open(self, account: str, amount_nanos: int, id: str) -> Session:
        """A checkout over ``amount_nanos`` for ``account``; ``id`` makes a repeat harmless.

        Raises Refused: 400 for an amount that is not offered, 502 when Stripe does not open it.
        """
        cents, rest = divmod(amount_nanos, NANOS_PER_CENT)
        if rest or not self._least_nanos <= amount_nanos <= self._most_nanos:
            least, most = nanos_to_usd(self._least_nanos), nanos_to_usd(self._most_nanos)
            raise Refused("invalid_value", "usd", what=f"Use dollars from {least} to {most}.")
        if self._opening >= OPENING_MAX:
            raise Refused("payments_unavailable", retry_after_s=1)
        self._opening += 1
        try:
            answer = await self._post(self._form(account, cents), id)
        except (aiohttp.ClientError, TimeoutError, ConnectionError):
            raise Refused("payments_unavailable", retry_after_s=5) from None
        finally:
            self._opening -= 1
        url, session = answer.get("url"), answer.get("id")
        if not isinstance(url, str) or not isinstance(session, str) or not url.startswith(_WEB):
            raise Refused("payments_unavailable")
        return Session(session, url)

    def _form(self, account: str, cents: int) -> dict[str, str]:
        form = {
            "mode": "payment",
            "client_reference_id": account,
            "metadata[account]": account,
            # A card's own currency would be what the session says was paid.
            "adaptive_pricing[enabled]": "false",
            "line_items[0][quantity]": "1",
            "line_items[0][price_data][currency]": "usd",
            "line_items[0][price_data][unit_amount]": str(cents),
            "line_items[0][price_data][product_data][name]": "API credit",
            "success_url": self._success_url,
        }
        return form | ({"cancel_url": self._cancel_url} if self._cancel_url else {})

    async def _post(self, form: dict[str, str], id: str) -> dict[str, Any]:
        """Stripe's answer; empty when it says no or is no JSON object."""
        headers = {"authorization": f"Bearer {self._api_key}", "idempotency-key": id}
        async with (
            aiohttp.ClientSession(timeout=self._timeout) as http,
            http.post(self._url, data=form, headers=headers, allow_redirects=False) as reply,
        ):
            body = bytearray()
            async for piece in reply.content.iter_any():
                body += piece
                if len(body) > _ANSWER_BYTES_MAX:
                    return {}
            if reply.status != 200:
                return {}
        try:
            answer = msgspec.json.decode(bytes(body))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return {}
        return answer if isinstance(answer, dict) else {}
