"""API keys: create, identify, rotate, list, revoke. The secret is shown once and never stored.

The store keeps an HMAC-SHA-256 of a secret under a pepper that lies outside the store, and its
last four characters. A key keeps its id, and with it its budgets and spend, through a rotation.
Unknown, malformed, revoked, rotated and expired secrets get one and the same answer.
"""

import hashlib
import hmac
import secrets
from typing import Final

import msgspec

from moongate.access.codes import mint, well_formed
from moongate.core.errors import Refused
from moongate.core.ids import new_id
from moongate.core.ports import Clock, Store
from moongate.core.rows import NO_QUOTA, AccountRow, BudgetRow, KeyRow, Per, Policy, Quota

PREFIX: Final = "mg-"
ADMIN_PREFIX: Final = "mga-"
LOCAL_KEY: Final = "key_local"
"""The id of the key that stands for the operator at the admin socket."""
DEFAULT_ACCOUNT: Final = "default"

_CACHE_S: Final = 1.0
_CACHE_MAX: Final = 10_000


class Principal(msgspec.Struct, frozen=True):
    """Who is asking: the key's id and what it may do. Holds no secret.

    ``quota`` are the key's own rates, ``account_quota`` those of its account.
    """

    key: str
    account: str
    policy: Policy = "standard"
    models: tuple[str, ...] = ()
    admin: bool = False
    zero_retention: bool = False
    project: str = ""
    quota: Quota = NO_QUOTA
    account_quota: Quota = NO_QUOTA


def derive(pepper: bytes, purpose: str) -> bytes:
    """A key of 32 bytes for one purpose (HKDF-Expand of one block, RFC 5869)."""
    return hmac.digest(pepper, purpose.encode() + b"\x01", "sha256")


def tenant_tag(secret: bytes, account: str) -> str:
    """32 lowercase hex digits that stand for an account towards an upstream's prompt cache."""
    return hmac.digest(secret, account.encode(), "sha256").hex()[:32]


def ended(row: KeyRow, now_ms: int) -> bool:
    """Whether a key is revoked, or past its time."""
    expired = row.expires_ms is not None and row.expires_ms <= now_ms
    return expired or row.revoked_ms is not None


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
        """What the store keeps of a key, or of an invitation's code (32 bytes)."""
        return hmac.digest(self._secret, secret.encode(), hashlib.sha256)

    async def create(
        self,
        *,
        account: str,
        name: str,
        models: tuple[str, ...] = (),
        policy: Policy = "standard",
        zero_retention: bool = False,
        expires_ms: int | None = None,
        admin: bool = False,
        project: str = "",
        quota: Quota = NO_QUOTA,
        cap: tuple[Per, int] | None = None,
    ) -> tuple[KeyRow, str]:
        """Mint a key for ``account``, made when it is new; the secret is returned only here.

        ``cap`` is what it may spend (nano-dollars) in each such span: there is no moment in which
        the key is there and its budget is not.
        """
        await self.ensure_account(account)
        row, secret = self.minted(account, name, admin=admin)
        row = msgspec.structs.replace(
            row,
            models=models,
            policy=policy,
            zero_retention=zero_retention,
            expires_ms=expires_ms,
            project=project,
            quota=quota,
        )
        budget = None
        if cap is not None:
            id = new_id("bud_", row.created_ms)
            budget = BudgetRow(id, account, "key", row.id, *cap, row.created_ms)
        await self._store.key_insert(row, budget)
        return row, secret

    def minted(self, account: str, name: str, *, admin: bool = False) -> tuple[KeyRow, str]:
        """A plain key that no store knows yet, and its secret."""
        secret = mint(ADMIN_PREFIX if admin else PREFIX)
        now_ms = self._clock.now_ms()
        id = new_id("key_", now_ms)
        return KeyRow(id, account, name, self.mac(secret), secret[-4:], now_ms, admin=admin), secret

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
        if not well_formed(secret, PREFIX, ADMIN_PREFIX):
            raise Refused("invalid_api_key")
        mac = self.mac(secret)
        row = await self._row(mac)
        if row is None or not self._works(row, mac):
            raise Refused("invalid_api_key")
        return Principal(
            row.id,
            row.account,
            row.policy,
            row.models,
            row.admin,
            row.zero_retention,
            row.project,
            row.quota,
            row.account_quota,
        )

    def _works(self, row: KeyRow, mac: bytes) -> bool:
        """Whether the secret with this MAC, the present or the former one, opens ``row`` now."""
        now_ms = self._clock.now_ms()
        return not ended(row, now_ms) and (row.mac == mac or (row.old_until_ms or 0) > now_ms)

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

    async def rotate(self, id: str, overlap_ms: int) -> str | None:
        """Another secret for key ``id``, returned only here; ``None`` when unknown or ended.

        The secret before it works for ``overlap_ms`` more; the one before that ends at once.
        """
        now_ms = self._clock.now_ms()
        row = next((row for row in await self._store.keys() if row.id == id), None)
        if row is None or ended(row, now_ms):
            return None
        secret = mint(ADMIN_PREFIX if row.admin else PREFIX)
        done = await self._store.key_rotate(id, self.mac(secret), secret[-4:], now_ms + overlap_ms)
        self._cache.clear()
        return secret if done else None

    async def limit(self, id: str, quota: Quota) -> bool:
        """Give a key other rates; False when it is unknown."""
        done = await self._store.key_quota(id, quota)
        self._cache.clear()
        return done

    async def revoke(self, id: str) -> bool:
        """End a key at once; False when it is unknown or ended already."""
        done = await self._store.key_revoke(id, self._clock.now_ms())
        self._cache.clear()
        return done
