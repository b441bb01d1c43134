"""Rows to SQL values and back: the only place that knows the order of columns."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from moongate.core.money import Price, Usage, charge
from moongate.core.rows import (
    NO_QUOTA,
    AccountRow,
    EntryRow,
    HoldRow,
    HoldState,
    KeyRow,
    PriceRow,
    Quota,
    UsageRow,
)

_ENCODER: Final = msgspec.json.Encoder()
FOREVER_MS: Final = 1 << 62
AMOUNT_MAX: Final = 4 * 10**18
"""Nano-dollars: the most that an account's columns take, as the tables say."""
AGAINST: Final = {"topup": "cash", "refund": "cash", "trial": "promo"}
"""The kind of a credit -> the account that it is posted against."""
Values = Sequence[Any]


def span(from_ms: int, to_ms: int | None) -> dict[str, int]:
    """The ends of [from, to) as a statement takes them."""
    return {"from_ms": from_ms, "to_ms": FOREVER_MS if to_ms is None else to_ms}


def as_json(rows: Any) -> str:
    """A batch as the one JSON array that a statement takes."""
    return _ENCODER.encode(rows).decode()


def legs_of(row: HoldRow) -> tuple[str, ...]:
    """The accounts that a hold counts against, in id order, its own among them."""
    return tuple(sorted({row.account, *row.legs}))


def subjects_of(row: HoldRow) -> list[tuple[str, str]]:
    """(scope, subject) of every budget that a hold can count against."""
    found = [("key", row.key), ("account", row.account)]
    if row.project:
        found.append(("project", f"{row.account}/{row.project}"))
    return found


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
        row.project,
    )


def hold_row(values: Values) -> HoldRow:
    """A row of the ``hold`` statements."""
    *fields, legs, slice_no, state, project = values[:13]
    legs, used = tuple(msgspec.json.decode(legs)), Usage(*values[13:17])
    return HoldRow(*[*fields, legs, slice_no, HoldState(state), project, used])


def entry_values(entry: EntryRow) -> Values:
    """Columns of ``entry_insert``."""
    *fields, chain = msgspec.structs.astuple(entry)
    return (*fields, None if chain is None else chain.hex())


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
        row.attempts,
        row.spoiled_nanos,
    )


def usage_row(values: Values) -> UsageRow:
    """A row of the ``usage`` statements."""
    *classes, estimated = values[6:12]
    used = msgspec.structs.replace(Usage(*classes), estimated=bool(estimated))
    fields = [*values[:6], used, *values[12:17], bool(values[17]), *values[18:]]
    return UsageRow(*fields)


def expired_row(hold: HoldRow, price: Price, at_ms: int, *, checkpoint: bool) -> UsageRow:
    """The usage row of a hold whose holder died: its noted counts, forgiven or charged.

    Status 0: nobody knows what the client was told.
    """
    due = charge(hold.running, price)
    paid = min(due, hold.amount_nanos) if checkpoint else 0
    return UsageRow(
        hold=hold.id,
        key=hold.key,
        account=hold.account,
        model=hold.model,
        upstream="",
        outcome="expired",
        usage=hold.running,
        price_version=hold.price_version,
        charge_nanos=paid,
        forgiven_nanos=due - paid,
        created_ms=hold.created_ms,
        ended_ms=at_ms,
        status=0,
        duration_ms=max(0, at_ms - hold.created_ms),
    )


def quota_values(quota: Quota) -> dict[str, Any]:
    """Bindings of the three rates."""
    return msgspec.structs.asdict(quota)


def _quota(values: Values) -> Quota:
    """The three rates; most rows have none."""
    return NO_QUOTA if values == (None, None, None) else Quota(*values)


def account_row(values: Values) -> AccountRow:
    """A row of the ``account`` statements."""
    *fields, rpm, tpm, concurrency, chain_no, chain = values
    return AccountRow(*[*fields, _quota((rpm, tpm, concurrency)), chain_no, chain])


def key_values(row: KeyRow) -> dict[str, Any]:
    """Bindings of ``key_insert``."""
    values = msgspec.structs.asdict(row)
    del values["quota"], values["account_quota"]
    return (
        values
        | quota_values(row.quota)
        | {
            "admin": int(row.admin),
            "models": as_json(row.models),
            "zero_retention": int(row.zero_retention),
        }
    )


def key_row(values: Values) -> KeyRow:
    """A row of the ``key`` statements, with its account's rates where they stand behind it."""
    *fields, admin, models, policy, zero_retention, expires_ms, revoked_ms, project = values[:13]
    fields += [bool(admin), tuple(msgspec.json.decode(models)), policy, bool(zero_retention)]
    fields += [expires_ms, revoked_ms, project, _quota(values[13:16]), *values[16:18]]
    fields.append(_quota(values[18:]) if len(values) > 18 else NO_QUOTA)
    return KeyRow(*fields)


def price_row(values: Values) -> PriceRow:
    """A row of the ``prices`` statement."""
    version, model, *nanos, from_ms = values
    return PriceRow(version, model, Price(*nanos), from_ms)
