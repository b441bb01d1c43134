"""What an event of Stripe's pays in: its body to a payment, to nothing, or to a refusal.

Pure, and told nothing but a body whose signature was right. It believes what the session itself
says (amount, currency, state, whose it is) and refuses to know which wallets exist.

Sources: Stripe API reference, "The Checkout Session object"; Stripe, "Fulfill orders" (listen to
both events; act on ``payment_status`` ``paid`` only; events may be repeated and reordered).
"""

import re
from typing import Any, Final

import msgspec

from moongate.core.errors import Refused
from moongate.core.rows import TopupRow
from moongate.wire import fields

NANOS_PER_CENT: Final = 10_000_000
CENTS_MAX: Final = 99_999_999
"""The largest payment in dollars that Stripe takes."""
SOURCE: Final = "stripe"

_COMPLETED: Final = "checkout.session.completed"
_SUCCEEDED: Final = "checkout.session.async_payment_succeeded"
_EVENT: Final = re.compile(r"evt_[A-Za-z0-9_]{1,120}")
_SESSION: Final = re.compile(r"cs_[A-Za-z0-9_]{1,110}")
_WORD: Final = re.compile(r"[a-z0-9_]{1,32}")


class Payment(msgspec.Struct, frozen=True):
    """Money that arrived for ``account``. ``tx`` is one for each checkout session."""

    account: str
    amount_nanos: int
    tx: str
    topup: TopupRow


def read(body: bytes) -> Payment | None:
    """The payment that ``body`` tells of; ``None`` when it tells of none that is ours.

    None of ours: other kinds of event, sessions without an account of ours, sessions that are not
    paid yet (a later event says that they are). Raises Refused (400) naming what is wrong in a
    session that claims to be ours.
    """
    event = fields.parse(body)
    kind = event.get("type")
    if kind not in {_COMPLETED, _SUCCEEDED}:
        return None
    data = event.get("data")
    session = data.get("object") if isinstance(data, dict) else None
    if not isinstance(session, dict) or session.get("object") != "checkout.session":
        raise _wrong("", "a checkout session")
    account = _account(session)
    if account is None or (kind == _COMPLETED and session.get("payment_status") == "unpaid"):
        return None
    id, tx = _id(event.get("id"), _EVENT, "id"), _id(session.get("id"), _SESSION, ".id")
    _is(session, "mode", "payment")
    _is(session, "payment_status", "paid")
    _is(session, "currency", "usd")
    cents = session.get("amount_total")
    if type(cents) is not int or not 0 < cents <= CENTS_MAX:
        raise _wrong(".amount_total", f"a whole number of cents from 1 to {CENTS_MAX}")
    topup = TopupRow(SOURCE, id, cents, "usd", _method(session))
    return Payment(account, cents * NANOS_PER_CENT, f"{SOURCE}_{tx}", topup)


def _account(session: dict[str, Any]) -> str | None:
    """Whose session it is: its metadata and its reference must agree. ``None``: nobody's here."""
    metadata, reference = session.get("metadata"), session.get("client_reference_id")
    account = metadata.get("account") if isinstance(metadata, dict) else None
    if account is None and reference is None:
        return None
    if not isinstance(account, str) or account != reference:
        raise _wrong(".client_reference_id", "the account that metadata.account names")
    return account


def _method(session: dict[str, Any]) -> str:
    """How it was paid, where the session offered one way only."""
    methods = session.get("payment_method_types")
    only = methods[0] if isinstance(methods, list) and len(methods) == 1 else None
    return only if isinstance(only, str) and _WORD.fullmatch(only) else "checkout"


def _is(session: dict[str, Any], name: str, word: str) -> None:
    if session.get(name) != word:
        raise _wrong(f".{name}", f'"{word}"')


def _id(value: object, shape: re.Pattern[str], where: str) -> str:
    if not isinstance(value, str) or not shape.fullmatch(value):
        raise _wrong(where, "an id")
    return value


def _wrong(where: str, what: str) -> Refused:
    param = f"data.object{where}" if where != "id" else where
    return Refused("invalid_value", param, what=f"This must be {what}; nothing was credited.")
