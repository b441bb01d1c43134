"""How rows leave: named fields only, so that what is not listed here (a key's MAC) stays in.

Money is an integer in ``_nanos`` with the exact dollars beside it in ``_usd``; times are
milliseconds since the epoch in ``_ms``.
"""

from collections.abc import Sequence
from typing import Any

from moongate.core.cards import Facts, Offer
from moongate.core.money import Price, nanos_to_per_million, nanos_to_usd
from moongate.core.ports import Probe, Upstream
from moongate.core.rows import AccountRow, BudgetRow, Finding, InviteRow, KeyRow, PriceRow, Quota
from moongate.core.windows import window


def money(name: str, nanos: int) -> dict[str, int | str]:
    """``name_nanos`` and ``name_usd``."""
    return {f"{name}_nanos": nanos, f"{name}_usd": nanos_to_usd(nanos)}


def quota(row: Quota) -> dict[str, int | None]:
    """Rates; null where there is no limit."""
    return {"rpm": row.rpm, "tpm": row.tpm, "concurrency": row.concurrency}


def key(row: KeyRow, now_ms: int) -> dict[str, Any]:
    """A key without its secrets and without their MACs."""
    if row.revoked_ms is not None:
        state = "revoked"
    elif row.expires_ms is not None and row.expires_ms <= now_ms:
        state = "expired"
    else:
        state = "active"
    return {
        "id": row.id,
        "object": "key",
        "name": row.name,
        "account": row.account,
        "project": row.project,
        "last4": row.last4,
        "state": state,
        "admin": row.admin,
        "models": list(row.models),
        "policy": row.policy,
        "zero_retention": row.zero_retention,
        **quota(row.quota),
        "created_ms": row.created_ms,
        "expires_ms": row.expires_ms,
        "revoked_ms": row.revoked_ms,
        "old_secret_until_ms": row.old_until_ms if (row.old_until_ms or 0) > now_ms else None,
    }


def budget(row: BudgetRow, now_ms: int) -> dict[str, Any]:
    """A budget and its present window; ``left`` is what new requests may still take."""
    left = max(0, row.cap_nanos - row.spent_nanos - row.held_nanos)
    return {
        "id": row.id,
        "object": "budget",
        "account": row.account,
        "scope": row.scope,
        "subject": row.subject,
        "per": row.per,
        "window": window(row.per, now_ms),
        **money("cap", row.cap_nanos),
        **money("spent", row.spent_nanos),
        **money("held", row.held_nanos),
        **money("left", left),
        "created_ms": row.created_ms,
    }


def invitation(row: InviteRow, now_ms: int) -> dict[str, Any]:
    """An invitation without its code."""
    late = row.expires_ms <= now_ms
    return {
        "id": row.id,
        "object": "invitation",
        "account": row.account,
        "name": row.name,
        "state": "used" if row.used_ms is not None else "expired" if late else "open",
        "created_ms": row.created_ms,
        "expires_ms": row.expires_ms,
        "used_ms": row.used_ms,
        "key": row.key,
    }


def account(row: AccountRow) -> dict[str, Any]:
    """An account with what is posted, held and available."""
    return {
        "id": row.id,
        "object": "account",
        "kind": row.kind,
        **money("posted", row.posted_nanos),
        **money("held", row.held_nanos),
        **money("available", row.available_nanos),
        **money("credit_limit", row.credit_limit_nanos),
        **quota(row.quota),
        "created_ms": row.created_ms,
    }


def rates(price: Price) -> dict[str, Any]:
    """Nano-dollars per token and per search, and the dollars that people quote."""
    return {
        "input_nanos": price.input,
        "cached_nanos": price.cached,
        "output_nanos": price.output,
        "search_nanos": price.search,
        "input_per_million_usd": nanos_to_per_million(price.input),
        "cached_per_million_usd": nanos_to_per_million(price.cached),
        "output_per_million_usd": nanos_to_per_million(price.output),
        "search_usd": nanos_to_usd(price.search),
    }


def price(row: PriceRow, due: Sequence[PriceRow], now_ms: int) -> dict[str, Any]:
    """A dated price row at its place in its model's schedule.

    ``until_ms`` is when the next one begins. A row that is ``replaced`` never takes force.
    """
    at = due.index(row) if row in due else None
    until_ms = due[at + 1].from_ms if at is not None and at + 1 < len(due) else None
    if at is None:
        state = "replaced"
    elif row.from_ms > now_ms:
        state = "upcoming"
    else:
        state = "past" if until_ms is not None and until_ms <= now_ms else "in_force"
    return {
        "object": "price",
        "version": row.version,
        "model": row.model,
        "state": state,
        "in_force": state == "in_force",
        **rates(row.price),
        "from_ms": row.from_ms,
        "until_ms": until_ms,
    }


def model(offer: Offer) -> dict[str, Any]:
    """A card as it stands now: what it can do here, what it costs, where it goes."""
    card = offer.card
    return {
        "id": card.id,
        "object": "model",
        "aliases": list(card.aliases),
        "context_length": offer.window,
        "output_tokens_default": offer.output_tokens_default,
        "abilities": sorted(offer.abilities),
        "price_version": offer.price.version,
        "pricing": rates(offer.price.price),
        "list_price": dict(card.list_price),
        "targets": [
            {"upstream": name, "model": there}
            for name, there in dict.fromkeys((to.name, to.model) for to in card.targets)
        ],
        "upstream": offer.upstream,
        "data_policy": offer.data_policy,
        "system_fingerprint": offer.fingerprint,
        "stand_in": offer.stand_in,
        "architecture": {**card.architecture, "context_length": card.window},
    }


def upstream(end: Upstream, facts: Facts, probe: Probe) -> dict[str, Any]:
    """An upstream and what a look at it found."""
    return {
        "name": end.name,
        "object": "upstream",
        "kind": end.kind,
        "ok": probe.ok,
        "detail": probe.detail,
        "models": None if probe.models is None else list(probe.models),
        "data_policy": facts.data_policy,
        "stand_in": facts.stand_in,
    }


def finding(found: Finding) -> dict[str, str]:
    """A broken invariant of the ledger."""
    return {"invariant": found.invariant, "where": found.where, "detail": found.detail}
