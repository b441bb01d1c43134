"""The data policy that is published, out of the settings and the parts that act on them."""

from collections.abc import Iterator
from typing import Any

from moongate.app.searches import Searches
from moongate.core.cards import Card
from moongate.media.uploads import Uploads
from moongate.privacy import kept
from moongate.privacy.kept import Held
from moongate.privacy.policy import Place, Promise, Searcher, Served, document
from moongate.settings import Settings
from moongate.settings.serving import POLICY_RANK, Agreement, Upstream
from moongate.upstream.embedded import EXPIRY_S


def data_policy(settings: Settings, searches: Searches, uploads: Uploads) -> dict[str, Any]:
    """What ``GET /v1/data-policy`` answers. It changes with the settings and with nothing else."""
    places = {table.name: _place(table) for table in settings.upstreams}
    operator = settings.operator
    return document(
        operator={"name": operator.name, "contact": operator.contact, "url": operator.url},
        require=settings.privacy.require,
        upstreams=[*places.values()],
        models=[_served(card, places) for card in settings.cards()],
        search=[*_search(settings, searches, places)],
        memory=[*_memory(settings, uploads)],
    )


def _place(table: Upstream) -> Place:
    return Place(
        table.name, table.kind, table.region, table.data_policy, table.keeps_nothing(),
        _promise(table.agreement),
    )  # fmt: skip


def _promise(held: Agreement | None) -> Promise | None:
    if held is None:
        return None
    return Promise(held.title, held.effective, held.statements, held.document)


def _served(card: Card, places: dict[str, Place]) -> Served:
    """A model's targets are those that meet what every request demands."""
    names = tuple(dict.fromkeys(target.name for target in card.targets))
    return Served(
        card.id,
        names,
        min((places[name].data_policy for name in names), key=POLICY_RANK.__getitem__),
        any(places[name].zero_retention for name in names),
    )


def _search(settings: Settings, searches: Searches, places: dict[str, Place]) -> Iterator[Searcher]:
    table, desk = settings.search, searches.desk
    if searches.by_maker:
        searching = {
            target.name
            for card in settings.cards()
            if "search" in card.abilities
            for target in card.targets
        }
        for place in places.values():
            if place.kind == "moonshot" and place.name in searching:
                yield Searcher(
                    table.engine, place.name, place.data_policy, allowed=True,
                    zero_retention=place.zero_retention, reads_pages=False,
                    agreement=place.agreement,
                )  # fmt: skip
    elif searches.finding is not None:
        yield Searcher(
            table.engine, None, table.data_policy,
            allowed=desk.allows(zero_retention=False),
            zero_retention=desk.allows(zero_retention=True),
            reads_pages=searches.finding.reads, agreement=_promise(table.agreement),
        )  # fmt: skip


def _memory(settings: Settings, uploads: Uploads) -> Iterator[Held]:
    media = settings.media
    yield kept.DIGESTS
    yield kept.REASONING
    if media.fetch:
        yield kept.PICTURES
    if uploads.room.files:
        room = uploads.room
        yield kept.uploads(int(media.files_kept_s), room.all_bytes, room.account_bytes)
    if settings.embedded.cache_tokens and any(up.kind == "embedded" for up in settings.upstreams):
        yield kept.engine_cache(settings.embedded.cache_tokens, int(EXPIRY_S))
