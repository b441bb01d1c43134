"""Any order of moves, on both engines at once, against a model made of plain integers."""

import asyncio
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from moongate.core.errors import Refused
from moongate.core.money import Price, Usage, charge
from moongate.core.ports import Settlement, Store
from moongate.core.rows import AccountRow, HoldRow, PriceRow
from moongate.store.memory import MemoryStore
from moongate.store.sqlite import SqliteStore
from store_kit import NOW_MS, a_hold, an_end

WALLETS = ("acme", "bert")
TOKENS = st.integers(0, 40)


class Books(RuleBasedStateMachine):
    """The model: posted, held and limit of each account, and what is open and what was resolved."""

    holds = Bundle("holds")
    txs = Bundle("txs")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.now_ms = NOW_MS
        self.count = 0
        self.posted = dict.fromkeys((*WALLETS, "cap", "cash", "promo", "revenue"), 0)
        self.limit = {"acme": 0, "bert": 5_000, "cap": 30_000}
        self.open: dict[str, tuple[HoldRow, int]] = {}
        self.used: dict[str, tuple[str, int, int]] = {}
        self.seen: set[str] = set()
        self.prices: list[Price] = []
        self.stores: list[Store] = [SqliteStore(Path(self.folder.name) / "a.db"), MemoryStore()]

    def both(self, method: str, *args: object) -> object:
        """The same answer from both engines."""

        async def ask() -> list[object]:
            return await asyncio.gather(
                *(getattr(store, method)(*args) for store in self.stores), return_exceptions=True
            )

        one, two = self.runner.run(ask())
        if isinstance(one, Exception):
            assert type(one) is type(two)
            return type(one)
        assert one == two
        return one

    def held(self, account: str) -> int:
        return sum(
            row.amount_nanos for row, _ in self.open.values() if account in (row.account, *row.legs)
        )

    def can_pay(self, account: str, nanos: int) -> bool:
        return self.posted[account] - self.held(account) + self.limit[account] >= nanos

    @initialize(price=st.tuples(TOKENS, TOKENS, TOKENS))
    def begin(self, price: tuple[int, int, int]) -> None:
        for store in self.stores:
            self.runner.run(store.open())
        for id, kind in (("acme", "wallet"), ("bert", "wallet"), ("cap", "budget")):
            assert self.both("account_create", AccountRow(id, kind, 0, 0, self.limit[id], NOW_MS))
        self.new_price(price)

    def teardown(self) -> None:
        for store in self.stores:
            self.runner.run(store.close())
        self.runner.close()
        self.folder.cleanup()

    @rule(price=st.tuples(TOKENS, TOKENS, TOKENS))
    def new_price(self, price: tuple[int, int, int]) -> None:
        self.prices.append(Price(*price))
        row = self.both("price_add", PriceRow(0, "kimi-k2.5", Price(*price), self.now_ms))
        assert row == PriceRow(len(self.prices), "kimi-k2.5", Price(*price), self.now_ms)

    @rule(
        target=txs,
        account=st.sampled_from(WALLETS),
        nanos=st.integers(-3_000, 20_000).filter(bool),
        kind=st.sampled_from(["topup", "trial"]),
    )
    def credit(self, account: str, nanos: int, kind: str) -> str:
        self.count += 1
        tx = f"t{self.count}"
        said = self.both("credit", account, nanos, kind, tx, self.now_ms)
        if not self.can_pay(account, -nanos):
            assert said is Refused
            return tx
        assert said is True
        self.seen.add(tx)
        self.posted[account] += nanos
        self.posted["cash" if kind == "topup" else "promo"] -= nanos
        return tx

    @rule(tx=txs, account=st.sampled_from(WALLETS))
    def credit_again(self, tx: str, account: str) -> None:
        if tx in self.seen:
            assert self.both("credit", account, 1, "topup", tx, self.now_ms) is False

    @rule(
        target=holds,
        account=st.sampled_from(WALLETS),
        nanos=st.integers(0, 12_000),
        budget=st.booleans(),
        owner=st.sampled_from(["us", "them"]),
    )
    def hold(self, account: str, nanos: int, budget: bool, owner: str) -> HoldRow:
        self.count += 1
        row = a_hold(
            f"h{self.count}",
            nanos,
            account,
            legs=tuple(sorted((account, "cap"))) if budget else (account,),
            owner=owner,
            created_ms=self.now_ms,
            price_version=len(self.prices),
        )
        fits = all(self.can_pay(leg, nanos) for leg in row.legs)
        assert self.both("hold", row) is fits
        if fits:
            self.open[row.id] = (row, self.now_ms)
        return row

    def end(self, row: HoldRow, tokens: tuple[int, int, int], void: bool) -> None:
        price = self.prices[row.price_version - 1]
        settlement = an_end(row, Usage(*tokens), price=price, void=void, ended_ms=self.now_ms)
        assert self.both("settle", settlement) is (row.id in self.open)
        self.resolved(row, settlement)

    def resolved(self, row: HoldRow, settlement: Settlement) -> None:
        if self.open.pop(row.id, None) is not None:
            ended = settlement.row
            self.posted[row.account] -= ended.charge_nanos
            self.posted["revenue"] += ended.charge_nanos
            self.used[row.id] = (ended.outcome, ended.charge_nanos, ended.forgiven_nanos)

    @rule(row=holds, tokens=st.tuples(TOKENS, TOKENS, TOKENS))
    def settle(self, row: HoldRow, tokens: tuple[int, int, int]) -> None:
        self.end(row, tokens, void=False)

    @rule(row=holds, tokens=st.tuples(TOKENS, TOKENS, TOKENS))
    def void(self, row: HoldRow, tokens: tuple[int, int, int]) -> None:
        self.end(row, tokens, void=True)

    @rule(row=consumes(holds), tokens=st.tuples(TOKENS, TOKENS, TOKENS))
    def settle_many_times_at_once(self, row: HoldRow, tokens: tuple[int, int, int]) -> None:
        price = self.prices[row.price_version - 1]
        settlement = an_end(row, Usage(*tokens), price=price, ended_ms=self.now_ms)
        for store in self.stores:

            async def race(store: Store = store) -> list[bool]:
                return await asyncio.gather(*(store.settle(settlement) for _ in range(3)))

            assert sum(self.runner.run(race())) == int(row.id in self.open)
        self.resolved(row, settlement)

    @rule(row=holds)
    def charge_too_much(self, row: HoldRow) -> None:
        if row.id in self.open:
            greedy = an_end(row, charge_nanos=row.amount_nanos + 1, forgiven_nanos=0)
            assert self.both("settle", greedy) is ValueError

    @rule(row=holds)
    def renew(self, row: HoldRow) -> None:
        assert self.both("renew", [row.id], self.now_ms) == int(row.id in self.open)
        if row.id in self.open:
            self.open[row.id] = (row, self.now_ms)

    @rule(seconds=st.integers(1, 150))
    def wait_and_expire(self, seconds: int) -> None:
        self.now_ms += seconds * 1000
        gone = self.lapse([id for id, (_, at) in self.open.items() if at + 180_000 <= self.now_ms])
        assert sorted(self.both("expire", self.now_ms, 120)) == gone

    @rule()
    def expire_orphans(self) -> None:
        gone = self.lapse([id for id, (row, _) in self.open.items() if row.owner != "us"])
        assert sorted(self.both("expire_orphans", "us", self.now_ms)) == gone

    def lapse(self, ids: list[str]) -> list[str]:
        for id in ids:
            del self.open[id]
            self.used[id] = ("expired", 0, 0)
        return sorted(ids)

    @rule()
    def restart(self) -> None:
        self.runner.run(self.stores[0].close())
        self.stores[0] = SqliteStore(Path(self.folder.name) / "a.db")
        self.runner.run(self.stores[0].open())

    @invariant()
    def same_as_the_model(self) -> None:
        if not self.prices:
            return
        assert self.both("audit") == []
        for row in self.both("accounts"):
            assert row.posted_nanos == self.posted[row.id]
            assert row.held_nanos == (self.held(row.id) if row.id in self.limit else 0)
            assert row.kind != "wallet" or row.available_nanos >= 0
        assert {row.id for row in self.both("open_holds")} == self.open.keys()
        used = {
            row.hold: (row.outcome, row.charge_nanos, row.forgiven_nanos)
            for row in self.both("usage")
        }
        assert used == self.used

    @invariant()
    def charges_are_what_was_paid(self) -> None:
        if self.prices:
            assert self.posted["revenue"] == sum(nanos for _, nanos, _ in self.used.values())
            assert sum(self.posted.values()) == 0
            assert charge(Usage(), self.prices[-1]) == 0


QUICK = settings(
    max_examples=40,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def test_any_order_of_moves() -> None:
    run_state_machine_as_test(Books, settings=QUICK)


@pytest.mark.full
def test_any_order_of_moves_at_length() -> None:
    run_state_machine_as_test(
        Books, settings=settings(QUICK, max_examples=500, stateful_step_count=60)
    )
