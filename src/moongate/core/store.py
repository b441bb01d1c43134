"""The store's seam: the moves of money and the looks at rows that every engine must offer.

Every move is one durable commit, or LedgerUnavailable and nothing. Money moves are compare-and-set
under an id of the caller's: a repeat changes nothing and says so, so that whoever does not know
whether a commit happened may ask again. Times that decide something (leases, windows, when a hold
was made) are the engine's own: one that several processes serve takes its database's clock and
not the ``at_ms`` that it is given.
"""

from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec

from moongate.core.money import Usage
from moongate.core.rows import (
    AccountRow,
    BudgetRow,
    EntryRow,
    Finding,
    HoldRow,
    InviteRow,
    KeyRow,
    PriceRow,
    Quota,
    TopupRow,
    UsageRow,
)
from moongate.core.sealed import Sealed
from moongate.core.sums import UsageSum


class Idem(msgspec.Struct, frozen=True):
    """A client's Idempotency-Key, as MACs under keys that are destroyed after a day.

    ``marks`` are (MAC of the key, MAC of the body) under each secret still alive. A row is written
    under each: whoever has not heard of the newest secret yet has an older one in common with us.
    """

    account: str
    marks: tuple[tuple[bytes, bytes], ...]
    expires_ms: int


class NotHeld(msgspec.Struct, frozen=True):
    """Why nothing was set aside.

    ``short``: a leg cannot pay the least that was asked. The others speak of an Idempotency-Key
    that ``hold`` (a request's id) has used: ``other`` body, still ``running``, or ``completed``.
    A hold that was given back or expired frees its key, and so does the row's own time.
    """

    why: Literal["short", "other", "running", "completed"]
    hold: str = ""


class Extension(msgspec.Struct, frozen=True):
    """Ask for more: slice ``slice_no`` (the hold's own number + 1) of ``wanted_nanos``.

    What is granted is a whole number of ``unit_nanos`` (the price of one more token; 0 counts as
    1), as much of it as every leg can still pay. The lease is renewed as of ``at_ms``.
    """

    hold: str
    slice_no: int
    wanted_nanos: int
    unit_nanos: int
    at_ms: int = 0


class Settlement(Sealed, frozen=True):
    """How a hold ends: its usage row and what state it leaves the hold in.

    ``charge`` moves from the hold's account to revenue when it is above zero, and from each budget
    to its contra account; what was forgiven too. A store with a clock takes ``ended_ms`` from it.
    """

    row: UsageRow
    void: bool = False


class Running(msgspec.Struct, frozen=True):
    """What an open hold's request has used so far; renewing it extends the lease."""

    hold: str
    usage: Usage


class StoreFacts(msgspec.Struct, frozen=True):
    """What keeps the rows: its kind, its version, and how many processes serve it now.

    ``at_ms`` is the time that it goes by.
    """

    kind: str
    version: str
    replicas: int
    at_ms: int


class Store(Protocol):
    """Where rows live."""

    async def open(self) -> None:
        """Open and migrate. Raises ConfigurationError (corrupt, newer, locked, unwritable)."""

    async def close(self) -> None: ...

    async def ping(self) -> None:
        """Commit nothing, durably. Raises LedgerUnavailable."""

    async def bind(self, name: str, value: str) -> str:
        """Remember ``value`` under ``name`` unless something is; returns what is remembered."""

    async def heartbeat(self, owner: str, at_ms: int) -> int:
        """Say that the process ``owner`` lives; returns how many did within the last 15 s."""

    async def facts(self, at_ms: int) -> StoreFacts:
        """What this store is; it counts the living as :meth:`heartbeat` does, without a beat."""

    # accounts and keys
    async def account_create(self, row: AccountRow) -> bool:
        """Insert; False when the id exists."""

    async def account(self, id: str) -> AccountRow | None: ...
    async def accounts(self, kind: str | None = None) -> list[AccountRow]: ...
    async def account_quota(self, id: str, quota: Quota) -> bool:
        """Set an account's rates; False when it is unknown."""

    async def key_insert(self, row: KeyRow, budget: BudgetRow | None = None) -> None:
        """Insert a key and, where one is given, its budget: both or neither."""

    async def key_by_mac(self, mac: bytes) -> KeyRow | None:
        """The key whose present or former secret has this MAC, with its account's rates."""

    async def keys(self, account: str | None = None) -> list[KeyRow]: ...
    async def key_revoke(self, id: str, at_ms: int) -> bool:
        """Set ``revoked_ms`` once; False when unknown or already revoked."""

    async def key_rotate(self, id: str, mac: bytes, last4: str, old_until_ms: int) -> bool:
        """Give a key another secret; the one before it works until then. False when ended."""

    async def key_quota(self, id: str, quota: Quota) -> bool:
        """Set a key's rates; False when it is unknown."""

    # budgets
    async def budget_set(self, row: BudgetRow) -> BudgetRow:
        """Make the budget of (scope, subject, per), or give it another cap, at once everywhere."""

    async def budget_remove(self, scope: str, subject: str, per: str) -> bool:
        """End a budget; requests that run go on unbounded by it. False when there is none."""

    async def budgets(self, account: str | None, at_ms: int) -> list[BudgetRow]:
        """Budgets with what the present window has spent and holds."""

    # prices
    async def price_add(self, row: PriceRow) -> PriceRow:
        """Insert with the next version (``row.version`` is ignored) and return it."""

    async def prices(self) -> list[PriceRow]:
        """Every row, oldest version first."""

    # money
    async def credit(
        self,
        account: str,
        amount_nanos: int,
        kind: str,
        tx: str,
        at_ms: int,
        topup: TopupRow | None = None,
    ) -> bool:
        """Post ``amount`` to a wallet against ``cash`` (``topup``, ``refund``) or ``promo``.

        False when ``tx``, or the top-up's source and event, exist. Raises Refused for no such
        wallet, or one that cannot take it.
        """

    async def hold(
        self,
        row: HoldRow,
        *,
        floor_nanos: int | None = None,
        unit_nanos: int = 1,
        idem: Idem | None = None,
    ) -> HoldRow | NotHeld:
        """Set money aside on every leg, or on none.

        Where the legs cannot pay ``row.amount_nanos`` they pay what they can, in whole
        ``unit_nanos`` above ``floor_nanos`` (default: all or nothing). Returns the hold as made.
        The same id again returns the hold that stands.
        """

    async def extend(self, extension: Extension) -> HoldRow | None:
        """Set more aside for an open hold; returns it as it stands, ``None`` when it is resolved.

        A slice that was granted before is not granted again. Nothing to be had: the hold stays as
        it was, its ``slice_no`` too. The lease is renewed in any case.
        """

    async def settle(self, settlement: Settlement) -> bool:
        """Resolve an open hold with its usage row; False when it was resolved before."""

    async def renew(self, running: Sequence[Running], at_ms: int) -> int:
        """Extend the leases of open holds and note their counts; returns how many were open."""

    async def expire(self, at_ms: int, grace_s: int, *, checkpoint: bool = False) -> list[str]:
        """Resolve holds whose lease and grace ran out; returns their ids.

        Their noted counts are forgiven; with ``checkpoint`` they are charged, at most the hold.
        """

    async def expire_orphans(
        self, owner: str, at_ms: int, *, checkpoint: bool = False
    ) -> list[str]:
        """Expire at once what others than ``owner`` hold, where nobody else can be running.

        A store that several processes serve leaves them to their leases and returns nothing.
        """

    # idempotency, invitations, alerts
    async def rotate_secret(
        self, purpose: str, fresh: bytes, at_ms: int, period_ms: int
    ) -> list[bytes]:
        """The secrets of ``purpose`` that are alive, newest first.

        ``fresh`` becomes the newest when that one is older than ``period_ms``; what is older than
        two periods is destroyed.
        """

    async def invite_add(self, row: InviteRow, trial_nanos: int = 0) -> None:
        """Insert, with trial credit (tx ``trial_`` + id) where it is above 0: both or neither."""

    async def invites(self, account: str | None = None) -> list[InviteRow]: ...
    async def invite_take(self, mac: bytes, key: KeyRow, at_ms: int) -> InviteRow | None:
        """Use an invitation up and insert ``key`` for its account, both or neither.

        ``key.account`` and ``key.name`` are taken from the invitation. ``None`` when it is
        unknown, used or past its time.
        """

    async def low_wallets(self, below_nanos: int, at_ms: int) -> list[AccountRow]:
        """Claim wallets that fell below an amount and were not told of since; rearm the others.

        What counts is ``posted`` + credit limit, whatever requests hold for a moment; a wallet
        without an entry has not fallen.
        A claim that is not confirmed with :meth:`low_told` within a minute is given out again.
        """

    async def low_told(self, accounts: Sequence[str]) -> None:
        """Confirm that these wallets' owners were told."""

    async def forget(self, at_ms: int) -> int:
        """Delete what has served its time (idempotency rows, old invitations), at most 1,000."""

    # looks
    async def open_holds(self) -> list[HoldRow]: ...
    async def usage(
        self, account: str | None = None, from_ms: int = 0, to_ms: int | None = None
    ) -> list[UsageRow]:
        """Resolved requests ended in [from, to), oldest first."""

    async def usage_sums(
        self,
        account: str | None = None,
        from_ms: int = 0,
        to_ms: int | None = None,
        *,
        days: bool = True,
        keys: bool = True,
    ) -> list[UsageSum]:
        """The same requests as :func:`moongate.core.sums.add_up` adds them up, however many."""

    async def usage_row(self, hold: str) -> UsageRow | None:
        """How one request ended; ``None`` while it is open or unknown."""

    async def last_used(self, account: str | None = None) -> dict[str, int]:
        """When each key's last request ended; keys that were never used are left out."""

    async def entries(self, account: str | None = None, tx: str | None = None) -> list[EntryRow]:
        """Movements, oldest first."""

    async def entry_sums(
        self, account: str, from_ms: int = 0, to_ms: int | None = None
    ) -> dict[str, int]:
        """What an account's movements in [from, to) add up to, by kind (nano-dollars)."""

    async def credits(
        self, account: str, from_ms: int = 0, to_ms: int | None = None
    ) -> list[EntryRow]:
        """A wallet's movements in [from, to) that are no charges, oldest first."""

    async def audit(self) -> list[Finding]:
        """Check every invariant over all rows; empty when all hold."""

    async def self_check(self) -> list[Finding]:
        """What of the audit can be checked each minute however many rows there are.

        I1 over the accounts (their ``posted`` sum to zero), I3 and I4.
        """
