"""The data policy as it is published: one document, and a hash by which a change of it shows.

Pure. Places, models and engines come from whoever has read the settings.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from moongate.core.cards import DataPolicy
from moongate.log import FIELDS
from moongate.metrics import LABELS
from moongate.privacy.kept import CONTENT, TABLES, Held

_ZERO: Final = (
    "requests go only to upstreams whose zero_retention is true; else 403 no_zdr_route",
    "searches go only to engines whose zero_retention is true, and no page of a result is read",
    "no file can be uploaded",
    "of what lies in memory, only that stays whose kept_for_zero_retention is true",
)
"""What holds for a key that demands zero retention."""
_OUTSIDE: Final = (
    "kernel memory and swap",
    "logs of balancers and network cards before this server",
    "the machines of upstreams and search engines: there the data policy is a promise",
    "snapshots of virtual machines",
)
_WHERE: Final = "in memory, for the length of its request; memory tells what stays longer there"
_POLICIES: Final = {
    "self-hosted": "a machine of the operator's own",
    "contract": "an agreement that the operator holds; its statements stand beside it",
    "none": "nothing says what happens there to what is sent",
}


class Promise(msgspec.Struct, frozen=True):
    """What a contract rests on."""

    title: str
    effective: str
    statements: tuple[str, ...]
    document: str


class Place(msgspec.Struct, frozen=True):
    """An upstream. ``zero_retention``: whether keys that demand it are served there."""

    name: str
    kind: str
    region: str
    data_policy: DataPolicy
    zero_retention: bool
    agreement: Promise | None


class Served(msgspec.Struct, frozen=True):
    """A model: the upstreams that its requests may be sent to, and the least of their policies."""

    id: str
    upstreams: tuple[str, ...]
    data_policy: DataPolicy
    zero_retention: bool


class Searcher(msgspec.Struct, frozen=True):
    """Who searches. ``allowed``: whether any query goes there, as ``require`` has it.

    ``upstream`` is where the model's maker searches, within the conversation. ``reads_pages``:
    whether addresses among the results may be fetched from here.
    """

    engine: str
    upstream: str | None
    data_policy: DataPolicy
    allowed: bool
    zero_retention: bool
    reads_pages: bool
    agreement: Promise | None


def document(
    *,
    operator: Mapping[str, str],
    require: DataPolicy,
    upstreams: Sequence[Place],
    models: Sequence[Served],
    search: Sequence[Searcher],
    memory: Sequence[Held],
) -> dict[str, Any]:
    """The data policy. ``hash`` is the SHA-256 of the rest as JSON with sorted keys."""
    told = msgspec.to_builtins(
        {
            "object": "data_policy",
            "operator": dict(operator),
            "policies": _POLICIES,
            "require": require,
            "upstreams": upstreams,
            "models": models,
            "search": search,
            "zero_retention": _ZERO,
            "never_kept": {
                "what": CONTENT,
                "where": _WHERE,
            },
            "memory": memory,
            "kept": {
                "tables": TABLES,
                "log_fields": FIELDS,
                "metric_labels": LABELS,
            },
            "outside": _OUTSIDE,
        }
    )
    assert isinstance(told, dict)
    return {**told, "hash": digest(told)}


def digest(told: Mapping[str, Any]) -> str:
    """The hash of a policy without its own."""
    data = msgspec.json.encode(told, order="sorted")
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
