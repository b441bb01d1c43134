"""The operations on the dated price list: read it, and add a row. No row is ever changed.

Whatever was charged keeps the version that it pinned; a new row prices requests admitted from its
own moment on.
"""

from typing import Final

from moongate.admin import shapes
from moongate.admin.call import Answer, Call, Means, Operation, listed, model_names
from moongate.admin.fields import Fields
from moongate.core import prices
from moongate.core.errors import Refused
from moongate.core.money import Price
from moongate.core.rows import PriceRow

_ROW_FIELDS: Final = ("model", "input", "cached", "output", "search", "from")


async def every(means: Means, call: Call) -> Answer:
    """Every price row with its state, or those of ``model``."""
    model = Fields(call.query, ("model",)).text("model", "")
    rows = await means.store.prices()
    if model:
        names = model_names(means)
        model = names.get(model, model)
        rows = [row for row in rows if row.model == model]
        if not rows and model not in names:
            raise Refused("invalid_value", "model", what="There is no such model.")
    due, now_ms = prices.schedule(rows), means.clock.now_ms()
    return listed([shapes.price(row, due[row.model], now_ms) for row in rows])


async def add(means: Means, call: Call) -> Answer:
    """A new price row for ``model`` from ``from`` (default: now) on, with the one before it.

    The price that holds at that moment anyway is not written again: ``repeated``.
    """
    fields = Fields(call.body, _ROW_FIELDS)
    model = model_names(means).get(fields.text("model"))
    if model is None:
        raise Refused("invalid_value", "model", what="There is no such model.")
    now_ms = means.clock.now_ms()
    from_ms = fields.moment("from")
    if from_ms is not None and from_ms < now_ms:
        raise Refused(
            "invalid_value",
            "from",
            what="It lies in the past; leave this out for a price from now on.",
        )
    rows = await means.store.prices()
    due = prices.schedule(rows).get(model, [])
    start_ms = now_ms if from_ms is None else from_ms
    before = prices.at(due, start_ms)
    price = _price(fields, before)
    repeated = before is not None and before.price == price
    if before is None or not repeated:
        row = await means.store.price_add(PriceRow(0, model, price, start_ms))
        rows = await means.store.prices()
        due = prices.schedule(rows).get(model, [])
        if means.reprice is not None:
            means.reprice(rows)
    else:
        row = before
    return {
        **shapes.price(row, due, now_ms),
        "repeated": repeated,
        "previous": None if before is None else shapes.price(before, due, now_ms),
    }


def _price(fields: Fields, before: PriceRow | None) -> Price:
    """The price of the call; a search that it does not name costs what it cost ``before``."""
    if before is not None and not fields.given("search"):
        search = before.price.search
    else:
        search = fields.rate_nanos("search", a_call=True)
    return Price(
        input=fields.rate_nanos("input"),
        cached=fields.rate_nanos("cached"),
        output=fields.rate_nanos("output"),
        search=search,
    )


OPERATIONS: Final = (
    Operation("GET", "/prices", every),
    Operation("POST", "/prices", add),
)
