"""The till: a signed event in, a credit in the ledger out, once for each checkout session.

The signature is judged before a byte of the body is read. The commit decides whether a payment is
new, by its event and by its session, so repeats and races credit nothing twice.
"""

from typing import Final, Literal, Protocol

from moongate.core.errors import Refused
from moongate.core.ports import Clock, Store
from moongate.payments import stripe
from moongate.payments.signature import verify

_KIND: Final = "topup"

Taken = Literal["credited", "repeated", "ignored"]


class Report(Protocol):
    """Where it is told what happened: an event's name and scalars."""

    def __call__(self, name: str, /, **fields: str | int | bool | None) -> None: ...


class Till:
    """Takes events into ``store``. Raises ValueError when ``secret`` is empty."""

    def __init__(self, store: Store, clock: Clock, report: Report, *, secret: str) -> None:
        if not secret:
            raise ValueError("a till needs a secret")
        self._store, self._clock, self._report = store, clock, report
        self._secret = secret.encode()

    def __repr__(self) -> str:
        return "Till()"

    async def take(self, signature: str, body: bytes) -> Taken:
        """Credit what ``body`` says was paid, durably.

        Raises Refused (400: the signature, or what is wrong with the payment) and
        LedgerUnavailable: Stripe then sends the event again.
        """
        try:
            return await self._take(signature, body)
        except Refused as error:  # somebody may have paid for nothing: the operator must see it
            self._report("topup_refused", code=error.code, kind=error.param)
            raise

    async def _take(self, signature: str, body: bytes) -> Taken:
        now_ms = self._clock.now_ms()
        if not verify(self._secret, signature, body, now_ms // 1000):
            raise Refused("invalid_signature")
        paid = stripe.read(body)
        if paid is None:
            return "ignored"
        taken = await self._credit(paid, now_ms)
        self._report("topup", account=paid.account, amount_nanos=paid.amount_nanos, kind=taken)
        return taken

    async def _credit(self, paid: stripe.Payment, now_ms: int) -> Taken:
        wallet = await self._store.account(paid.account)
        if wallet is None or wallet.kind != "wallet":
            raise Refused("invalid_value", "data.object.metadata.account", what="No such wallet.")
        fresh = await self._store.credit(
            wallet.id, paid.amount_nanos, _KIND, paid.tx, now_ms, paid.topup
        )
        return "credited" if fresh else "repeated"
