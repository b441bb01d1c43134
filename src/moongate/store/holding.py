"""The moves that set money aside, as SQL on one connection: hold and extend.

As in ``moves``, each function runs inside a transaction that its caller opened and will commit.
A batch asks for all that it wants in one guarded statement; only where some account cannot pay
for everybody are those who touch it served alone, in order, with what is left for them.
"""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import apsw
import msgspec

from moongate.core.rows import HoldRow, HoldState
from moongate.core.store import Extension, Idem, NotHeld
from moongate.store.claims import legs_with_budgets, used_keys
from moongate.store.mapping import as_json, hold_row, hold_values
from moongate.store.moves import FAULTY, own_fault, step
from moongate.store.statements import run

_replace = msgspec.structs.replace


class Want(msgspec.Struct, frozen=True):
    """A hold as it is asked for: at least ``floor_nanos``, and above that whole units."""

    row: HoldRow
    floor_nanos: int
    unit_nanos: int
    idem: Idem | None = None


Thing = TypeVar("Thing", Want, tuple[Extension, HoldRow])
Made = HoldRow | BaseException
Held = HoldRow | NotHeld | BaseException
Extended = HoldRow | None | BaseException


class _Ask(msgspec.Struct, Generic[Thing]):
    """``nanos`` wanted on every leg for a thing; at least ``floor``, and above it whole units."""

    thing: Thing
    legs: tuple[str, ...]
    nanos: int
    floor: int
    unit: int


Many = Callable[[Sequence[_Ask[Thing]]], list[HoldRow]]


class _CannotPay(Exception):
    """Some accounts cannot take all that a batch wants of them."""

    def __init__(self, tight: set[str]) -> None:
        super().__init__(len(tight))
        self.tight = tight


def _reserve(db: apsw.Connection, asks: Sequence[_Ask[Thing]]) -> None:
    """Take every ask's money aside on every leg, or raise _CannotPay."""
    wanted: dict[str, int] = {}
    for ask in asks:
        for leg in ask.legs:
            wanted[leg] = wanted.get(leg, 0) + ask.nanos
    paid = {id for (id,) in run(db, "hold_reserve", rows=as_json([*wanted.items()]))}
    if len(paid) < len(wanted):
        raise _CannotPay(wanted.keys() - paid)


def _share(
    db: apsw.Connection, asks: Sequence[_Ask[Thing]], many: Many[Thing]
) -> list[Made | None]:
    """``many`` on all of ``asks``, or on fewer where money is short; ``None``: not the least."""
    try:
        with step(db):
            return [*many(asks)]
    except _CannotPay as error:
        tight = error.tight
    except FAULTY as error:
        if len(asks) == 1:
            return [own_fault(error)]
        tight = {leg for ask in asks for leg in ask.legs}
    answers: list[Made | None] = [None] * len(asks)
    at_ease = [n for n, ask in enumerate(asks) if tight.isdisjoint(ask.legs)]
    if at_ease:
        for n, answer in zip(at_ease, _share(db, [asks[n] for n in at_ease], many), strict=True):
            answers[n] = answer
    for n, ask in enumerate(asks):
        if not tight.isdisjoint(ask.legs):
            answers[n] = _alone(db, ask, many)
    return answers


def _alone(db: apsw.Connection, ask: _Ask[Thing], many: Many[Thing]) -> Made | None:
    """One ask with what its poorest leg can pay."""
    room = dict(run(db, "legs_room", ids=as_json(ask.legs)))
    poorest = min(room.get(leg, -1) for leg in ask.legs)
    if poorest < ask.nanos:
        if poorest < ask.floor:
            return None
        ask.nanos = ask.floor + (poorest - ask.floor) // max(ask.unit, 1) * max(ask.unit, 1)
    try:
        with step(db):
            return many([ask])[0]
    except FAULTY as error:
        return own_fault(error)


def hold(db: apsw.Connection, wants: Sequence[Want]) -> list[Held]:
    """Set money aside for each want: the hold as made or as it stands, or why there is none."""
    answers: list[Held] = [NotHeld("short")] * len(wants)
    left = list(range(len(wants)))
    while left:
        # One id or Idempotency-Key twice: the later one finds what the earlier one left.
        names: set[object] = set()
        now: list[int] = []
        later: list[int] = []
        for n in left:
            idem = wants[n].idem
            mine: set[object] = {wants[n].row.id}
            if idem is not None:
                mine |= {(idem.account, key) for key, _ in idem.marks}
            (now if names.isdisjoint(mine) else later).append(n)
            names |= mine
        for n, answer in zip(now, _hold_once(db, [wants[n] for n in now]), strict=True):
            answers[n] = answer
        left = later
    return answers


def _hold_once(db: apsw.Connection, wants: Sequence[Want]) -> list[Held]:
    ids = as_json([want.row.id for want in wants])
    known = {id for (id,) in run(db, "holds_known", ids=ids)}
    used = used_keys(db, [(w.idem, w.row.created_ms) for w in wants])
    answers: list[Held] = [NotHeld("short")] * len(wants)
    fresh = []
    for n, want in enumerate(wants):
        if want.row.id in known:
            answers[n] = _as_it_stands(db, want.row)
        elif n in used:
            answers[n] = used[n]
        elif min(want.row.amount_nanos, want.floor_nanos) < 0:
            answers[n] = ValueError("a hold cannot be negative")
        else:
            fresh.append(n)
    if fresh:
        legs = legs_with_budgets(db, [wants[n].row for n in fresh])
        asks = [
            _Ask(w, legs, w.row.amount_nanos, w.floor_nanos, w.unit_nanos)
            for w, legs in zip((wants[n] for n in fresh), legs, strict=True)
        ]
        for n, made in zip(fresh, _share(db, asks, lambda some: _make(db, some)), strict=True):
            if made is not None:
                answers[n] = made
    return answers


def _as_it_stands(db: apsw.Connection, row: HoldRow) -> HoldRow | BaseException:
    stands = hold_row(run(db, "holds", ids=as_json([row.id]))[0])
    if (stands.key, stands.account) != (row.key, row.account):
        return ValueError("the store refused this row: another's hold")
    return stands


def _make(db: apsw.Connection, asks: Sequence[_Ask[Want]]) -> list[HoldRow]:
    _reserve(db, asks)
    made = [
        _replace(a.thing.row, amount_nanos=a.nanos, legs=a.legs, state=HoldState.OPEN) for a in asks
    ]
    run(db, "hold_insert", rows=as_json([hold_values(row) for row in made]))
    run(db, "hold_legs", rows=as_json([(row.id, leg) for row in made for leg in row.legs]))
    marks = [
        (idem.account, key.hex(), body.hex(), a.thing.row.id, idem.expires_ms)
        for a in asks
        if (idem := a.thing.idem) is not None
        for key, body in idem.marks
    ]
    if marks:
        run(db, "idem_insert", rows=as_json(marks))
    return made


def extend(db: apsw.Connection, extensions: Sequence[Extension]) -> list[Extended]:
    """Set more aside for each open hold; the hold as it stands then, ``None``: it is resolved."""
    answers: list[Extended] = [None] * len(extensions)
    left = list(range(len(extensions)))
    while left:
        holds = {extensions[n].hold: n for n in reversed(left)}
        now = sorted(holds.values())  # of several for one hold, the first
        for n, answer in zip(now, _extend_once(db, [extensions[n] for n in now]), strict=True):
            answers[n] = answer
        left = [n for n in left if holds[extensions[n].hold] != n]
    return answers


def _extend_once(db: apsw.Connection, extensions: Sequence[Extension]) -> list[Extended]:
    ids = as_json([extension.hold for extension in extensions])
    found = (hold_row(values) for values in run(db, "holds", ids=ids))
    rows = {row.id: row for row in found if row.state is HoldState.OPEN}
    answers: list[Extended] = [rows.get(extension.hold) for extension in extensions]
    asks, places = [], []
    for n, extension in enumerate(extensions):
        row = rows.get(extension.hold)
        if (
            row is not None
            and extension.wanted_nanos > 0
            and row.slice_no == extension.slice_no - 1
        ):
            asks.append(
                _Ask((extension, row), row.legs, extension.wanted_nanos, 0, extension.unit_nanos)
            )
            places.append(n)
    if asks:
        for n, more in zip(places, _share(db, asks, lambda some: _grow(db, some)), strict=True):
            answers[n] = answers[n] if more is None else more
    idle = [
        (e.hold, 0, answer.slice_no, answer.slice_no, e.at_ms)
        for e, answer in zip(extensions, answers, strict=True)
        if isinstance(answer, HoldRow) and answer is rows[e.hold]
    ]
    if idle:
        run(db, "hold_extend", rows=as_json(idle))
    return answers


def _grow(db: apsw.Connection, asks: Sequence[_Ask[tuple[Extension, HoldRow]]]) -> list[HoldRow]:
    _reserve(db, asks)
    grown = [
        (e.hold, ask.nanos, row.slice_no, e.slice_no if ask.nanos else row.slice_no, e.at_ms)
        for ask in asks
        for e, row in [ask.thing]
    ]
    ids = run(db, "hold_extend", rows=as_json(grown))
    if len(ids) < len(grown):
        raise ValueError("an extended hold is not as it was")
    return [
        _replace(ask.thing[1], amount_nanos=ask.thing[1].amount_nanos + ask.nanos, slice_no=after)
        for ask, (_, _, _, after, _) in zip(asks, grown, strict=True)
    ]
