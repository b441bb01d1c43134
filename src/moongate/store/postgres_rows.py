"""Rows and moves as the JSON and the parameters that PostgreSQL's statements take, and back.

Looks give their columns in the order of ``mapping``, which reads them; here is only what differs.
"""

from typing import Any, Final

import msgspec

from moongate.core.errors import Refused
from moongate.core.rows import BudgetRow, HoldRow, InviteRow, KeyRow, Quota, TopupRow
from moongate.core.store import Extension, Idem, NotHeld, Running, Settlement
from moongate.store.mapping import AGAINST, Values, hold_row, key_values

_ENCODER: Final = msgspec.json.Encoder()
Outcome = Any | BaseException


def as_bytea(value: bytes | None) -> str | None:
    """Bytes as they stand in JSON for a bytea column."""
    return None if value is None else "\\x" + value.hex()


def hold_json(row: HoldRow, floor_nanos: int | None, unit_nanos: int, idem: Idem | None) -> bytes:
    """One ``moongate_wanted``."""
    wanted = {
        "id": row.id,
        "key": row.key,
        "account": row.account,
        "model": row.model,
        "amount_nanos": row.amount_nanos,
        "slice_no": row.slice_no,
        "price_version": row.price_version,
        "owner": row.owner,
        "lease_s": row.lease_s,
        "project": row.project,
        "legs": row.legs,
        "floor_nanos": floor_nanos,
        "unit_nanos": unit_nanos,
    }
    if idem is not None:
        wanted["key_macs"] = [as_bytea(key) for key, _ in idem.marks]
        wanted["body_macs"] = [as_bytea(body) for _, body in idem.marks]
        wanted["expires_ms"] = idem.expires_ms
    return _ENCODER.encode(wanted)


def extension_json(ask: Extension) -> bytes:
    """One ``moongate_more``."""
    return _ENCODER.encode(ask)


def settlement_json(settlement: Settlement) -> bytes:
    """One ``moongate_end``."""
    end = msgspec.structs.asdict(settlement.row)
    used = end.pop("usage")
    end |= msgspec.structs.asdict(used)
    return _ENCODER.encode(end | {"state": 2 if settlement.void else 1})


def running_json(running: list[Running]) -> str:
    """What ``renew`` takes."""
    rows = [
        {
            "hold": one.hold,
            "input": one.usage.input,
            "cached": one.usage.cache_read,
            "output": one.usage.output,
            "searches": one.usage.searches,
        }
        for one in running
    ]
    return _ENCODER.encode(rows).decode()


def key_json(row: KeyRow) -> str:
    """One ``api_key``."""
    values = key_values(row)
    values |= {
        "mac": as_bytea(row.mac),
        "old_mac": as_bytea(row.old_mac),
        "admin": row.admin,
        "zero_retention": row.zero_retention,
    }
    return _ENCODER.encode(values).decode()


def quota_values(quota: Quota) -> Values:
    """Parameters of the three rates."""
    return msgspec.structs.astuple(quota)


def budget_values(row: BudgetRow) -> tuple[Any, ...]:
    """Parameters of ``budget_set``."""
    return msgspec.structs.astuple(row)[:7]


def credit_values(
    account: str, nanos: int, kind: str, tx: str, topup: TopupRow | None = None
) -> tuple[Any, ...]:
    """Parameters of ``credit``. Raises ValueError for what is none."""
    if nanos == 0 or kind not in AGAINST:
        raise ValueError("not a credit")
    source = (None,) * 5 if topup is None else msgspec.structs.astuple(topup)
    return (account, nanos, kind, AGAINST[kind], tx, *source)


def credited(said: str) -> bool:
    """What ``credit`` says: False for one that is booked already. Raises Refused."""
    if said == "missing":
        raise Refused("not_found", thing="account")
    if said == "cannot":
        raise Refused("conflict", what="The account cannot take that amount.")
    return said == "done"


def budget_row(values: Values) -> BudgetRow:
    """A row of the ``budget`` statements."""
    return BudgetRow(*values)


def invite_row(values: Values) -> InviteRow:
    """A row of the ``invite`` statements."""
    return InviteRow(*values)


def batch(pieces: list[bytes]) -> str:
    """A JSON array of what is JSON already."""
    return (b"[" + b",".join(pieces) + b"]").decode()


def outcomes(answer: str) -> tuple[list[Outcome], list[Outcome], list[Outcome]]:
    """What ``moongate_moves`` says: of settles, of extensions, of holds, each in its order.

    A hold that was made is (amount, time, legs).
    """
    settled, extended, held = msgspec.json.decode(answer)
    return (
        [_outcome(one) for one in settled],
        [_outcome(one) for one in extended],
        [_outcome(one) for one in held],
    )


def _outcome(one: Any) -> Outcome:
    match one:
        case {"fault": name}:
            return ValueError(f"the store refused this row: {name}")
        case {"made": [nanos, at_ms, legs]}:
            return nanos, at_ms, tuple(legs)
        case {"stands": values}:
            return hold_row(values)
        case {"why": why, "hold": hold}:
            return NotHeld(why, hold)
        case list():
            return hold_row(one)
        case _:
            return one
