"""The audit as SQL on one connection that reads: what breaks an invariant, of one moment.

Wallets' chains are recomputed here, entry by entry; everything else is one statement each.
"""

from collections.abc import Callable, Iterator
from itertools import groupby

import apsw

from moongate.core.chain import breaks
from moongate.core.rows import EntryRow, Finding
from moongate.store.statements import AUDITS, SQL


def audit(db: apsw.Connection) -> list[Finding]:
    """All invariants, and the file's own soundness."""
    return _at_one_moment(db, _audit)


def self_check(db: apsw.Connection) -> list[Finding]:
    """What needs no look at what is resolved."""
    return _at_one_moment(db, _self_check)


def _at_one_moment(
    db: apsw.Connection, look: Callable[[apsw.Connection], Iterator[Finding]]
) -> list[Finding]:
    db.execute("BEGIN")
    try:
        return list(look(db))
    finally:
        db.execute("ROLLBACK")


def _self_check(db: apsw.Connection) -> Iterator[Finding]:
    for name in ("drift", "audit_3_held", "audit_4_overdraft"):
        yield from (Finding(*values) for values in db.execute(SQL[name]))


def _audit(db: apsw.Connection) -> Iterator[Finding]:
    for sql in AUDITS:
        yield from (Finding(*values) for values in db.execute(sql))
    for (id, number, chain), rows in groupby(db.execute(SQL["chains"]), lambda row: row[:3]):
        entries = (EntryRow(*row[3:]) for row in rows if row[3] is not None)
        yield from (Finding("chain", id, detail) for detail in breaks(entries, number, chain))
    for n, (text,) in enumerate(db.execute("PRAGMA integrity_check(10)")):
        if text != "ok":
            yield Finding("file", str(n), text)
