"""API keys: mint, identify, list, revoke. The secret is shown once and never stored.

A key is a prefix, 160 random bits and a checksum, all in base 62. The store keeps an
HMAC-SHA-256 of it under a pepper that lies outside the store, and its last four characters. The
checksum refuses a mistyped key before the store is asked. Unknown, malformed, revoked and
expired keys get one and the same answer.
"""

import hashlib
import hmac
import re
import secrets
import string
import zlib
from typing import Final, Literal

import msgspec

from moongate.core.errors import Refused
from moongate.core.ids import new_id
from moongate.core.ports import Clock, Store
from moongate.core.rows import AccountRow, KeyRow

PREFIX: Final = "mg-"
ADMIN_PREFIX: Final = "mga-"
LOCAL_KEY: Final = "key_local"
"""The id of the key that stands for the operator at the admin socket."""
DEFAULT_ACCOUNT: Final = "default"

_ALPHABET: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
_SHAPE: Final = re.compile(r"(mga?-)([0-9A-Za-z]{27})([0-9A-Za-z]{6})")
_CACHE_S: Final = 1.0
_CACHE_MAX: Final = 10_000


class Principal(msgspec.Struct, frozen=True):
    """Who is asking: the key's id and what it may do. Holds no secret."""

    key: str
    account: str
    policy: Literal["standard", "strict", "lenient"] = "standard"
    models: tuple[str, ...] = ()
    admin: bool = False
    zero_retention: bool = False


def derive(pepper: bytes, purpose: str) -> bytes:
    """A key of 32 bytes for one purpose (HKDF-Expand of one block, RFC 5869)."""
    return hmac.digest(pepper, purpose.encode() + b"\x01", "sha256")


def tenant_tag(secret: bytes, account: str) -> str:
    """32 lowercase hex digits that stand for an account towards an upstream's prompt cache."""
    return hmac.digest(secret, account.encode(), "sha256").hex()[:32]


def _base62(number: int, width: int) -> str:
    digits = []
    for _ in range(width):
        number, rest = divmod(number, 62)
        digits.append(_ALPHABET[rest])
    return "".join(reversed(digits))


def _checksum(text: str) -> str:
    return _base62(zlib.crc32(text.encode()), 6)


def mint(*, admin: bool = False) -> str:
    """A new secret: prefix, 27 base-62 characters (160 random bits), 6 of checksum."""
    start = (ADMIN_PREFIX if admin else PREFIX) + _base62(secrets.randbits(160), 27)
    return start + _checksum(start)


def well_formed(secret: str) -> bool:
    """Whether ``secret`` has the shape and checksum of a key of ours."""
    found = _SHAPE.fullmatch(secret)
    return found is not None and hmac.compare_digest(
        _checksum(found[1] + found[2]).encode(), found[3].encode()
    )


class Keys:
    """The keys of a store. An identified key is remembered for one second at most."""

    def __init__(self, store: Store, pepper: bytes, clock: Clock) -> None:
        self._store = store
        self._secret = derive(pepper, "api-key")
        self._clock = clock
        self._cache: dict[bytes, tuple[float, KeyRow]] = {}

    def __repr__(self) -> str:
        return f"Keys({len(self._cache)} remembered)"

    def mac(self, secret: str) -> bytes:
        """What the store keeps of a key (32 bytes)."""
        return hmac.digest(self._secret, secret.encode(), hashlib.sha256)

    async def create(
        self,
        *,
        account: str,
        name: str,
        models: tuple[str, ...] = (),
        policy: Literal["standard", "strict", "lenient"] = "standard",
        zero_retention: bool = False,
        expires_ms: int | None = None,
        admin: bool = False,
    ) -> tuple[KeyRow, str]:
        """Mint a key for ``account``, made when it is new; the secret is returned only here."""
        await self.ensure_account(account)
        secret = mint(admin=admin)
        row = KeyRow(
            id=new_id("key_", self._clock.now_ms()),
            account=account,
            name=name,
            mac=self.mac(secret),
            last4=secret[-4:],
            created_ms=self._clock.now_ms(),
            admin=admin,
            models=models,
            policy=policy,
            zero_retention=zero_retention,
            expires_ms=expires_ms,
        )
        await self._store.key_insert(row)
        return row, secret

    async def ensure_account(self, account: str) -> bool:
        """Make the wallet ``account`` unless it exists; True when it was made."""
        return await self._store.account_create(
            AccountRow(account, "wallet", 0, 0, 0, self._clock.now_ms())
        )

    async def ensure_local(self) -> Principal:
        """The principal of whoever can open the admin socket; its key has no usable secret."""
        if not any(row.id == LOCAL_KEY for row in await self._store.keys(DEFAULT_ACCOUNT)):
            await self.ensure_account(DEFAULT_ACCOUNT)
            await self._store.key_insert(
                KeyRow(
                    id=LOCAL_KEY,
                    account=DEFAULT_ACCOUNT,
                    name="local",
                    mac=secrets.token_bytes(32),
                    last4="",
                    created_ms=self._clock.now_ms(),
                )
            )
        return Principal(LOCAL_KEY, DEFAULT_ACCOUNT)

    async def identify(self, secret: str | None) -> Principal:
        """Who holds ``secret``. Raises Refused (401), LedgerUnavailable when the store is gone."""
        if not secret:
            raise Refused("missing_api_key")
        if not well_formed(secret):
            raise Refused("invalid_api_key")
        mac = self.mac(secret)
        row = await self._row(mac)
        now_ms = self._clock.now_ms()
        if row is None or row.revoked_ms is not None:
            raise Refused("invalid_api_key")
        if row.expires_ms is not None and row.expires_ms <= now_ms:
            raise Refused("invalid_api_key")
        return Principal(row.id, row.account, row.policy, row.models, row.admin, row.zero_retention)

    async def _row(self, mac: bytes) -> KeyRow | None:
        now_s = self._clock.monotonic_s()
        known = self._cache.get(mac)
        if known is not None and now_s - known[0] < _CACHE_S:
            return known[1]
        row = await self._store.key_by_mac(mac)
        if row is None:
            self._cache.pop(mac, None)
            return None
        if len(self._cache) >= _CACHE_MAX:
            self._cache.clear()
        self._cache[mac] = (now_s, row)
        return row

    async def list(self, account: str | None = None) -> list[KeyRow]:
        """Every key, or those of one account, oldest first."""
        return await self._store.keys(account)

    async def revoke(self, id: str) -> bool:
        """End a key at once; False when it is unknown or ended already."""
        done = await self._store.key_revoke(id, self._clock.now_ms())
        self._cache.clear()
        return done
