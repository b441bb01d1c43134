"""What is written down of a request that has ended: its usage row, charged up to what was held."""

import msgspec

from moongate.core.money import Counts, Price, Usage, charge
from moongate.core.ports import NO_COUNTS
from moongate.core.rows import HoldRow, Outcome, UsageRow


class Told(msgspec.Struct, frozen=True):
    """What a usage row says of its request beside money; no content.

    ``created_ms`` is the time of acceptance (epoch), ``first_token_ms`` and ``duration_ms`` are
    durations. ``counts`` are the upstream's own words. ``spoiled`` is what attempts used that were
    not as promised and not delivered.
    """

    upstream: str
    created_ms: int
    streamed: bool = False
    status: int = 200
    counts: Counts = NO_COUNTS
    first_token_ms: int | None = None
    duration_ms: int = 0
    attempts: int = 1
    spoiled: Usage = Usage()


def weigh(usage: Usage, price: Price, held_nanos: int) -> tuple[int, int]:
    """(charge, forgiven) in nano-dollars: the price of ``usage``, cut at what is held."""
    due = charge(usage, price)
    charged = min(due, held_nanos)
    return charged, due - charged


def usage_row(
    hold: HoldRow,
    price: Price,
    outcome: Outcome,
    usage: Usage,
    told: Told,
    limit_nanos: int,
    ended_ms: int,
) -> UsageRow:
    """The one usage row of ``hold``, charged at ``price`` up to ``limit_nanos``."""
    charged, forgiven = weigh(usage, price, limit_nanos)
    spoiled = charge(told.spoiled, price)
    return UsageRow(
        hold=hold.id,
        key=hold.key,
        account=hold.account,
        model=hold.model,
        upstream=told.upstream,
        outcome=outcome,
        usage=usage,
        price_version=hold.price_version,
        charge_nanos=charged,
        forgiven_nanos=forgiven + spoiled,
        created_ms=told.created_ms,
        ended_ms=ended_ms,
        streamed=told.streamed,
        status=told.status,
        first_token_ms=told.first_token_ms,
        duration_ms=told.duration_ms,
        upstream_prompt=told.counts.prompt,
        upstream_completion=told.counts.completion,
        upstream_cached=told.counts.cached,
        attempts=told.attempts,
        spoiled_nanos=spoiled,
    )
