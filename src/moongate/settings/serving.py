"""``[[upstreams]]`` and ``[[models]]``: who answers, what is on offer, and at what price."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

from msgspec import Meta

from moongate.core.cards import Ability, Card, DataPolicy, Family, Fixed, Order, Target
from moongate.core.money import Price, per_million_to_nanos, usd_to_nanos
from moongate.settings.secret import Secret, Table

Kind = Literal["moonshot", "vllm", "sglang", "openai", "embedded"]
POLICY_RANK: Final[dict[DataPolicy, int]] = {"none": 0, "contract": 1, "self-hosted": 2}
"""How much a data policy promises; more is better."""
OUTPUT_TOKENS: Final = 32_768
"""Output cap when neither client nor file names one, unless the window is smaller."""
_NOT_KEPT: Final = ("not retained", "no retention", "zero retention", "never retained")
"""An agreement with one of these among its statements promises that nothing is kept."""


class Agreement(Table, frozen=True, kw_only=True):
    """``[upstreams.agreement]``, ``[search.agreement]``: what an operator holds in writing.

    A data policy ``contract`` needs one.
    """

    title: Annotated[str, Meta(description="the agreement's name")]
    effective: Annotated[str, Meta(description="the day it took effect, YYYY-MM-DD")]
    statements: Annotated[tuple[str, ...], Meta(description="what it promises, one sentence each")]
    document: Annotated[str, Meta(description="where a customer may ask for the full text")] = ""


def keeps_nothing(policy: DataPolicy, agreement: Agreement | None) -> bool:
    """Whether a place of that data policy keeps nothing of what it is sent."""
    if policy == "contract" and agreement is not None:
        said = " ".join(agreement.statements).lower()
        return any(words in said for words in _NOT_KEPT)
    return policy == "self-hosted"


class Credential(Table, frozen=True, kw_only=True):
    """``[[upstreams.credentials]]``: one of several keys at an upstream, each with its own room."""

    name: Annotated[str, Meta(description="your word for it; never shown to customers")]
    api_key_env: Annotated[str, Meta(description="environment variable that holds the key")] = ""
    api_key_file: Annotated[
        str, Meta(description="file that holds the key, instead of the variable")
    ] = ""
    accounts: Annotated[
        tuple[str, ...],
        Meta(description="accounts that it serves, and that use no other key there; empty: all"),
    ] = ()
    concurrency_max: Annotated[
        int, Meta(ge=0, le=100_000, description="requests at once; 0 takes the upstream's figure")
    ] = 0
    api_key: Secret | None = None


class Upstream(Table, frozen=True, kw_only=True):
    """``[[upstreams]]``: a place that answers."""

    name: Annotated[str, Meta(description="your word for it; shown in x-moongate-upstream")]
    kind: Annotated[Kind, Meta(description="what serves there, hence which quirks apply")]
    base_url: Annotated[
        str, Meta(description="its API's address, /v1 included; none for embedded")
    ] = ""
    api_key_env: Annotated[str, Meta(description="environment variable that holds its API key")] = (
        ""
    )
    api_key_file: Annotated[
        str, Meta(description="file that holds its API key, instead of the variable")
    ] = ""
    data_policy: Annotated[DataPolicy, Meta(description="what happens there to what is sent")] = (
        "none"
    )
    region: Annotated[str, Meta(description="a word for people; shown, never acted on")] = ""
    concurrency_max: Annotated[
        int, Meta(ge=1, le=100_000, description="requests that may run there at once")
    ] = 64
    first_token_timeout_s: Annotated[
        float, Meta(gt=0, le=86_400, description="seconds that it may stay silent at first")
    ] = 600.0
    idle_timeout_s: Annotated[
        float, Meta(gt=0, le=86_400, description="seconds that it may stay silent later")
    ] = 60.0
    first_token_slow_s: Annotated[
        float,
        Meta(gt=0, le=86_400, description="seconds to the first content that count as a fault"),
    ] = 120.0
    draining: Annotated[
        bool, Meta(description="send nothing there while something else can answer")
    ] = False
    forward: Annotated[
        tuple[str, ...],
        Meta(
            description="fields unknown to us that it is sent as well, beyond its kind's own list"
        ),
    ] = ()
    shared_cache: Annotated[
        bool,
        Meta(description="accept that accounts may share its prompt cache (vllm, sglang)"),
    ] = False
    cache_probe: Annotated[
        bool,
        Meta(description="ask it at the start whether it keeps accounts apart (vllm, sglang)"),
    ] = True
    agreement: Annotated[
        Agreement | None, Meta(description="the agreement that makes it a contract")
    ] = None
    credentials: Annotated[
        tuple[Credential, ...], Meta(description="several keys there, instead of one")
    ] = ()
    api_key: Secret | None = None

    def places(self) -> dict[str, Credential]:
        """What can be asked there: one place for each credential, by its name in the routes."""
        if self.credentials:
            return {f"{self.name}/{one.name}": one for one in self.credentials}
        return {self.name: Credential(name="", api_key=self.api_key)}

    def room(self, credential: Credential) -> int:
        """How many requests may run at once with ``credential``."""
        return credential.concurrency_max or self.concurrency_max

    def asks_salts(self) -> bool:
        """Whether it is asked if it keeps accounts apart, and left alone if it does not."""
        return self.cache_probe and not self.shared_cache

    def keeps_nothing(self) -> bool:
        """Whether keys that demand zero retention may be served here.

        That takes a machine of the operator's own, or a contract that says so.
        """
        return keeps_nothing(self.data_policy, self.agreement)


class PriceTable(Table, frozen=True, kw_only=True):
    """``price``: decimal strings, USD per million tokens; ``search`` is USD per call."""

    input: Annotated[str, Meta(description="uncached input, USD per million tokens")]
    cached: Annotated[str, Meta(description="cached input, USD per million tokens")]
    output: Annotated[str, Meta(description="output, USD per million tokens")]
    search: Annotated[
        str, Meta(description="one web search, USD; needed for the ability search")
    ] = ""

    def exact(self) -> Price:
        """In nano-dollars per token and per call. Raises ValueError for what is no price."""
        return Price(
            input=per_million_to_nanos(self.input),
            cached=per_million_to_nanos(self.cached),
            output=per_million_to_nanos(self.output),
            search=usd_to_nanos(self.search or "0"),
        )


class TargetTable(Table, frozen=True, kw_only=True):
    """One of ``targets``: an upstream's name and the model's name there."""

    upstream: Annotated[str, Meta(description="the upstream's name")]
    model: Annotated[str, Meta(description="the model's name there")]
    weight: Annotated[
        int, Meta(ge=1, le=1_000, description="its share of what is new, among equals")
    ] = 1
    cost: Annotated[
        str, Meta(description='what it takes, USD per million input tokens, for order "cost"')
    ] = "0"


class Model(Table, frozen=True, kw_only=True):
    """``[[models]]``: a model on offer. A known id lends what is left out."""

    id: Annotated[str, Meta(description="the name that clients send")]
    aliases: Annotated[tuple[str, ...], Meta(description="other names for it")] = ()
    window: Annotated[int, Meta(ge=256, le=2**31, description="context window, in tokens")]
    output_tokens_default: Annotated[
        int,
        Meta(
            ge=1,
            le=2**31,
            description="output cap when the client names none, in tokens; left out, no larger "
            "than the window",
        ),
    ] = OUTPUT_TOKENS
    abilities: Annotated[tuple[Ability, ...], Meta(description="what it can do beside chat")]
    family: Annotated[
        Literal["", "kimi", "other"],
        Meta(
            description="whose habits it has: a Kimi is sent ids and reasoning as it wants them, "
            "and read for its markers; left out, the names in id and targets tell"
        ),
    ] = ""
    tokenizer: Annotated[str, Meta(description="path of its tiktoken.model, for exact counts")] = ""
    targets: Annotated[
        tuple[TargetTable, ...], Meta(description="where it is served, first choice first")
    ]
    order: Annotated[
        Order, Meta(description="which target a new conversation goes to, of those that are well")
    ] = "listed"
    price: Annotated[PriceTable, Meta(description="what it costs; seeds its first price row")]
    list_price: Annotated[
        dict[str, str], Meta(description="the maker's own list, for comparison")
    ] = {}


class Known(Table, frozen=True, kw_only=True):
    """What we know of a model beyond the file's keys. Times are days, ``YYYY-MM-DD``."""

    owned_by: str
    released: str
    sampling: Fixed | None = None
    architecture: dict[str, Any] = {}


def day_to_s(day: str) -> int:
    """Seconds since the epoch at the start of ``YYYY-MM-DD`` in UTC. Raises ValueError."""
    return int(datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC).timestamp())


def family(model: Model, words: Mapping[str, tuple[str, ...]]) -> Family:
    """The family that the file says, or the one with a word that stands in a name of the model."""
    if model.family:
        return model.family
    names = " ".join([model.id, *(target.model for target in model.targets)]).lower()
    return "kimi" if any(word in names for word in words.get("kimi", ())) else "other"


def card(
    model: Model,
    targets: tuple[Target, ...],
    known: Known | None,
    words: Mapping[str, tuple[str, ...]],
) -> Card:
    """The model card of one entry of ``[[models]]``; ``words`` tell families by names."""
    return Card(
        id=model.id,
        aliases=model.aliases,
        window=model.window,
        output_tokens_default=model.output_tokens_default,
        abilities=frozenset(model.abilities),
        targets=targets,
        sampling=known.sampling if known else None,
        architecture=known.architecture if known else {},
        list_price=model.list_price,
        created_s=day_to_s(known.released) if known else 0,
        owned_by=known.owned_by if known else "operator",
        order=model.order,
        family=family(model, words),
    )
