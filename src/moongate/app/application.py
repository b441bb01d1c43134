"""The composition root: puts the parts together, starts them, serves, drains and stops.

The only module that knows every part. It reads settings and hands plain values on; it decides
nothing about a request.
"""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from moongate import __version__
from moongate.access.idempotency import Idempotency
from moongate.access.keys import Keys, derive
from moongate.access.pepper import agree
from moongate.app import memory
from moongate.app.buyers import make_alerts
from moongate.app.chores import lasting
from moongate.app.clock import StoreClock
from moongate.app.doors import LOOPBACK, Doors, Place, reserve, reserve_admin
from moongate.app.firsts import first_key, seed_prices
from moongate.app.handling import make_handlers
from moongate.app.looking import look, look_again
from moongate.app.parts import (
    Announce,
    make_eyes,
    make_office,
    make_router,
    make_store,
    make_tokenizers,
    make_uploads,
    make_upstreams,
)
from moongate.app.peers import Peers
from moongate.app.rates import make_limits
from moongate.app.repricing import keep_prices
from moongate.app.searches import Searches
from moongate.app.words import callable_host, summary
from moongate.core.errors import ConfigurationError, LedgerUnavailable
from moongate.core.ids import new_id
from moongate.core.ports import Clock, Store, SystemClock, Upstream
from moongate.gateway import Gateway
from moongate.home import Home
from moongate.ledger.book import Book
from moongate.ledger.journal import Journal
from moongate.ledger.slices import Slices
from moongate.ledger.sweep import Sweep
from moongate.log import Log
from moongate.metrics import Metrics
from moongate.route.catalog import Catalog
from moongate.route.health import Health
from moongate.settings import Settings
from moongate.web.server import Door

_SETTLING_S: Final = 5.0
_PARTING_S: Final = 1.0
"""How long a connection that is kept and silent stays open when a drain is done."""


class Application:
    """One server: its parts, and their life from :meth:`start` to :meth:`close`.

    ``place`` says which of a server's processes this is. ``store`` and ``upstreams`` may be given
    by a test. ``announce`` gets what people and scripts are told, as events of plain values.
    """

    def __init__(
        self,
        settings: Settings,
        home: Home,
        announce: Announce = lambda event: None,  # noqa: ARG005 - the silent default
        *,
        place: Place = Place(),  # noqa: B008 - it cannot be changed
        store: Store | None = None,
        upstreams: Mapping[str, Upstream] | None = None,
        clock: Clock | None = None,
        log: Log | None = None,
    ) -> None:
        self.settings, self.home, self.announce, self.place = settings, home, announce, place
        self.clock = StoreClock(clock or SystemClock())
        self.log = log or Log()
        self.store = store or make_store(settings, home)
        self.upstreams = dict(upstreams or make_upstreams(settings, home, announce, self.log.event))
        self._pepper = pepper = home.pepper(settings.store.file(home.path))
        self.keys = Keys(self.store, pepper, self.clock)
        self.metrics = Metrics()
        self.health = Health(self.clock, self._ejected)
        self.router = make_router(settings, self.health, self.clock, pepper)
        self.searches = Searches(settings, pepper, self.metrics.searched)
        serving = self.searches.around(self.upstreams)
        self.catalog = Catalog(
            settings.cards(), lambda name: serving[name].facts(), self.health.alive,
            self.clock, without=self.searches.without,
        )  # fmt: skip
        ledger, self.journal = settings.ledger, Journal(home.journal)
        self.book = Book(
            self.store, self.clock, new_id("srv_", self.clock.now_ms()),
            Slices(ledger.hold_first, ledger.hold_step, ledger.hold_low), self.journal,
        )  # fmt: skip
        self.sweep = Sweep(
            self.store, self.book, self.clock, self.log.event, checked=self.metrics.checked,
            checkpoint=ledger.crash_settlement == "checkpoint",
        )  # fmt: skip
        self.uploads = make_uploads(settings, self.clock, alone=place.of == 1)
        self.gateway = Gateway(
            keys=self.keys,
            catalog=self.catalog,
            idempotency=Idempotency(self.store, derive(pepper, "idempotency"), self.clock),
            limits=make_limits(
                settings, self.store, self.book.owner, self.clock, self.log, self.metrics
            ),
            book=self.book,
            router=self.router,
            upstreams=serving,
            desk=self.searches.desk,
            clock=self.clock,
            log=self.log,
            metrics=self.metrics,
            tenant_secret=derive(pepper, "tenant"),
            require=settings.privacy.require,
            unretained=settings.unretained(),
            wishing=frozenset(settings.routing.preferences),
            tokenizers=make_tokenizers(settings),
            eyes=make_eyes(settings, self.uploads),
        )
        self.office = make_office(
            settings, self.store, self.keys, self.clock, self.catalog, self.upstreams, pepper,
            self._about,
        )  # fmt: skip
        self.draining, self.port = False, 0
        self.doors, self._own_admin = Doors(), False
        self.peers = Peers(home.worker_socket, place, self._own_metrics)
        self._chores: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Open the store, seed it, start the upstreams, listen. Raises ConfigurationError."""
        await self.store.open()
        try:
            await self.clock.follow(self.store)
            await agree(self.store, self._pepper, self.home.pepper_file)
            listening = self._reserve_port()
            try:
                await self._start(listening)
            except BaseException:
                listening.close()
                raise
        except LedgerUnavailable as error:
            raise ConfigurationError(
                f"The store went away during the start ({error.kind}). See whether its disk or its "
                "database is well, and start again."
            ) from None

    async def _start(self, listening: socket.socket) -> None:
        # The slowest first: an engine loads its model while the rest is made ready.
        upstreams = asyncio.gather(*(upstream.start() for upstream in self.upstreams.values()))
        try:
            await self._start_serving(listening, upstreams)
        finally:
            upstreams.cancel()
            await asyncio.gather(upstreams, return_exceptions=True)

    async def _start_serving(
        self, listening: socket.socket, upstreams: asyncio.Future[list[None]]
    ) -> None:
        self.journal.open()
        await self.sweep.recover()
        await self.gateway.limits.start()
        await self.searches.start()
        if self.place.first:
            await seed_prices(self.store, self.catalog, self.settings, self.clock, self._note)
            self.home.publish_receipt_key(self.office.means.signer.public)
        else:
            self.catalog.reprice(await self.store.prices())
        self.catalog.require_prices()
        handlers = make_handlers(
            self.settings, gateway=self.gateway, office=self.office, store=self.store,
            keys=self.keys, clock=self.clock, log=self.log, searches=self.searches,
            uploads=self.uploads, metrics=self.peers.collect, draining=lambda: self.draining,
        )  # fmt: skip
        server = self.settings.server
        # Before the rest, so that commands work while a model is fetched or loaded.
        local = await self.keys.ensure_local()
        await self.doors.listen_admin(
            Door(handlers, self.keys, self.clock, self.log, metrics=server.metrics, local=local),
            self._admin_socket(),
        )
        await self.peers.open()
        await upstreams
        door = Door(
            handlers, self.keys, self.clock, self.log, hosts=server.hosts, metrics=server.metrics,
            count=self.gateway.limits.request,
        )  # fmt: skip
        await self.doors.listen(door, listening, server.host, self.port)
        if self.place.first and (key := await first_key(self.store, self.keys, self.clock)):
            self.announce(key)
        self._begin("sweep", self.sweep.run)
        self._begin("prices", lambda: keep_prices(self.store, self.catalog, self.clock))
        self._begin("pulse", self.gateway.passage.pulse.run)
        self._begin("replay", self.gateway.replay.run)
        self._begin("limits", self.gateway.limits.run)
        self._begin("memory", lambda: memory.tend(lambda: self.gateway.limits.bodies.total))
        self._begin("looking", lambda: look_again(self.router, self.upstreams))
        if alerts := make_alerts(self.settings, self.store, self.clock, self.log.event):
            self._begin("alerts", alerts.run)
        self.announce({"event": "ready", **self._address(), "models": self._served()})
        if self.place.first:
            self._begin("look", lambda: look(self.upstreams, self.settings.cards(), self._note))

    def _begin(self, name: str, chore: Callable[[], Awaitable[None]]) -> None:
        self._chores.append(asyncio.create_task(lasting(name, chore, self.log.event)))

    async def drain(self) -> None:
        """Stop listening, let running answers end within ``drain_s``, end the rest uncharged."""
        self.draining = True
        self.announce({"event": "draining", "running": self.gateway.limits.running})
        await self.doors.stop()
        limits = self.gateway.limits
        if not await limits.idle(self.settings.server.drain_s) and self.gateway.stop():
            await limits.idle(_SETTLING_S)
        await self.doors.empty(_PARTING_S)

    async def close(self) -> None:
        """Release everything; safe after a start that failed half-way."""
        self.gateway.stop()
        for chore in self._chores:
            chore.cancel()
        await asyncio.gather(*self._chores, return_exceptions=True)
        await self.doors.close()
        if self._own_admin:
            self.home.socket.unlink(missing_ok=True)
        await self.peers.close()
        for upstream in self.upstreams.values():
            await upstream.close()
        self.gateway.eyes.shelf.clear()
        self.uploads.clear()
        await self.searches.close()
        await self.gateway.limits.close()
        await self.book.drain()
        self.journal.close()
        await self.store.close()

    def _ejected(self, place: str) -> None:
        """Tell that an upstream is left alone for a while."""
        name = place.partition("/")[0]
        self.metrics.ejections.labels(name).inc()
        self.log.event("upstream_ejected", upstream=name)

    def _reserve_port(self) -> socket.socket:
        server = self.settings.server
        listening = self.place.listening or reserve(server.host, server.port)
        self.port = listening.getsockname()[1]
        if self.place.first and not server.hosts and server.host not in LOOPBACK:
            self._note(
                f"Listening on {server.host} with any Host name: name the ones that you serve "
                "in server.hosts, and put TLS in front."
            )
        return listening

    def _admin_socket(self) -> socket.socket:
        """The one that all workers share, else one of our own."""
        if self.place.admin is not None:
            return self.place.admin
        self._own_admin = True
        return reserve_admin(self.home.socket)

    def _address(self) -> dict[str, object]:
        host = callable_host(self.settings.server.host)
        return {"api": f"http://{host}:{self.port}/v1", "home": str(self.home.path)}

    def _about(self) -> dict[str, object]:
        """What the operator's commands are told of this server; secrets are hidden."""
        return {
            "pid": os.getpid() if self.place.of == 1 else os.getppid(),
            "version": __version__,
            **self._address(),
            "rates_degraded": self.gateway.limits.degraded,
            "configuration_from": self.settings.origin,
            "configuration": self.settings.effective(),
        }

    def _served(self) -> list[dict[str, object]]:
        return [summary(offer) for offer in self.catalog.offers()]

    def _own_metrics(self) -> bytes:
        self.metrics.running.set(self.gateway.limits.running)
        return self.metrics.text()

    def _note(self, text: str) -> None:
        self.announce({"event": "note", "text": text})
