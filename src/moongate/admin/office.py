"""The table of operations, and the office that carries them out over a store.

Amounts are made durable by the store before an answer leaves. A call that moves money carries
an id of its caller's, so that a repeat changes nothing.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from moongate.access.keys import LOCAL_KEY, Keys
from moongate.admin import shapes, statement
from moongate.admin.fields import Fields, account_id
from moongate.core.cards import Offer
from moongate.core.errors import Refused
from moongate.core.ids import new_id
from moongate.core.ports import Clock, Store, Upstream
from moongate.core.rows import AccountRow, PriceRow

PREFIX: Final = "/admin/v1"
Answer = dict[str, Any]
_POLICIES: Final[tuple[Literal["standard", "strict", "lenient"], ...]] = (
    "standard",
    "strict",
    "lenient",
)
_KEY_FIELDS: Final = (
    "name", "account", "expires", "models", "policy", "zero_retention", "admin",
)  # fmt: skip
_KINDS: Final = ("topup", "trial")


class Call(msgspec.Struct, frozen=True):
    """One call: what its path names, its query and its body."""

    id: str
    query: Mapping[str, str]
    body: Mapping[str, Any]


class Operation(msgspec.Struct, frozen=True):
    """A row of the table. ``path`` may hold ``{id}``; ``method`` names the office's method."""

    verb: Literal["GET", "POST"]
    path: str
    method: str

    @property
    def pattern(self) -> re.Pattern[str]:
        """The path as a pattern with the group ``id``."""
        return re.compile(re.escape(self.path).replace(r"\{id\}", "(?P<id>[^/]+)"))


OPERATIONS: Final = (
    Operation("POST", f"{PREFIX}/keys", "create_key"),
    Operation("GET", f"{PREFIX}/keys", "list_keys"),
    Operation("POST", f"{PREFIX}/keys/{{id}}/revoke", "revoke_key"),
    Operation("GET", f"{PREFIX}/accounts", "list_accounts"),
    Operation("GET", f"{PREFIX}/accounts/{{id}}", "show_account"),
    Operation("POST", f"{PREFIX}/accounts/{{id}}/credit", "add_credit"),
    Operation("GET", f"{PREFIX}/statement", "statement"),
    Operation("GET", f"{PREFIX}/prices", "list_prices"),
    Operation("GET", f"{PREFIX}/models", "list_models"),
    Operation("GET", f"{PREFIX}/upstreams", "list_upstreams"),
    Operation("GET", f"{PREFIX}/ledger/audit", "audit"),
    Operation("GET", f"{PREFIX}/server", "show_server"),
)
_PATTERNS: Final = tuple((operation, operation.pattern) for operation in OPERATIONS)


class Office:
    """Carries out operations over ``store``. ``offers`` tells the models on offer now.

    ``about`` tells of the server whose office this is, if there is one: ``pid``, ``version``,
    ``api`` (its address), ``configuration_from`` and ``configuration`` without secrets.
    """

    def __init__(
        self,
        store: Store,
        keys: Keys,
        clock: Clock,
        offers: Callable[[], list[Offer]],
        upstreams: Mapping[str, Upstream],
        about: Callable[[], dict[str, Any]] | None = None,
    ) -> None:
        self._store = store
        self._keys = keys
        self._clock = clock
        self._offers = offers
        self._upstreams = upstreams
        self.about = about

    async def dispatch(
        self, verb: str, path: str, query: Mapping[str, str], body: Mapping[str, Any]
    ) -> tuple[int, Answer]:
        """Carry out the operation of ``verb`` and ``path``; HTTP status and JSON-able answer.

        Raises Refused (what the caller can mend) and LedgerUnavailable.
        """
        known = False
        for operation, pattern in _PATTERNS:
            found = pattern.fullmatch(path)
            if found is None:
                continue
            known = True
            if operation.verb == verb:
                run: Callable[[Call], Awaitable[Answer]] = getattr(self, operation.method)
                return 200, await run(Call(found.groupdict().get("id") or "", query, body))
        raise Refused("method_not_allowed" if known else "unknown_url")

    # keys
    async def create_key(self, call: Call) -> Answer:
        """A new key; ``key`` is its secret, told only here. An account is made when new."""
        fields = Fields(call.body, _KEY_FIELDS)
        expires_ms = fields.moment("expires", end=True)
        if expires_ms is not None and expires_ms <= self._clock.now_ms():
            raise Refused("invalid_value", "expires", what="This lies in the past.")
        name = fields.label("name")
        account = fields.account("account", "default")
        _, fresh = await self._wallet(account)
        row, secret = await self._keys.create(
            account=account,
            name=name,
            models=self._model_ids(fields.texts("models")),
            policy=fields.word("policy", _POLICIES),
            zero_retention=fields.flag("zero_retention"),
            expires_ms=expires_ms,
            admin=fields.flag("admin"),
        )
        return {
            **shapes.key(row, self._clock.now_ms()),
            "key": secret,
            "account_created": fresh,
        }

    def _model_ids(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Models by id or alias, as ids."""
        ids = {name: offer.card.id for offer in self._offers() for name in offer.card.aliases}
        ids |= {offer.card.id: offer.card.id for offer in self._offers()}
        for at, name in enumerate(names):
            if name not in ids:
                raise Refused("invalid_value", f"models[{at}]", what="There is no such model.")
        return tuple(dict.fromkeys(ids[name] for name in names))

    async def list_keys(self, call: Call) -> Answer:
        """Every key, or those of ``account``."""
        account = Fields(call.query, ("account",)).text("account", "")
        now_ms = self._clock.now_ms()
        if account and await self._store.account(account_id(account)) is None:
            raise Refused("not_found", thing="account")
        rows = await self._keys.list(account or None)
        return _list([shapes.key(row, now_ms) for row in rows])

    async def revoke_key(self, call: Call) -> Answer:
        """End a key at once. One that ended already stays as it is."""
        Fields(call.body, ())
        if call.id == LOCAL_KEY:
            raise Refused("conflict", what="This key is the admin socket's own; it has no secret.")
        await self._keys.revoke(call.id)
        row = next((row for row in await self._keys.list() if row.id == call.id), None)
        if row is None:
            raise Refused("not_found", thing="key")
        return shapes.key(row, self._clock.now_ms())

    # accounts and money
    async def list_accounts(self, call: Call) -> Answer:
        """Wallets; with ``all`` also the accounts that the ledger keeps for itself."""
        everything = Fields(call.query, ("all",)).flag("all")
        rows = await self._store.accounts()
        return _list([shapes.account(row) for row in rows if everything or row.kind == "wallet"])

    async def show_account(self, call: Call) -> Answer:
        """One account."""
        row = await self._store.account(account_id(call.id))
        if row is None:
            raise Refused("not_found", thing="account")
        return shapes.account(row)

    async def add_credit(self, call: Call) -> Answer:
        """Credit ``usd`` to a wallet, made when new. ``tx`` makes a repeat harmless."""
        fields = Fields(call.body, ("usd", "kind", "tx"))
        nanos = fields.credit_nanos("usd")
        kind = fields.word("kind", _KINDS)
        now_ms = self._clock.now_ms()
        tx = fields.tx("tx", new_id("credit_", now_ms))
        account = account_id(call.id)
        _, fresh = await self._wallet(account)
        done = await self._store.credit(account, nanos, kind, tx, now_ms)
        row, _ = await self._wallet(account)
        return {
            **shapes.account(row),
            "tx": tx,
            **shapes.money("credited", nanos if done else 0),
            "repeated": not done,
            "account_created": fresh,
        }

    async def _wallet(self, account: str) -> tuple[AccountRow, bool]:
        """The wallet ``account``, and whether it was made now. Refuses the ledger's own."""
        row, made = await self._store.account(account), False
        if row is None:
            fresh = AccountRow(account, "wallet", 0, 0, 0, self._clock.now_ms())
            await self._store.account_create(fresh)
            row, made = await self._store.account(account) or fresh, True
        if row.kind != "wallet":
            raise Refused("conflict", "account", what="The ledger keeps this account for itself.")
        return row, made

    async def statement(self, call: Call) -> Answer:
        """Charges from ``from`` up to and with ``to``; ``each`` gives every request a line."""
        fields = Fields(call.query, ("account", "from", "to", "each"))
        account = fields.account("account") if call.query.get("account") else None
        from_ms, to_ms = fields.moment("from") or 0, fields.moment("to", end=True)
        if to_ms is not None and to_ms <= from_ms:
            raise Refused("invalid_value", "to", what="The span ends before it begins.")
        if account is not None and await self._store.account(account) is None:
            raise Refused("not_found", thing="account")
        rows = await self._store.usage(account, from_ms, to_ms)
        names = {row.id: row.name for row in await self._keys.list()}
        lines = statement.each if fields.flag("each") else statement.lines
        return {
            "object": "statement",
            "account": account,
            "from": statement.asked(call.query.get("from"), from_ms or None),
            "to": statement.asked(call.query.get("to"), to_ms),
            "data": lines(rows, names),
            "total": statement.total(rows),
        }

    async def audit(self, call: Call) -> Answer:
        """Whether every invariant of the ledger holds, and where one does not."""
        Fields(call.query, ())
        found = await self._store.audit()
        return {"ok": not found, "findings": [shapes.finding(one) for one in found]}

    async def show_server(self, call: Call) -> Answer:
        """The server itself: process, version, address, and its configuration in effect."""
        Fields(call.query, ())
        if self.about is None:
            raise Refused("not_found", thing="server")
        return {"object": "server", **self.about()}

    # what is on offer
    async def list_prices(self, call: Call) -> Answer:
        """Every price row, with which are in force now."""
        Fields(call.query, ())
        rows = await self._store.prices()
        current = in_force(rows, self._clock.now_ms())
        return _list([shapes.price(row, in_force=row.version in current) for row in rows])

    async def list_models(self, call: Call) -> Answer:
        """The models on offer now."""
        Fields(call.query, ())
        return _list([shapes.model(offer) for offer in self._offers()])

    async def list_upstreams(self, call: Call) -> Answer:
        """Every upstream, looked at now."""
        Fields(call.query, ())
        probes = await asyncio.gather(*(end.probe() for end in self._upstreams.values()))
        return _list(
            [
                shapes.upstream(end, end.facts(), probe)
                for end, probe in zip(self._upstreams.values(), probes, strict=True)
            ]
        )


def in_force(rows: Sequence[PriceRow], now_ms: int) -> set[int]:
    """Versions of the rows that price a request admitted now: the latest begun, per model."""
    latest: dict[str, PriceRow] = {}
    for row in sorted(rows, key=lambda row: (row.from_ms, row.version)):
        if row.from_ms <= now_ms:
            latest[row.model] = row
    return {row.version for row in latest.values()}


def _list(data: list[Answer]) -> Answer:
    return {"object": "list", "data": data}
