"""The whole configuration as one frozen struct, and what the parts are given out of it."""

from typing import Any

import msgspec

from moongate.core.cards import Card, Target
from moongate.core.money import Price, per_million_to_nanos
from moongate.settings.secret import Secret, Table, shown
from moongate.settings.serving import POLICY_RANK, Known, Model, Upstream, card
from moongate.settings.tables import (
    Alerts,
    Embedded,
    Ledger,
    Media,
    Operator,
    Privacy,
    Rates,
    Routing,
    Search,
    Server,
    Store,
    Topups,
)


class Settings(Table, frozen=True, kw_only=True):
    """The whole configuration, checked. Build it with :func:`moongate.settings.load`.

    ``origin`` names the file for people. ``known`` is what we know of models beyond the file,
    by model id, and ``families`` the words in names that tell a model's family.
    """

    server: Server = Server()
    store: Store = Store()
    rates: Rates = Rates()
    upstreams: tuple[Upstream, ...]
    models: tuple[Model, ...]
    search: Search = Search()
    privacy: Privacy = Privacy()
    operator: Operator = Operator()
    routing: Routing = Routing()
    embedded: Embedded = Embedded()
    media: Media = Media()
    ledger: Ledger = Ledger()
    topups: Topups = Topups()
    alerts: Alerts = Alerts()
    origin: str = "the built-in default"
    known: dict[str, Known] = {}
    families: dict[str, tuple[str, ...]] = {}

    @classmethod
    def told(cls, tables: dict[str, Any], origin: str) -> "Settings":
        """Settings out of what :meth:`effective` gave; secrets stay hidden.

        Raises ValueError when ``tables`` are those of another version.
        """
        whole = {**tables, "origin": origin}
        return msgspec.convert(whole, cls, dec_hook=lambda _, text: Secret(str(text)))

    def upstream(self, name: str) -> Upstream:
        """The upstream of that name. Raises KeyError."""
        return {upstream.name: upstream for upstream in self.upstreams}[name]

    def unretained(self) -> frozenset[str]:
        """The places that keep nothing of what they are sent."""
        return frozenset(
            place for up in self.upstreams if up.keeps_nothing() for place in up.places()
        )

    def targets(self, model: Model) -> tuple[Target, ...]:
        """Where ``model`` may be sent: targets whose data policy meets ``privacy.require``."""
        least = POLICY_RANK[self.privacy.require]
        fit = [
            target
            for target in model.targets
            if POLICY_RANK[self.upstream(target.upstream).data_policy] >= least
        ]
        return tuple(
            Target(place, target.model, tier, target.weight, per_million_to_nanos(target.cost))
            for tier, target in enumerate(fit)
            for place in self.upstream(target.upstream).places()
        )

    def cards(self) -> list[Card]:
        """A card for each model, in the order of the file."""
        return [
            card(model, self.targets(model), self.known.get(model.id), self.families)
            for model in self.models
        ]

    def prices(self) -> dict[str, Price]:
        """The price that seeds each model's first price row, by model id."""
        return {model.id: model.price.exact() for model in self.models}

    def with_server(
        self, *, host: str | None = None, port: int | None = None, workers: int | None = None
    ) -> "Settings":
        """The same settings with what the command line says instead. It checks nothing anew."""
        said = {"host": host, "port": port, "workers": workers}
        changes: dict[str, Any] = {name: to for name, to in said.items() if to is not None}
        return msgspec.structs.replace(self, server=msgspec.structs.replace(self.server, **changes))

    def effective(self) -> dict[str, Any]:
        """The tables as plain data for people: defaults filled in, secrets hidden."""
        whole: dict[str, Any] = shown(self)
        del whole["origin"], whole["known"], whole["families"]
        return whole
