"""The moves of money as SQL on one connection: hold, settle, expire, credit.

Each function is one move inside a transaction that its caller opened and will commit. A batch is
a handful of statements however many moves it has; where one of them cannot be done, the others
are not held up by it. What may not happen is refused by the guards in the statements and by the
constraints of the tables, never by a figure that was read before.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, TypeVar

import apsw

from moongate.core.errors import Refused
from moongate.core.ports import Settlement
from moongate.core.rows import Finding, HoldRow, HoldState, UsageRow
from moongate.store.mapping import (
    AGAINST,
    as_json,
    expired_row,
    hold_values,
    legs_of,
    usage_values,
)
from moongate.store.statements import AUDITS, SQL

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

Move = TypeVar("Move", HoldRow, Settlement)
Answer = bool | BaseException


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


def one_by_one(
    db: apsw.Connection, moves: Sequence[Move], many: Callable[[Sequence[Move]], list[Answer]]
) -> list[Answer]:
    """``many`` on all of ``moves`` at once, or on each alone where one of them is at fault."""
    try:
        with step(db):
            return many(moves)
    except FAULTY as error:
        if len(moves) == 1:
            return [own_fault(error)]
    return [one_by_one(db, [move], many)[0] for move in moves]


class _CannotPay(Exception):
    """Some accounts cannot take all that a batch wants of them."""

    def __init__(self, tight: set[str]) -> None:
        super().__init__(len(tight))
        self.tight = tight


def hold(db: apsw.Connection, rows: Sequence[HoldRow]) -> list[Answer]:
    """Set money aside for each row, on every leg or none; False where a leg cannot pay."""
    try:
        with step(db):
            _reserve(db, rows)
        return [True] * len(rows)
    except _CannotPay as error:
        if len(rows) == 1:
            return [False]
        tight = error.tight
    except FAULTY as error:
        if len(rows) == 1:
            return [own_fault(error)]
        tight = {leg for row in rows for leg in legs_of(row)}
    # Whoever touches a tight account is served alone, in order; the rest again at once.
    answers: list[Answer] = [False] * len(rows)
    at_ease = [n for n, row in enumerate(rows) if tight.isdisjoint(legs_of(row))]
    if at_ease:
        for n, answer in zip(at_ease, hold(db, [rows[n] for n in at_ease]), strict=True):
            answers[n] = answer
    for n, row in enumerate(rows):
        if not tight.isdisjoint(legs_of(row)):
            answers[n] = hold(db, [row])[0]
    return answers


def _reserve(db: apsw.Connection, rows: Sequence[HoldRow]) -> None:
    wanted: dict[str, int] = {}
    for row in rows:
        if row.amount_nanos < 0:
            raise ValueError("a hold cannot be negative")
        for leg in legs_of(row):
            wanted[leg] = wanted.get(leg, 0) + row.amount_nanos
    paid = {id for (id,) in db.execute(SQL["hold_reserve"], {"rows": as_json([*wanted.items()])})}
    if len(paid) < len(wanted):
        raise _CannotPay(wanted.keys() - paid)
    db.execute(SQL["hold_insert"], {"rows": as_json([hold_values(row) for row in rows])})
    legs = [(row.id, leg) for row in rows for leg in legs_of(row)]
    db.execute(SQL["hold_legs"], {"rows": as_json(legs)})


def settle(db: apsw.Connection, settlements: Sequence[Settlement]) -> list[Answer]:
    """Resolve each open hold with its usage row; False where it was resolved before."""

    def many(some: Sequence[Settlement]) -> list[Answer]:
        firsts: dict[str, UsageRow] = {}
        for settlement in some:
            firsts.setdefault(settlement.row.hold, settlement.row)
        if len(firsts) < len(some) and len(some) > 1:
            raise ValueError("one hold twice in a batch")  # each alone, then
        states = {
            settlement.row.hold: HoldState.VOID if settlement.void else HoldState.SETTLED
            for settlement in some
        }
        won = _resolve(db, firsts, states)
        return [settlement.row.hold in won for settlement in some]

    return one_by_one(db, settlements, many)


def _resolve(
    db: apsw.Connection, rows: dict[str, UsageRow], states: dict[str, HoldState]
) -> set[str]:
    """Take each hold out of state 0 with its usage row; returns the ids that were still open."""
    claims = [(id, states[id], row.ended_ms) for id, row in rows.items()]
    won = {id for (id,) in db.execute(SQL["settle_claim"], {"rows": as_json(claims)})}
    if not won:
        return won
    ours = [row for id, row in rows.items() if id in won]
    charges = [(row.hold, row.charge_nanos) for row in ours]
    db.execute(SQL["settle_release"], {"rows": as_json(charges)})
    total = sum(nanos for _, nanos in charges)
    if total:
        db.execute(SQL["post"], {"id": "revenue", "nanos": total})
        entries = [
            (row.hold, seq, account, nanos, "charge", row.ended_ms)
            for row in ours
            if row.charge_nanos
            for seq, account, nanos in (
                (0, row.account, -row.charge_nanos),
                (1, "revenue", row.charge_nanos),
            )
        ]
        db.execute(SQL["entry_insert"], {"rows": as_json(entries)})
    db.execute(SQL["usage_insert"], {"rows": as_json([usage_values(row) for row in ours])})
    return won


def expire(db: apsw.Connection, at_ms: int, grace_s: int) -> list[str]:
    """Resolve the open holds whose lease and grace ran out, charge 0; returns their ids."""
    return _lapse(db, db.execute(SQL["lapsed"], {"at_ms": at_ms, "grace_s": grace_s}), at_ms)


def expire_orphans(db: apsw.Connection, owner: str, at_ms: int) -> list[str]:
    """Resolve the open holds of every owner but ``owner``, charge 0; returns their ids."""
    return _lapse(db, db.execute(SQL["orphans"], {"owner": owner}), at_ms)


def _lapse(db: apsw.Connection, found: apsw.Cursor, at_ms: int) -> list[str]:
    rows = [expired_row(values, at_ms) for values in found.fetchall()]
    if rows:
        _resolve(
            db,
            {row.hold: row for row in rows},
            dict.fromkeys((r.hold for r in rows), HoldState.EXPIRED),
        )
    return [row.hold for row in rows]


def credit(
    db: apsw.Connection, account: str, amount_nanos: int, kind: str, tx: str, at_ms: int
) -> bool:
    """Post ``amount`` to a wallet against cash or promo; False when ``tx`` exists.

    Raises Refused when there is no such wallet, or it cannot take that amount.
    """
    if amount_nanos == 0 or kind not in AGAINST:
        raise ValueError("not a credit")
    if db.execute(SQL["tx_known"], {"tx": tx}).fetchone() is not None:
        return False
    db.execute(SQL["credit_wallet"], {"id": account, "nanos": amount_nanos})
    if db.changes() == 0:
        found = db.execute(SQL["account"], {"id": account}).fetchone()
        if found is None or found[1] != "wallet":
            raise Refused("not_found", thing="account")
        raise Refused("conflict", what="The account cannot take that amount.")
    db.execute(SQL["post"], {"id": AGAINST[kind], "nanos": -amount_nanos})
    entries = [
        (tx, 0, account, amount_nanos, kind, at_ms),
        (tx, 1, AGAINST[kind], -amount_nanos, kind, at_ms),
    ]
    db.execute(SQL["entry_insert"], {"rows": as_json(entries)})
    return True


def audit(db: apsw.Connection) -> list[Finding]:
    """All invariants of one moment, and the file's own soundness."""
    db.execute("BEGIN")
    try:
        found = [Finding(*values) for sql in AUDITS for values in db.execute(sql)]
        found += [
            Finding("file", str(n), text)
            for n, (text,) in enumerate(db.execute("PRAGMA integrity_check(10)"))
            if text != "ok"
        ]
    finally:
        db.execute("ROLLBACK")
    return found
