"""The model catalogue: cards by id and alias, each with its dated price and what serves it now.

A model without a price is refused, never served for nothing: null and 0 are different. Cards and
prices are data; no code path names a model.
"""

from collections.abc import Callable, Iterable, Sequence

from moongate.core import prices
from moongate.core.cards import Ability, Card, Facts, Offer
from moongate.core.errors import ConfigurationError, Refused
from moongate.core.ports import Clock
from moongate.core.rows import PriceRow


class Catalog:
    """Cards, price rows and the facts of the upstreams behind them.

    ``facts`` tells what an upstream says of itself now; ``alive`` whether it may be asked.
    ``without`` are abilities that this gateway does not serve, whatever a card says.
    """

    def __init__(
        self,
        cards: Iterable[Card],
        facts: Callable[[str], Facts],
        alive: Callable[[str], bool],
        clock: Clock,
        without: frozenset[Ability] = frozenset(),
    ) -> None:
        self._cards = {card.id: card for card in cards}
        self._names = {name: card for card in self._cards.values() for name in card.aliases}
        self._names |= self._cards
        self._facts = facts
        self._alive = alive
        self._clock = clock
        self._without = without
        self._prices: dict[str, list[PriceRow]] = {}
        self._priced: set[str] = set()

    def reprice(self, rows: Sequence[PriceRow]) -> None:
        """Take the store's price rows as they stand now."""
        self._prices = prices.schedule(rows)

    def require_prices(self) -> None:
        """Raise ConfigurationError naming the cards that have no price row in force."""
        bare = sorted(card.id for card in self._cards.values() if self.price(card.id) is None)
        if bare:
            raise ConfigurationError(
                f"No price is in force for {', '.join(bare)}: a model without a price is not "
                "served. Give it a price in the configuration, or with `moongate prices set`."
            )

    def price(self, model: str) -> PriceRow | None:
        """The price row of the card ``model`` that is in force now.

        A clock that is set back takes no model's price away: its first one stays.
        """
        due = self._prices.get(model, [])
        row = prices.at(due, self._clock.now_ms())
        if row is None:
            return due[0] if due and model in self._priced else None
        self._priced.add(model)
        return row

    def upcoming(self, model: str) -> list[PriceRow]:
        """The price rows of the card ``model`` that begin later, soonest first."""
        return prices.after(self._prices.get(model, ()), self._clock.now_ms())

    def offer(self, model: str, upstream: str | None = None) -> Offer:
        """The card called ``model`` (id or alias) as it stands now, served by ``upstream``.

        ``upstream`` names a target's credential too, where it has one. Without it the first one
        alive serves. Raises Refused (404).
        """
        card = self._names.get(model)
        price = None if card is None else self.price(card.id)
        if card is None or price is None:
            raise Refused("model_not_found", "model")
        return self._offer(card, price, upstream)

    def offers(self) -> list[Offer]:
        """Every card that can be served and has a price, in the configuration's order."""
        found = [(card, self.price(card.id)) for card in self._cards.values()]
        return [self._offer(card, price) for card, price in found if price is not None]

    def _offer(self, card: Card, price: PriceRow, upstream: str | None = None) -> Offer:
        names = [target.upstream for target in card.targets]
        serving = upstream or next((name for name in names if self._alive(name)), names[0])
        facts = self._facts(serving)
        able = card.abilities if facts.abilities is None else card.abilities & facts.abilities
        return Offer(
            card=card,
            price=price,
            window=card.window if facts.window is None else min(card.window, facts.window),
            output_tokens_default=facts.output_tokens_default or card.output_tokens_default,
            abilities=able - facts.lacks - self._without,
            fingerprint=facts.fingerprint,
            data_policy=facts.data_policy,
            upstream=serving.partition("/")[0],
            stand_in=facts.stand_in,
        )
