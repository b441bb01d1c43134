"""A desk: one connection, and how a batch becomes one commit on it.

The connection is opened when it is wanted, and again after the store was in trouble. Trouble
(full, read-only, failing, locked, damaged) is LedgerUnavailable for the whole batch, of which
then nothing was booked; a move's own fault is that move's alone.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import apsw

from moongate.core.errors import LedgerUnavailable
from moongate.core.ports import Settlement
from moongate.core.rows import HoldRow
from moongate.store import moves
from moongate.store.lane import Outcome
from moongate.store.opening import connect

Call = Callable[[apsw.Connection], Any]
Op = HoldRow | Settlement | Call

_KINDS: Final[tuple[tuple[type[apsw.Error], str], ...]] = (
    (apsw.FullError, "full"),
    (apsw.ReadOnlyError, "read_only"),
    (apsw.IOError, "io"),
    (apsw.CantOpenError, "cannot_open"),
    (apsw.BusyError, "busy"),
    (apsw.LockedError, "busy"),
    (apsw.CorruptError, "damaged"),
    (apsw.NotADBError, "damaged"),
    (apsw.NoMemError, "memory"),
)


def _unavailable(error: apsw.Error) -> LedgerUnavailable:
    kind = next((word for type_, word in _KINDS if isinstance(error, type_)), "store")
    return LedgerUnavailable(kind)


class Desk:
    """A connection that is opened when it is wanted, and again after the store was in trouble."""

    def __init__(self, path: Path, vfs: str | None, *, reading: bool) -> None:
        self._path, self._vfs, self._reading = path, vfs, reading
        self._db: apsw.Connection | None = None

    def db(self) -> apsw.Connection:
        """The connection. Raises apsw.Error."""
        if self._db is None:
            self._db = connect(self._path, self._vfs, reading=self._reading)
        return self._db

    def close(self) -> None:
        """Let the connection go, and with it whatever was not committed."""
        db, self._db = self._db, None
        if db is not None:
            db.close()

    def commit(self, ops: Sequence[Op]) -> list[Outcome]:
        """One transaction for all of ``ops``: what was held comes free first, then holds."""
        try:
            db = self.db()
            db.execute("BEGIN IMMEDIATE")
            outcomes = _perform(db, ops)
            db.execute("COMMIT")
        except BaseException as error:
            # A connection that met trouble is not trusted again: the next batch takes a new one.
            self.close()
            if not isinstance(error, apsw.Error):
                raise
            return [_unavailable(error) for _ in ops]
        return outcomes

    def look_up(self, calls: Sequence[Call]) -> list[Outcome]:
        """Each call's result, read from what is committed."""
        outcomes: list[Outcome] = []
        for call in calls:
            try:
                outcomes.append(call(self.db()))
            except moves.FAULTY as error:
                outcomes.append(moves.own_fault(error))
            except apsw.Error as error:
                self.close()
                outcomes.append(_unavailable(error))
        return outcomes


def _perform(db: apsw.Connection, ops: Sequence[Op]) -> list[Outcome]:
    """Every op's outcome, in the order of ``ops``."""
    outcomes: list[Outcome] = [None] * len(ops)
    settles = [(n, op) for n, op in enumerate(ops) if isinstance(op, Settlement)]
    holds = [(n, op) for n, op in enumerate(ops) if isinstance(op, HoldRow)]
    if settles:
        answers = moves.settle(db, [op for _, op in settles])
        for (n, _), answer in zip(settles, answers, strict=True):
            outcomes[n] = answer
    if holds:
        answers = moves.hold(db, [op for _, op in holds])
        for (n, _), answer in zip(holds, answers, strict=True):
            outcomes[n] = answer
    for n, op in enumerate(ops):
        if not isinstance(op, HoldRow | Settlement):
            outcomes[n] = _call(db, op)
    return outcomes


def _call(db: apsw.Connection, call: Call) -> Outcome:
    try:
        with moves.step(db):
            return call(db)
    except moves.FAULTY as error:
        return moves.own_fault(error)
