"""What is done once at a start, not once a worker: seeding prices and making the first key."""

from collections.abc import Callable
from typing import Final

from moongate.access.keys import DEFAULT_ACCOUNT, LOCAL_KEY, Keys
from moongate.app.words import price as price_words
from moongate.core.money import NANOS_PER_USD
from moongate.core.ports import Clock, Store
from moongate.core.rows import PriceRow
from moongate.route.catalog import Catalog
from moongate.settings import Settings

TRIAL_NANOS: Final = 5 * NANOS_PER_USD
"""Credit of the account that the first start makes."""
Note = Callable[[str], None]


async def seed_prices(
    store: Store, catalog: Catalog, settings: Settings, clock: Clock, note: Note
) -> None:
    """Give each new model its first price row; tell where the file says otherwise since."""
    rows = await store.prices()
    catalog.reprice(rows)
    for model, price in settings.prices().items():
        known = catalog.price(model)
        if known is None:
            rows.append(await store.price_add(PriceRow(0, model, price, clock.now_ms())))
        elif known.price != price:
            note(
                f"The configuration's price of {model} ({price_words(price)}) differs from the "
                f"price in force ({price_words(known.price)}) and is not applied; "
                "`moongate prices set` would."
            )
    catalog.reprice(rows)


async def first_key(store: Store, keys: Keys, clock: Clock) -> dict[str, object] | None:
    """On the first start: trial credit for the account ``default`` and a key, told once."""
    await store.credit(DEFAULT_ACCOUNT, TRIAL_NANOS, "trial", "trial", clock.now_ms())
    if any(row.id != LOCAL_KEY for row in await store.keys()):
        return None
    row, secret = await keys.create(account=DEFAULT_ACCOUNT, name="first")
    return {"event": "key", "account": row.account, "id": row.id, "key": secret}
