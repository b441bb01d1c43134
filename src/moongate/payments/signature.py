"""Signed webhooks, in and out: ``t=SECONDS,v1=HEX``, an HMAC-SHA-256 over ``SECONDS.BODY``.

An empty secret signs nothing and opens nothing: whoever has none cannot make these calls. This
module refuses to know what a body says.

Source: Stripe, "Webhooks: verify webhook signatures manually" (header ``Stripe-Signature``;
several ``v1`` while a secret is rolled; other schemes are to be ignored).
"""

import hmac
import re
from typing import Final

TOLERANCE_S: Final = 300
_SECONDS: Final = re.compile(r"[1-9][0-9]{0,11}")


def sign(secret: bytes, body: bytes, at_s: int) -> str:
    """The header's value for ``body``, signed at ``at_s`` (seconds since the epoch)."""
    return f"t={at_s},v1={_mac(secret, str(at_s), body)}"


def verify(secret: bytes, header: str, body: bytes, now_s: int) -> bool:
    """Whether one ``v1`` of ``header`` signs ``body``, within five minutes of ``now_s``."""
    pairs = [part.partition("=")[::2] for part in header.split(",")]
    times = [value for name, value in pairs if name.strip() == "t"]
    if len(times) != 1 or not _SECONDS.fullmatch(times[0]):
        return False
    right = _mac(secret, times[0], body).encode()
    given = [value.encode("utf-8", "replace") for name, value in pairs if name.strip() == "v1"]
    # Each is compared, so that the time taken tells nothing of which one was nearest.
    matches = sum(hmac.compare_digest(right, value) for value in given)
    return matches > 0 and abs(now_s - int(times[0])) <= TOLERANCE_S


def _mac(secret: bytes, seconds: str, body: bytes) -> str:
    if not secret:
        raise ValueError("an empty secret signs nothing")
    return hmac.digest(secret, seconds.encode() + b"." + body, "sha256").hex()
