"""What is kept: every table with its columns, what lies in memory, and what never remains.

This is what we publish, and it is written by hand: a test compares it with the stores' schemas, the
log's fields and the metrics' labels, and any that is not told here fails it. What lies in memory
is told by the very constants that bound it.
"""

from typing import Final

import msgspec

from moongate.media import shelf
from moongate.route import affinity
from moongate.upstream import engine_slots, replay

CONTENT: Final = (
    "request and answer bodies",
    "tool schemas, calls and results",
    "pictures, videos, files, their names and addresses",
    "search queries and results",
    "user and metadata fields",
    "names of models that are not on offer",
    "everything derived from these: hashes, embeddings, token ids",
)
"""What content is. It is in no log, row or file, and in memory for the length of its request; what
may stay there longer are the kinds of :class:`Held` below."""

_OPERATOR: Final = "no end of its own: it goes when the operator deletes the database"


class Table(msgspec.Struct, frozen=True):
    """A table of the store: what its rows are, its columns, and how long a row stays."""

    table: str
    rows: str
    columns: tuple[str, ...]
    until: str = _OPERATOR


class Held(msgspec.Struct, frozen=True):
    """Something that stays in memory longer than its request, of one organisation, and bounded.

    ``kept_for_zero_retention``: whether that of a key that demands zero retention stays too. Bounds
    that there are not are ``None``; ``entries`` are of the kind that ``what`` says.
    """

    what: str
    seconds_max: int
    kept_for_zero_retention: bool
    bytes_max: int | None = None
    account_bytes_max: int | None = None
    entries_max: int | None = None


def _columns(text: str) -> tuple[str, ...]:
    return tuple(text.split())


TABLES: Final = (
    Table(
        "account", "accounts of customers and of the books: money, limits, the chain's last hash",
        _columns("""id kind posted_nanos held_nanos credit_limit_nanos created_ms rpm tpm
            concurrency chain_no chain low_state low_ms"""),
    ),
    Table(
        "api_key", "keys: a MAC and the last four characters, never the secret; names and limits",
        _columns("""n id account name mac last4 created_ms admin models policy zero_retention
            expires_ms revoked_ms project rpm tpm concurrency old_mac old_until_ms"""),
    ),
    Table(
        "budget", "caps on spending",
        _columns("id account scope subject per cap_nanos created_ms"),
        "its removal",
    ),
    Table(
        "price", "the dated price list",
        _columns("version model input_nanos cached_nanos output_nanos search_nanos from_ms"),
    ),
    Table(
        "hold", "money set aside for a request, and the counts when it was last renewed",
        _columns("""id key account model amount_nanos slice_no state price_version owner lease_s
            created_ms renewed_ms resolved_ms project run_input run_cached run_output
            run_searches"""),
    ),
    Table("hold_leg", "the accounts that a hold counts against", _columns("hold account")),
    Table(
        "entry", "the ledger: movements of money, chained by hashes",
        _columns("n tx seq account amount_nanos kind created_ms chain_no chain"),
    ),
    Table(
        "usage", "one row a request: who, which model, counts, times, status, charge",
        _columns("""n hold key account model upstream outcome input cache_read output searches
            reasoning estimated price_version charge_nanos forgiven_nanos created_ms ended_ms
            streamed status first_token_ms duration_ms upstream_prompt upstream_completion
            upstream_cached attempts spoiled_nanos"""),
    ),
    Table(
        "idem", "MACs of an Idempotency-Key and its request's body, under a key that is destroyed",
        _columns("account key_mac body_mac hold expires_ms"),
        "a day after the request, and the sweep that follows",
    ),
    Table(
        "topup", "where a credit came from, as the payment service said it",
        _columns("source event tx account amount currency method created_ms"),
    ),
    Table(
        "invite", "invitations: a MAC of the code",
        _columns("id account name mac created_ms expires_ms used_ms key"),
        "its expiry, and the sweep that follows",
    ),
    Table(
        "secret", "secrets that the MACs of idem are made with",
        _columns("purpose bytes created_ms"),
        "the first Idempotency-Key that comes two days after it was made",
    ),
    Table("note", "facts about the database itself", _columns("name value")),
    Table(
        "replica", "servers that run on this store",
        _columns("owner beat_ms"),
        "a day after its last sign of life, when another server gives one",
    ),
    Table("pulse", "a count that shows whether the store can be written", _columns("one beats")),
    Table(
        "rate", "rates in use, by account and name of the limit; PostgreSQL only",
        _columns("account name owed at_ms"),
    ),
    Table(
        "rate_place", "answers that run, by account and request id; PostgreSQL only",
        _columns("account name id end_ms"),
    ),
)  # fmt: skip

DIGESTS: Final = Held(
    "keyed digests of what requests began with, so that a conversation returns to its cache: no "
    "text, and no way back to it",
    seconds_max=int(affinity.LIFE_S),
    entries_max=affinity.ENTRIES_MAX,
    kept_for_zero_retention=True,
)
REASONING: Final = Held(
    "reasoning of answers that called tools, to put back what a client drops",
    seconds_max=replay.KEPT_S + replay.SWEEP_S,
    bytes_max=replay.BYTES_MAX,
    account_bytes_max=replay.TENANT_BYTES_MAX,
    kept_for_zero_retention=False,
)
PICTURES: Final = Held(
    "pictures that were fetched from addresses in requests",
    seconds_max=int(shelf.KEPT_S),
    bytes_max=shelf.BYTES_MAX,
    account_bytes_max=shelf.ACCOUNT_BYTES_MAX,
    kept_for_zero_retention=False,
)


def uploads(seconds_max: int, bytes_max: int, account_bytes_max: int) -> Held:
    """Uploaded files, as the settings bound them."""
    return Held(
        "uploaded files; keys that demand zero retention cannot upload",
        seconds_max=seconds_max,
        bytes_max=bytes_max,
        account_bytes_max=account_bytes_max,
        kept_for_zero_retention=False,
    )


def engine_cache(tokens: int, look_s: int) -> Held:
    """The embedded engine's prompt cache; it is looked through every ``look_s`` seconds."""
    return Held(
        "tokens of prompts and answers in the embedded engine's own cache, erased before another "
        "organisation gets the place",
        seconds_max=int(engine_slots.LIFETIME_S) + look_s,
        entries_max=tokens,
        kept_for_zero_retention=True,
    )
