"""Finding the way: what is known of places, put before the decision, and told of what came of it.

It holds what one process knows: who holds which prefix, how busy and how well each place is. The
rules are elsewhere: ``plan`` (policy and order), ``choice`` (cache and load), ``health``, ``wish``.
"""

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from moongate.core.cards import Card, Target
from moongate.core.errors import Refused
from moongate.core.ports import Clock
from moongate.core.request import Request
from moongate.route import plan
from moongate.route.affinity import Affinity
from moongate.route.budget import RetryBudget
from moongate.route.choice import BEHIND, Place, State, choose
from moongate.route.health import Health
from moongate.route.loads import Berth, Loads
from moongate.route.plan import Step
from moongate.route.prefix import Prefix, prefix


class Seat(msgspec.Struct, frozen=True):
    """What is configured of a place: its room, whose it is (nobody's: everybody's), its patience.

    ``room``: requests at once. ``first_token_slow_s``: a later first token is a fault.
    """

    room: int = 64
    accounts: frozenset[str] = frozenset()
    first_token_slow_s: float = 120.0


class Router:
    """The ways of one process. ``seats`` are by place; ``secret`` keys the digests."""

    def __init__(
        self, seats: Mapping[str, Seat], health: Health, clock: Clock, secret: bytes
    ) -> None:
        self.seats, self.health = seats, health
        self.affinity, self.loads = Affinity(clock), Loads(clock)
        self.budget = RetryBudget(clock)
        self._secret = secret

    def __repr__(self) -> str:
        return f"Router({len(self.seats)} places)"

    def prefix(self, tenant: str, request: Request) -> Prefix:
        """The prefixes of ``request``; beside the event loop where it is large."""
        return prefix(self._secret, tenant, request)

    def open_to(self, account: str, targets: Sequence[Target]) -> list[Target]:
        """Those of ``targets`` that serve ``account``.

        At an upstream where a credential is its own, it uses no other. Raises Refused (403).
        """
        own = {t.name for t in targets if account in self._seat(t.upstream).accounts}
        found = []
        for target in targets:
            accounts = self._seat(target.upstream).accounts
            if account in accounts or not (accounts or target.name in own):
                found.append(target)
        if targets and not found:
            raise Refused("insufficient_permissions", "model", thing="model")
        return found

    def order(self, card: Card, targets: Sequence[Target], prefix: Prefix) -> Iterator[Step]:
        """``targets`` as steps, best first."""
        ranks = plan.tiers(card.order, targets, self.health.first_token_s)
        by_place: dict[str, list[Target]] = {}
        for target in targets:
            by_place.setdefault(target.upstream, []).append(target)
        places = [self._place(here[0], ranks[name]) for name, here in by_place.items()]
        breadth = self.loads.breadth(prefix.tenant, len(places))
        choices = list(choose(places, prefix, self.affinity.known(prefix), breadth))
        if min(ranks.values(), default=0) < 0:  # a client's wish goes before its cache
            choices.sort(key=lambda one: (one.reason in BEHIND, min(ranks[one.place], 0)))
        for choice in choices:
            for target in by_place[choice.place]:
                yield Step(target, choice.reason, choice.matched)

    def take(self, step: Step, prefix: Prefix) -> Berth:
        """A request goes to ``step``'s place: it counts there until its berth is left."""
        self.health.begin(step.target.upstream)
        return self.loads.take(step.target.upstream, prefix.tenant, prefix.size, step.matched)

    def answered(self, place: str, first_token_s: float | None) -> None:
        """``place`` gave a whole answer, which began after so many seconds."""
        slow_s = self._seat(place).first_token_slow_s
        late = first_token_s is not None and first_token_s > slow_s
        self.health.report(place, ok=not late, first_token_s=first_token_s)

    def _seat(self, place: str) -> Seat:
        return self.seats.get(place) or Seat()

    def _place(self, target: Target, tier: int) -> Place:
        name = target.upstream
        load = self.loads.load(name)
        state: State = self.health.state(name)
        if state == "up" and load.running >= self._seat(name).room:
            state = "full"
        return Place(name, tier, target.weight, state, load.running, load.work)
