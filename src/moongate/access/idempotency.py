"""Idempotency keys: what a client's Idempotency-Key and body become before they reach a row.

Both are stored as MACs only, under secrets that rotate daily and are destroyed a day later, mixed
with the pepper, so that neither a stolen database nor a later look tells what was sent.
"""

import asyncio
import hmac
import secrets
from typing import Final

from moongate.core.errors import Refused
from moongate.core.ports import Clock, Store
from moongate.core.store import Idem

KEY_CHARS_MAX: Final = 255
PERIOD_MS: Final = 86_400_000
"""How long a key is remembered, and how long a secret is the current one."""
_FRESH_S: Final = 60.0
_INLINE_BYTES_MAX: Final = 1 << 20
"""A larger body is hashed beside the event loop."""


class Idempotency:
    """The marks of one store. ``pepper`` is 32 bytes of our own purpose."""

    def __init__(self, store: Store, pepper: bytes, clock: Clock) -> None:
        self._store, self._pepper, self._clock = store, pepper, clock
        self._secrets: list[bytes] = []
        self._read_s = -_FRESH_S

    def __repr__(self) -> str:
        return "Idempotency()"

    async def mark(self, account: str, key: str | None, dialect: str, body: bytes) -> Idem | None:
        """The marks of a request in ``dialect`` with the header ``key``; ``None`` without one.

        Raises Refused (400) for a key that is none, and LedgerUnavailable.
        """
        if key is None:
            return None
        if not 0 < len(key) <= KEY_CHARS_MAX or not key.isprintable():
            raise Refused("invalid_idempotency_key", "Idempotency-Key")
        await self._refresh()
        name = key.encode("utf-8", "surrogateescape")
        kind = dialect.encode()
        expires_ms = self._clock.now_ms() + PERIOD_MS
        if len(body) > _INLINE_BYTES_MAX:
            return Idem(account, await asyncio.to_thread(self._marks, name, kind, body), expires_ms)
        return Idem(account, self._marks(name, kind, body), expires_ms)

    def _marks(self, name: bytes, kind: bytes, body: bytes) -> tuple[tuple[bytes, bytes], ...]:
        marks = []
        for one in self._secrets:
            told = hmac.new(one, b"body" + kind + b"\0", "sha256")
            told.update(body)
            marks.append((hmac.digest(one, b"key" + name, "sha256"), told.digest()))
        return tuple(marks)

    async def _refresh(self) -> None:
        """Take the secrets that are alive; the store makes a new one when it is time."""
        now_s = self._clock.monotonic_s()
        if now_s - self._read_s < _FRESH_S:
            return
        alive = await self._store.rotate_secret(
            "idempotency", secrets.token_bytes(32), self._clock.now_ms(), PERIOD_MS
        )
        self._secrets = [hmac.digest(self._pepper, secret, "sha256") for secret in alive]
        self._read_s = now_s
