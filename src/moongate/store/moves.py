"""The moves of money that end something, as SQL on one connection: settle, expire, credit.

Each function is one move inside a transaction that its caller opened and will commit. A batch is
a handful of statements however many moves it has; where one of them cannot be done, the others
are not held up by it. What may not happen is refused by the guards in the statements and by the
constraints of the tables. Balances are never read to be written; the ends of the wallets' chains
are, under the write lock of the transaction that moves them on.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import apsw
import msgspec

from moongate.core.chain import link
from moongate.core.errors import Refused
from moongate.core.money import Price
from moongate.core.rows import EntryRow, HoldState, TopupRow, UsageRow
from moongate.core.store import Running, Settlement
from moongate.store.mapping import (
    AGAINST,
    as_json,
    entry_values,
    expired_row,
    hold_row,
    usage_values,
)
from moongate.store.statements import run

FAULTY: Final = (
    apsw.ConstraintError,
    apsw.MismatchError,
    apsw.TooBigError,
    ValueError,
    TypeError,
    OverflowError,
    Refused,
)
"""What is one move's own fault. Any other error is the store's and fails the whole batch."""

FORGIVEN_SEQ: Final = 100
"""Where the entries of what was forgiven begin under a hold's id."""

Answer = bool | BaseException
Head = tuple[str, int, bytes]
"""An account's kind, and where its chain ends."""


@contextmanager
def step(db: apsw.Connection) -> Iterator[None]:
    """A savepoint around one move: all of it, or nothing."""
    db.execute("SAVEPOINT step")
    try:
        yield
    except BaseException:
        # A full disk or an I/O error may have rolled back everything by itself.
        if db.in_transaction:
            db.execute("ROLLBACK TO step")
            db.execute("RELEASE step")
        raise
    db.execute("RELEASE step")


def own_fault(error: Exception) -> Exception:
    """``error`` as the caller of one move gets it."""
    if isinstance(error, apsw.Error):
        return ValueError(f"the store refused this row: {error}")
    return error


def _one_by_one(
    db: apsw.Connection,
    moves: Sequence[Settlement],
    many: Callable[[Sequence[Settlement]], list[Answer]],
) -> list[Answer]:
    """``many`` on all of ``moves`` at once, or on each alone where one of them is at fault."""
    try:
        with step(db):
            return many(moves)
    except FAULTY as error:
        if len(moves) == 1:
            return [own_fault(error)]
    return [_one_by_one(db, [move], many)[0] for move in moves]


def settle(db: apsw.Connection, settlements: Sequence[Settlement]) -> list[Answer]:
    """Resolve each open hold with its usage row; False where it was resolved before."""

    def many(some: Sequence[Settlement]) -> list[Answer]:
        rows = {settlement.row.hold: settlement.row for settlement in some}
        if len(rows) < len(some):
            raise ValueError("one hold twice in a batch")  # each alone, then
        states = {
            settlement.row.hold: HoldState.VOID if settlement.void else HoldState.SETTLED
            for settlement in some
        }
        won = _resolve(db, rows, states)
        return [settlement.row.hold in won for settlement in some]

    return _one_by_one(db, settlements, many)


def _resolve(
    db: apsw.Connection, rows: dict[str, UsageRow], states: dict[str, HoldState]
) -> set[str]:
    """Take each hold out of state 0 with its usage row; returns the ids that were still open."""
    claims = [(id, states[id], row.ended_ms) for id, row in rows.items()]
    legs: dict[str, list[str]] = {}
    freed: dict[str, int] = {}
    for id, nanos, text in run(db, "settle_claim", rows=as_json(claims)):
        legs[id] = msgspec.json.decode(text)
        for leg in legs[id]:
            freed[leg] = freed.get(leg, 0) + nanos
    if not legs:
        return set()
    ours = [row for id, row in rows.items() if id in legs]
    if any(row.account not in legs[row.hold] for row in ours):
        raise ValueError("the store refused this row: another account's hold")
    heads = _heads(db, {*freed, "revenue", "contra", "forgiven"})
    entries = [
        entry
        for row in ours
        for entry in _entries(row, [leg for leg in legs[row.hold] if heads[leg][0] == "budget"])
    ]
    _post(db, heads, entries, freed)
    run(db, "usage_insert", rows=as_json([usage_values(row) for row in ours]))
    return set(legs)


def _entries(row: UsageRow, budgets: Sequence[str]) -> Iterator[EntryRow]:
    """What a resolved hold moves: the charge, its shadow on each budget, what was forgiven."""
    at_ms, charge, forgiven = row.ended_ms, row.charge_nanos, row.forgiven_nanos
    if charge:
        yield EntryRow(row.hold, 0, row.account, -charge, "charge", at_ms)
        yield EntryRow(row.hold, 1, "revenue", charge, "charge", at_ms)
        for n, budget in enumerate(budgets):
            yield EntryRow(row.hold, 2 + 2 * n, budget, -charge, "budget", at_ms)
            yield EntryRow(row.hold, 3 + 2 * n, "contra", charge, "budget", at_ms)
    if forgiven:
        yield EntryRow(row.hold, FORGIVEN_SEQ, "forgiven", forgiven, "forgiven", at_ms)
        yield EntryRow(row.hold, FORGIVEN_SEQ + 1, "contra", -forgiven, "forgiven", at_ms)


def _heads(db: apsw.Connection, ids: Iterable[str]) -> dict[str, Head]:
    found = run(db, "heads", ids=as_json(list(ids)))
    return {id: (kind, number, chain) for id, kind, number, chain in found}


def _post(
    db: apsw.Connection, heads: dict[str, Head], entries: Iterable[EntryRow], freed: dict[str, int]
) -> None:
    """Write ``entries``, chain those of wallets, and move every account they touch at once."""
    posted: dict[str, int] = {}
    rows = []
    for entry in entries:
        id = entry.account
        posted[id] = posted.get(id, 0) + entry.amount_nanos
        if heads[id][0] == "wallet":
            linked, heads[id] = chained(entry, heads[id])
            rows.append(entry_values(linked))
        else:
            rows.append(entry_values(entry))
    moved = [
        (id, freed.get(id, 0), posted.get(id, 0), heads[id][1], heads[id][2].hex())
        for id in {**freed, **posted}
    ]
    run(db, "account_move", rows=as_json(moved))
    if rows:
        run(db, "entry_insert", rows=as_json(rows))


def chained(entry: EntryRow, head: Head) -> tuple[EntryRow, Head]:
    """``entry`` behind the end of its wallet's chain, and where that ends then."""
    kind, number, chain = head
    numbered = msgspec.structs.replace(entry, chain_no=number + 1)
    chain = link(chain, numbered)
    return msgspec.structs.replace(numbered, chain=chain), (kind, number + 1, chain)


def renew(db: apsw.Connection, running: Sequence[Running], at_ms: int) -> int:
    """Extend the leases of open holds and note what they have used; returns how many were open."""
    last = {one.hold: one.usage for one in running}
    rows = [(id, u.input, u.cache_read, u.output, u.searches) for id, u in last.items()]
    run(db, "renew", rows=as_json(rows), at_ms=at_ms)
    return db.changes()


def expire(db: apsw.Connection, at_ms: int, grace_s: int, *, checkpoint: bool) -> list[str]:
    """Resolve the open holds whose lease and grace ran out; returns their ids."""
    found = run(db, "lapsed", at_ms=at_ms, grace_s=grace_s)
    return _lapse(db, found, at_ms, checkpoint=checkpoint)


def expire_orphans(db: apsw.Connection, owner: str, at_ms: int, *, checkpoint: bool) -> list[str]:
    """Resolve the open holds of every owner but ``owner``; returns their ids."""
    found = run(db, "orphans", owner=owner)
    return _lapse(db, found, at_ms, checkpoint=checkpoint)


def _lapse(db: apsw.Connection, found: list[Any], at_ms: int, *, checkpoint: bool) -> list[str]:
    rows = [
        expired_row(hold_row(values), Price(*values[17:]), at_ms, checkpoint=checkpoint)
        for values in found
    ]
    if rows:
        ids = [row.hold for row in rows]
        _resolve(db, dict(zip(ids, rows, strict=True)), dict.fromkeys(ids, HoldState.EXPIRED))
    return [row.hold for row in rows]


def credit(
    db: apsw.Connection,
    account: str,
    amount_nanos: int,
    kind: str,
    tx: str,
    at_ms: int,
    topup: TopupRow | None,
) -> bool:
    """Post ``amount`` to a wallet against cash or promo; False when ``tx`` or its event exists.

    Raises Refused when there is no such wallet, or it cannot take that amount.
    """
    if amount_nanos == 0 or kind not in AGAINST:
        raise ValueError("not a credit")
    known: dict[str, Any] = {"source": None, "event": None, "tx": tx}
    if topup is not None:
        known |= msgspec.structs.asdict(topup)
    if run(db, "credit_known", **known):
        return False
    against = AGAINST[kind]
    heads = _heads(db, [account, against])
    if account not in heads or heads[account][0] != "wallet":
        raise Refused("not_found", thing="account")
    entries = [
        EntryRow(tx, 0, account, amount_nanos, kind, at_ms),
        EntryRow(tx, 1, against, -amount_nanos, kind, at_ms),
    ]
    try:
        _post(db, heads, entries, {})
    except apsw.ConstraintError:
        raise Refused("conflict", what="The account cannot take that amount.") from None
    if topup is not None:
        run(db, "topup_insert", **known, account=account, at_ms=at_ms)
    return True
