"""Model cards and targets: what a model is, what it costs, and where it is served."""

from typing import Any, Literal

import msgspec

from moongate.core.rows import PriceRow

Ability = Literal["tools", "json", "partial", "thinking", "images", "video", "search"]
DataPolicy = Literal["self-hosted", "contract", "none"]
Order = Literal["listed", "weighted", "latency", "cost"]
UpstreamKind = Literal["moonshot", "vllm", "sglang", "openai", "embedded", "scripted"]
Family = Literal["kimi", "other"]
"""Whose habits a model has, wherever it is served: how it writes calls, ids and reasoning."""


class Target(msgspec.Struct, frozen=True):
    """One place where a model is served, and the model's name there.

    ``upstream`` is the upstream's name, with ``/`` and the credential's where it has several.
    Targets of one ``tier`` are equals. ``weight`` is a target's share among equals, ``cost`` what
    its upstream takes, in nano-dollars per input token.
    """

    upstream: str
    model: str
    tier: int = 0
    weight: float = 1.0
    cost: int = 0

    @property
    def name(self) -> str:
        """The upstream's name alone, as customers see it."""
        return self.upstream.partition("/")[0]


class Facts(msgspec.Struct, frozen=True):
    """What a serving end says of itself; ``None`` leaves it to the model card.

    ``window`` and ``output_tokens_default`` are tokens. ``lacks`` are abilities that it has not,
    whatever the card says. ``fingerprint`` goes into
    ``system_fingerprint``. ``stand_in`` is a sentence when the model served is not the one
    that the card names.
    """

    window: int | None = None
    abilities: frozenset[Ability] | None = None
    output_tokens_default: int | None = None
    fingerprint: str = ""
    data_policy: DataPolicy = "none"
    stand_in: str | None = None
    lacks: frozenset[Ability] = frozenset()


class Fixed(msgspec.Struct, frozen=True):
    """Sampling values that a model fixes: the exact value or none is accepted."""

    temperature_thinking: float
    temperature_instant: float
    top_p: float
    n: int
    presence_penalty: float
    frequency_penalty: float


class Card(msgspec.Struct, frozen=True):
    """A model on offer. ``window`` and ``output_tokens_default`` are tokens.

    ``architecture`` is data for people (parameters, experts, release date). ``sampling`` is
    ``None`` where the model leaves sampling free. ``order`` says which target comes first.
    """

    id: str
    aliases: tuple[str, ...]
    window: int
    output_tokens_default: int
    abilities: frozenset[Ability]
    targets: tuple[Target, ...]
    sampling: Fixed | None = None
    architecture: dict[str, Any] = {}
    list_price: dict[str, str] = {}
    created_s: int = 0
    order: Order = "listed"
    owned_by: str = "moonshot"
    family: Family = "other"


class Offer(msgspec.Struct, frozen=True):
    """A card as it stands now: with its price row and what its first live target can do."""

    card: Card
    price: PriceRow
    window: int
    output_tokens_default: int
    abilities: frozenset[Ability]
    fingerprint: str
    data_policy: DataPolicy
    upstream: str
    stand_in: str | None
