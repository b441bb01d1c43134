"""An office over a memory store, with one model on offer: what the tests of operations use."""

import pytest

from moongate.access.keys import Keys
from moongate.admin import Means, Office, Operator
from moongate.core.cards import Card, Facts, Target
from moongate.core.errors import Refused
from moongate.core.money import Price, Usage, charge
from moongate.core.ports import ManualClock, Probe, Settlement
from moongate.core.rows import HoldRow, Outcome, PriceRow, UsageRow
from moongate.ledger.receipt import Signer
from moongate.route.catalog import Catalog
from moongate.store.memory import MemoryStore

PRICE = Price(480, 100, 2_000, 5_000_000)
DAY_MS = 86_400_000


CARD = Card(
    "kimi", ("moon/Kimi",), 1_000, 100, frozenset({"json"}), (Target("up", "x"),),
    architecture={"experts": 384},
    list_price={"input": "0.60", "cached": "0.10", "output": "3.00"},
)  # fmt: skip


class End:
    """An upstream that can be looked at."""

    name, kind = "up", "openai"

    def facts(self):
        return Facts(data_policy="contract", fingerprint="fp")

    async def probe(self):
        return Probe(ok=True, models=("x",), detail="It answers and lists 1 models.")


class Desk:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = MemoryStore()
        self.keys = Keys(self.store, bytes(32), self.clock)
        self.catalog = Catalog([CARD], lambda _: End().facts(), lambda _: True, self.clock)
        self.office = Office(
            Means(
                self.store,
                self.keys,
                self.clock,
                self.catalog.offers,
                {"up": End()},
                Signer(bytes(range(32))),
                Operator("Moon & Co", "help@moon.example", "https://moon.example"),
                about=lambda: {"pid": 7, "api": "http://127.0.0.1:1/v1", "configuration": {}},
                reprice=self.catalog.reprice,
                address=lambda: "https://api.example",
            )
        )

    async def start(self) -> "Desk":
        await self.store.open()
        await self.price(PRICE)
        return self

    async def price(self, price: Price, from_ms: int | None = None) -> None:
        """A new price row, from now on unless it is said."""
        now_ms = self.clock.now_ms()
        await self.store.price_add(PriceRow(0, "kimi", price, from_ms or now_ms))
        self.catalog.reprice(await self.store.prices())

    async def get(self, path: str, **query: str):
        return (await self.office.dispatch("GET", f"/admin/v1{path}", query, {}))[1]

    async def post(self, path: str, **body: object):
        return (await self.office.dispatch("POST", f"/admin/v1{path}", {}, body))[1]

    async def spend(
        self,
        id: str,
        key: str,
        usage: Usage,
        *,
        outcome: Outcome = "done",
        account: str = "acme",
        amount: int = 10**7,
    ) -> None:
        """Hold, then settle ``usage`` at the price in force, as the ledger's book does."""
        price = self.catalog.price("kimi")
        assert price is not None
        free = outcome not in {"done", "client_left", "credit_stop"}
        due = charge(usage, price.price)
        paid = 0 if free else min(due, amount)
        now_ms = self.clock.now_ms()
        hold = HoldRow(
            id, key, account, "kimi", amount, price.version, "me", 60, now_ms, legs=(account,)
        )
        assert isinstance(await self.store.hold(hold), HoldRow)
        row = UsageRow(
            id, key, account, "kimi", "up", outcome, usage, price.version, paid, due - paid,
            now_ms, now_ms,
        )  # fmt: skip
        assert await self.store.settle(Settlement(row, void=free))


async def refusal(promise) -> tuple[str, str | None, str]:
    with pytest.raises(Refused) as caught:
        await promise
    return caught.value.code, caught.value.param, caught.value.message
