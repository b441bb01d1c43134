"""Rows to SQL values and back: the only place that knows the order of columns."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from moongate.core.money import Price, Usage
from moongate.core.rows import AccountRow, HoldRow, HoldState, KeyRow, PriceRow, UsageRow

_ENCODER: Final = msgspec.json.Encoder()
FOREVER_MS: Final = 1 << 62
AMOUNT_MAX: Final = 4 * 10**18
"""Nano-dollars: the most that an account's columns take, as the tables say."""
AGAINST: Final = {"topup": "cash", "refund": "cash", "trial": "promo"}
"""The kind of a credit -> the account that it is posted against."""
Values = Sequence[Any]


def as_json(rows: Sequence[Any]) -> str:
    """A batch as the one JSON array that a statement takes."""
    return _ENCODER.encode(rows).decode()


def legs_of(row: HoldRow) -> tuple[str, ...]:
    """The accounts that a hold counts against, in id order, its own among them."""
    return tuple(sorted({row.account, *row.legs}))


def hold_values(row: HoldRow) -> Values:
    """Columns of ``hold_insert``."""
    return (
        row.id,
        row.key,
        row.account,
        row.model,
        row.amount_nanos,
        row.slice_no,
        row.price_version,
        row.owner,
        row.lease_s,
        row.created_ms,
    )


def hold_row(values: Values) -> HoldRow:
    """A hold of ``open_holds``."""
    fields = list(values)
    fields[9] = tuple(msgspec.json.decode(fields[9]))
    fields[11] = HoldState(fields[11])
    return HoldRow(*fields)


def usage_values(row: UsageRow) -> Values:
    """Columns of ``usage_insert``."""
    used = row.usage
    return (
        row.hold,
        row.key,
        row.account,
        row.model,
        row.upstream,
        row.outcome,
        used.input,
        used.cache_read,
        used.output,
        used.searches,
        used.reasoning,
        int(used.estimated),
        row.price_version,
        row.charge_nanos,
        row.forgiven_nanos,
        row.created_ms,
        row.ended_ms,
        int(row.streamed),
        row.status,
        row.first_token_ms,
        row.duration_ms,
        row.upstream_prompt,
        row.upstream_completion,
        row.upstream_cached,
    )


def usage_row(values: Values) -> UsageRow:
    """A row of the ``usage`` statements."""
    *classes, estimated = values[6:12]
    used = msgspec.structs.replace(Usage(*classes), estimated=bool(estimated))
    fields = [*values[:6], used, *values[12:17], bool(values[17]), *values[18:]]
    return UsageRow(*fields)


def expired_row(values: Values, at_ms: int) -> UsageRow:
    """The usage row of a hold whose holder died: nothing is known, nothing is charged.

    ``values`` are id, key, account, model, price version and time of creation. Status 0: nobody
    knows what the client was told.
    """
    id, key, account, model, version, created_ms = values
    return UsageRow(
        hold=id,
        key=key,
        account=account,
        model=model,
        upstream="",
        outcome="expired",
        usage=Usage(),
        price_version=version,
        charge_nanos=0,
        forgiven_nanos=0,
        created_ms=created_ms,
        ended_ms=at_ms,
        status=0,
        duration_ms=max(0, at_ms - created_ms),
    )


def account_row(values: Values) -> AccountRow:
    """A row of the ``account`` statements."""
    return AccountRow(*values)


def key_values(row: KeyRow) -> dict[str, Any]:
    """Bindings of ``key_insert``."""
    values = {name: getattr(row, name) for name in row.__struct_fields__}
    return values | {
        "admin": int(row.admin),
        "models": as_json(row.models),
        "zero_retention": int(row.zero_retention),
    }


def key_row(values: Values) -> KeyRow:
    """A row of the ``key`` statements."""
    id, account, name, mac, last4, created_ms, admin, models, policy, zero, expires, revoked = (
        values
    )
    return KeyRow(
        id=id,
        account=account,
        name=name,
        mac=mac,
        last4=last4,
        created_ms=created_ms,
        admin=bool(admin),
        models=tuple(msgspec.json.decode(models)),
        policy=policy,
        zero_retention=bool(zero),
        expires_ms=expires,
        revoked_ms=revoked,
    )


def price_row(values: Values) -> PriceRow:
    """A row of the ``prices`` statement."""
    version, model, *nanos, from_ms = values
    return PriceRow(version, model, Price(*nanos), from_ms)
