"""The parts that a server and a command without one are made of, built and not started."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from moongate.access.keys import Keys, derive
from moongate.admin import Means, Office, Operator
from moongate.app.words import callable_host
from moongate.core.errors import ConfigurationError
from moongate.core.ports import Clock, Store, Upstream
from moongate.home import Home
from moongate.ledger.receipt import Signer
from moongate.media.eyes import Eyes
from moongate.media.fetch import Fetcher
from moongate.media.uploads import Room, Uploads
from moongate.meter import tokenizer
from moongate.meter.tokenizer import Tokenizer
from moongate.route.catalog import Catalog
from moongate.route.health import Health
from moongate.route.router import Router, Seat
from moongate.settings import Settings
from moongate.store.sqlite import SqliteStore
from moongate.upstream.embedded import EmbeddedUpstream
from moongate.upstream.http import HttpUpstream
from moongate.wire.chat import ChatCodec

Announce = Callable[[dict[str, object]], None]
"""Takes what people and scripts are told: an event of plain values."""


def make_store(settings: Settings, home: Home) -> Store:
    """The store that the settings name. Raises ConfigurationError where a package is missing."""
    file = settings.store.file(home.path)
    if file is not None:
        return SqliteStore(file)
    try:
        # Only this store needs asyncpg, which the plain install leaves out.
        from moongate.store.postgres import PostgresStore  # noqa: PLC0415 - see above
    except ModuleNotFoundError:
        raise ConfigurationError(
            "store.url names a PostgreSQL database; the package for it is not installed. "
            "Install it: pip install moongate[scale]"
        ) from None
    return PostgresStore(settings.store.url)


def make_upstreams(
    settings: Settings, home: Home, announce: Announce, report: Callable[..., None]
) -> dict[str, Upstream]:
    """Every configured upstream by name, not started."""

    def progress(done: int, total: int) -> None:
        announce({"event": "progress", "what": "model", "done": done, "total": total})

    models = {t.upstream: t.model for card in settings.cards() for t in reversed(card.targets)}
    upstreams: dict[str, Upstream] = {}
    for table in settings.upstreams:
        if table.kind == "embedded":
            own, projector = settings.embedded.model, settings.embedded.projector
            upstreams[table.name] = EmbeddedUpstream(
                table.name,
                home=home.path,
                model=Path(own) if own else None,
                projector=Path(projector) if projector else None,
                slots=settings.embedded.slots,
                cache_tokens=settings.embedded.cache_tokens,
                progress=progress,
                report=report,
            )
        else:
            for place, credential in table.places().items():
                upstreams[place] = HttpUpstream(
                    name=table.name,
                    kind=table.kind,
                    base_url=table.base_url,
                    codec=ChatCodec(),
                    api_key=credential.api_key.reveal() if credential.api_key else "",
                    data_policy=table.data_policy,
                    concurrency_max=table.room(credential),
                    first_token_timeout_s=table.first_token_timeout_s,
                    idle_timeout_s=table.idle_timeout_s,
                    forward=table.forward,
                    salted=models.get(place, "") if table.asks_salts() else "",
                    report=partial(report, upstream=table.name),
                )
    return upstreams


def make_router(settings: Settings, health: Health, clock: Clock, pepper: bytes) -> Router:
    """What finds the way: the places of the settings, and what is known of them."""
    seats: dict[str, Seat] = {}
    for table in settings.upstreams:
        for place, credential in table.places().items():
            room = settings.embedded.slots if table.kind == "embedded" else table.room(credential)
            seats[place] = Seat(room, frozenset(credential.accounts), table.first_token_slow_s)
            if table.draining:
                health.drain(place)
    return Router(seats, health, clock, derive(pepper, "affinity"))


def make_uploads(settings: Settings, clock: Clock, *, alone: bool) -> Uploads:
    """What keeps uploaded files, in this process: ``alone`` where a server has no other."""
    media = settings.media
    room = Room(
        files=media.files_max if alone else 0,
        file_bytes=media.file_bytes_max,
        account_bytes=media.files_account_bytes_max,
        all_bytes=media.files_bytes_max,
    )
    return Uploads(room, media.files_kept_s, clock)


def make_eyes(settings: Settings, uploads: Uploads) -> Eyes:
    """What brings pictures and videos."""
    return Eyes(Fetcher() if settings.media.fetch else None, uploads)


def make_tokenizers(settings: Settings) -> dict[str, Tokenizer]:
    """The tokenizers that the settings name, by model id. Raises ConfigurationError.

    A file that several models name is loaded once.
    """
    found: dict[tuple[str, int | None], Tokenizer] = {}
    made: dict[str, Tokenizer] = {}
    for at, model in enumerate(settings.models):
        if not model.tokenizer:
            continue
        known = settings.known.get(model.id)
        size = known.architecture.get("vocabulary") if known else None
        way = (model.tokenizer, size)
        if way not in found:
            found[way] = tokenizer.load(model.tokenizer, f"models[{at}].tokenizer", size)
        made[model.id] = found[way]
    return made


def make_office(
    settings: Settings,
    store: Store,
    keys: Keys,
    clock: Clock,
    catalog: Catalog,
    upstreams: Mapping[str, Upstream],
    pepper: bytes,
    about: Callable[[], dict[str, object]] | None = None,
) -> Office:
    """The operator's operations over these parts; ``about`` where a server runs."""
    operator, server = settings.operator, settings.server

    def address() -> str:
        api = about()["api"] if about else f"http://{callable_host(server.host)}:{server.port}"
        return server.public_url.rstrip("/") or str(api).removesuffix("/v1")

    return Office(
        Means(
            store=store,
            keys=keys,
            clock=clock,
            offers=catalog.offers,
            upstreams=upstreams,
            signer=Signer(derive(pepper, "receipts")),
            operator=Operator(operator.name, operator.contact, operator.url),
            about=about,
            reprice=catalog.reprice,
            address=address,
        )
    )
