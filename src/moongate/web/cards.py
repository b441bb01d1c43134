"""What the public sees of a model: its card, and its price list, out of the rows that bill.

Every figure is a price row's or computed from one in integers; nothing is typed in here.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from moongate.core.cards import Card, Offer
from moongate.core.money import nanos_to_per_million, nanos_to_usd, usd_to_nanos
from moongate.core.prices import percent_under
from moongate.core.rows import PriceRow

_TOKENS_QUOTED = 1_000_000


def card(offer: Offer) -> dict[str, Any]:
    """A model's public card: Moonshot's fields, and what stands behind it here."""
    out: dict[str, Any] = {
        "id": offer.card.id,
        "object": "model",
        "created": offer.card.created_s,
        "owned_by": offer.card.owned_by,
        "context_length": offer.window,
        "supports_image_in": "images" in offer.abilities,
        "supports_video_in": "video" in offer.abilities,
        "supports_reasoning": "thinking" in offer.abilities,
        "abilities": sorted(offer.abilities),
        "max_output_tokens_default": offer.output_tokens_default,
        "aliases": list(offer.card.aliases),
        "architecture": {**offer.card.architecture, "context_length": offer.card.window},
        "pricing": pricing(offer.price),
        "upstream": offer.upstream,
        "data_policy": offer.data_policy,
        "system_fingerprint": offer.fingerprint,
    }
    if offer.card.list_price:
        out["list_price"] = offer.card.list_price
    if offer.stand_in is not None:
        out["stand_in"] = offer.stand_in
    return out


def pricing(row: PriceRow) -> dict[str, Any]:
    """A price row for people (decimal strings) and for sums (integers)."""
    price = row.price
    return {
        "version": row.version,
        "from": datetime.fromtimestamp(row.from_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "from_ms": row.from_ms,
        "currency": "USD",
        "unit": "per million tokens; search per call",
        "unit_nanos": "per token; search per call",
        "input": nanos_to_per_million(price.input),
        "cached": nanos_to_per_million(price.cached),
        "output": nanos_to_per_million(price.output),
        "search": nanos_to_usd(price.search),
        "input_nanos": price.input,
        "cached_nanos": price.cached,
        "output_nanos": price.output,
        "search_nanos": price.search,
    }


def priced(offer: Offer, upcoming: Sequence[PriceRow]) -> dict[str, Any]:
    """A model's line in ``/v1/pricing``: the price in force, those to come, and comparisons."""
    return {
        "object": "pricing",
        "model": offer.card.id,
        "aliases": list(offer.card.aliases),
        **pricing(offer.price),
        "list_price": offer.card.list_price,
        "percent": _percent(offer.card, offer.price),
        "upcoming": [pricing(row) for row in upcoming],
    }


def _percent(card: Card, row: PriceRow) -> dict[str, Any]:
    """By how many per cent one figure of the two tables lies under another, as decimal text.

    ``None`` where the other is missing or nothing.
    """
    ours = {"input": row.price.input, "cached": row.price.cached, "output": row.price.output}
    ours = {name: nanos * _TOKENS_QUOTED for name, nanos in ours.items()}
    theirs = {name: usd_to_nanos(text) for name, text in card.list_price.items()}
    return {
        "cached_under_input": percent_under(ours["cached"], ours["input"]),
        "cached_under_list_input": percent_under(ours["cached"], theirs.get("input", 0)),
        "under_list": {name: percent_under(ours[name], theirs[name]) for name in theirs},
    }
