"""What a hold meets before any money: its client's Idempotency-Key, and the budgets over it.

Both are read in the transaction that makes the hold, never earlier.
"""

from collections.abc import Sequence
from typing import Any, Literal

import apsw

from moongate.core.rows import HoldRow, HoldState
from moongate.core.store import Idem, NotHeld
from moongate.core.windows import window_id
from moongate.store.mapping import as_json, legs_of, subjects_of
from moongate.store.statements import run


def used_keys(db: apsw.Connection, asked: Sequence[tuple[Idem | None, int]]) -> dict[int, NotHeld]:
    """By its place, what stands under each Idempotency-Key (asked at a time); freed ones go."""
    rows = [
        (n, idem.account, key.hex(), body.hex())
        for n, (idem, _) in enumerate(asked)
        if idem is not None
        for key, body in idem.marks
    ]
    found: dict[int, NotHeld] = {}
    if not rows:
        return found
    free = []
    for n, account, key, same_body, hold, state, expires_ms in run(
        db, "idem_used", rows=as_json(rows)
    ):
        if state in {HoldState.VOID, HoldState.EXPIRED} or expires_ms <= asked[n][1]:
            free.append((account, key.hex()))
        elif n not in found:
            found[n] = NotHeld(_why(same_body, state), hold)
    if free:
        run(db, "idem_free", rows=as_json(free))
    return found


def _why(same_body: int, state: int) -> Literal["other", "running", "completed"]:
    if not same_body:
        return "other"
    return "running" if state == HoldState.OPEN else "completed"


def legs_with_budgets(db: apsw.Connection, rows: Sequence[HoldRow]) -> list[tuple[str, ...]]:
    """The accounts that each hold counts against; windows of budgets are made on first use."""
    if not run(db, "budget_any"):
        return [legs_of(row) for row in rows]
    subjects = {subject for row in rows for subject in subjects_of(row)}
    budgets: dict[tuple[str, str], list[Any]] = {}
    for scope, subject, *budget in run(db, "budgets_on", rows=as_json(sorted(subjects))):
        budgets.setdefault((scope, subject), []).append(budget)
    windows: dict[str, tuple[str, int, int]] = {}
    legs = []
    for row in rows:
        mine = {*legs_of(row)}
        for subject in subjects_of(row):
            for id, per, cap in budgets.get(subject, ()):
                window = window_id(id, per, row.created_ms)
                windows[window] = (window, cap, row.created_ms)
                mine.add(window)
        legs.append(tuple(sorted(mine)))
    if windows:
        run(db, "windows_make", rows=as_json([*windows.values()]))
    return legs
