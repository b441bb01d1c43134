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
from moongate.core.store import Extension, Settlement
from moongate.store import holding, moves
from moongate.store.lane import Outcome
from moongate.store.opening import connect

Call = Callable[[apsw.Connection], Any]
Op = holding.Want | Extension | Settlement | Call

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
        """Let the connection go; the last one to go folds the log into the file."""
        db, self._db = self._db, None
        if db is not None:
            try:
                db.close()
            except apsw.Error:
                # The folding failed. What was committed is in the log, and the next start reads it.
                return

    def commit(self, ops: Sequence[Op]) -> list[Outcome]:
        """One transaction for all of ``ops``: what was held comes free first, then holds grow."""
        try:
            self._begin()
            outcomes = _perform(self.db(), ops)
            self.db().execute("COMMIT")
        except BaseException as error:
            self._undo()
            if not isinstance(error, apsw.Error):
                raise
            return [_unavailable(error) for _ in ops]
        return outcomes

    def _begin(self) -> None:
        try:
            self.db().execute("BEGIN IMMEDIATE")
        except apsw.BusyError:
            raise
        except apsw.Error:
            # Nothing can even begin: the next batch tries with a new connection.
            self.close()
            raise

    def _undo(self) -> None:
        # The connection stays: it alone knows that a commit whose sync failed is none, and writes
        # over it. Were nobody there, the next to come would find that commit whole in the log.
        try:
            if self._db is not None and self._db.in_transaction:
                self._db.execute("ROLLBACK")
        except apsw.Error:
            self.close()

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


_MOVES: Final[tuple[tuple[type[Any], Callable[[apsw.Connection, Any], Sequence[Outcome]]], ...]] = (
    (Settlement, moves.settle),
    (Extension, holding.extend),
    (holding.Want, holding.hold),
)
"""What is done in batches, and in which order."""


def _perform(db: apsw.Connection, ops: Sequence[Op]) -> list[Outcome]:
    """Every op's outcome, in the order of ``ops``."""
    outcomes: list[Outcome] = [None] * len(ops)
    batched = 0
    for kind, move in _MOVES:
        places = [n for n, op in enumerate(ops) if type(op) is kind]
        if places:
            for n, outcome in zip(places, move(db, [ops[n] for n in places]), strict=True):
                outcomes[n] = outcome
            batched += len(places)
    if batched < len(ops):
        for n, op in enumerate(ops):
            if not isinstance(op, holding.Want | Extension | Settlement):
                outcomes[n] = _call(db, op)
    return outcomes


def _call(db: apsw.Connection, call: Call) -> Outcome:
    try:
        with moves.step(db):
            return call(db)
    except moves.FAULTY as error:
        return moves.own_fault(error)
