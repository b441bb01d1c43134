"""The handlers of every route that this server has, by the name that the route table gives."""

from collections.abc import Awaitable, Callable

from moongate.access.keys import Keys
from moongate.admin import Office
from moongate.app.buyers import buyer_handlers
from moongate.app.policy import data_policy
from moongate.app.searches import Searches
from moongate.core.ports import Clock, Store
from moongate.gateway import Gateway
from moongate.log import Log
from moongate.media.uploads import Uploads
from moongate.settings import Settings
from moongate.web.files import Filing
from moongate.web.handlers import Handlers
from moongate.web.server import Handler
from moongate.wire.chat import ChatCodec


def make_handlers(
    settings: Settings,
    *,
    gateway: Gateway,
    office: Office,
    store: Store,
    keys: Keys,
    clock: Clock,
    log: Log,
    searches: Searches,
    uploads: Uploads,
    metrics: Callable[[], Awaitable[bytes]],
    draining: Callable[[], bool],
) -> dict[str, Handler]:
    """All of them; what the settings leave out has none."""
    handlers = Handlers(
        gateway=gateway,
        codec=ChatCodec(),
        office=office,
        store=store,
        metrics=metrics,
        body_bytes_max=settings.server.body_bytes_max,
        draining=draining,
        policy=data_policy(settings, searches, uploads),
    ).table()
    handlers |= Filing(uploads, gateway.limits.bodies, settings.server.body_bytes_max).table()
    handlers |= searches.handlers(gateway, draining)
    offers = gateway.catalog.offers
    return handlers | buyer_handlers(settings, store, keys, clock, log.event, offers)
