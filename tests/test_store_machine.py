"""Any order of moves, on every engine at once, against a model made of plain integers."""

import asyncio
import tempfile
from collections import Counter
from pathlib import Path

import msgspec
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
from moongate.core.rows import AccountRow, HoldRow, Per, PriceRow, Scope
from moongate.core.store import Extension, NotHeld, Running
from moongate.core.windows import window_id
from moongate.store.mapping import AMOUNT_MAX
from store_kit import ALONE, NOW_MS, a_budget, a_hold, an_end, make_store, the_time_is

WALLETS = {"acme": 0, "bert": 5_000}
AGAINST = {"topup": "cash", "refund": "cash", "trial": "promo"}
SUBJECTS: tuple[tuple[Scope, str], ...] = (
    ("key", "key_1"),
    ("project", "acme/site"),
    ("account", "bert"),
)
PERS: tuple[Per, ...] = ("day", "life")
COUNTS = st.tuples(*[st.integers(0, 40)] * 3)


class Books(RuleBasedStateMachine):
    """The model: posted and limit of each account, budgets, what is open and what was resolved."""

    holds = Bundle("holds")
    txs = Bundle("txs")
    engines: tuple[str, ...] = ALONE

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.now_ms = NOW_MS
        self.count = 0
        self.posted: Counter[str] = Counter()
        self.limit = dict(WALLETS)
        self.caps: dict[tuple[Scope, str, Per], tuple[str, int]] = {}
        self.open: dict[str, HoldRow] = {}
        self.renewed: dict[str, int] = {}
        self.used: dict[str, tuple[str, int, int]] = {}
        self.seen: set[str] = set()
        self.prices: list[Price] = []
        folder = Path(self.folder.name)
        self.stores: list[Store] = [make_store(engine, folder) for engine in self.engines]

    # the engines and the model

    def all(self, method: str, *args: object, **fields: object) -> object:
        """The same answer from every engine."""

        async def ask() -> list[object]:
            calls = (getattr(store, method)(*args, **fields) for store in self.stores)
            return await asyncio.gather(*calls, return_exceptions=True)

        first, *others = self.runner.run(ask())
        if isinstance(first, Exception):
            assert all(type(first) is type(other) for other in others)
            return type(first)
        assert all(first == other for other in others)
        return first

    def tick(self, seconds: int) -> None:
        self.now_ms += seconds * 1000
        for store in self.stores:
            self.runner.run(the_time_is(store, self.now_ms))

    def held(self, account: str) -> int:
        return sum(row.amount_nanos for row in self.open.values() if account in row.legs)

    def room(self, legs: tuple[str, ...]) -> int:
        return min(self.posted[leg] - self.held(leg) + self.limit[leg] for leg in legs)

    def grant(self, legs: tuple[str, ...], wanted: int, floor: int, unit: int) -> int | None:
        room = self.room(legs)
        if room >= wanted:
            return wanted
        return None if room < floor else floor + (room - floor) // unit * unit

    def resolve(self, id: str, outcome: str, paid: int, forgiven: int) -> None:
        row = self.open.pop(id)
        self.posted[row.account] -= paid
        self.posted["revenue"] += paid
        for leg in row.legs:
            if leg != row.account:
                self.posted[leg] -= paid
                self.posted["contra"] += paid
        self.posted["forgiven"] += forgiven
        self.posted["contra"] -= forgiven
        self.used[id] = (outcome, paid, forgiven)

    def price(self, row: HoldRow) -> Price:
        return self.prices[row.price_version - 1]

    @initialize(price=COUNTS)
    def begin(self, price: tuple[int, int, int]) -> None:
        for store in self.stores:
            self.runner.run(store.open())
        for id, limit in WALLETS.items():
            assert self.all("account_create", AccountRow(id, "wallet", 0, 0, limit, NOW_MS))
        self.new_price(price)

    def teardown(self) -> None:
        for store in self.stores:
            self.runner.run(store.close())
        self.runner.close()
        self.folder.cleanup()

    # credits, prices, budgets

    @rule(price=COUNTS)
    def new_price(self, price: tuple[int, int, int]) -> None:
        self.prices.append(Price(*price))
        row = self.all("price_add", PriceRow(0, "kimi-k2.5", Price(*price), self.now_ms))
        assert row == PriceRow(len(self.prices), "kimi-k2.5", Price(*price), self.now_ms)

    @rule(
        target=txs,
        account=st.sampled_from([*WALLETS]),
        nanos=st.integers(1, 20_000),
        kind=st.sampled_from([*AGAINST]),
    )
    def credit(self, account: str, nanos: int, kind: str) -> str:
        self.count += 1
        tx = f"t{self.count}"
        nanos = -nanos if kind == "refund" else nanos
        said = self.all("credit", account, nanos, kind, tx, self.now_ms)
        if self.room((account,)) + nanos < 0:
            assert said is Refused
            return tx
        assert said is True
        self.seen.add(tx)
        self.posted[account] += nanos
        self.posted[AGAINST[kind]] -= nanos
        return tx

    @rule(tx=txs, account=st.sampled_from([*WALLETS]))
    def credit_again(self, tx: str, account: str) -> None:
        if tx in self.seen:
            assert self.all("credit", account, 1, "topup", tx, self.now_ms) is False

    @rule(
        subject=st.sampled_from(SUBJECTS),
        per=st.sampled_from(PERS),
        cap=st.none() | st.integers(0, 30_000),
    )
    def change_budget(self, subject: tuple[Scope, str], per: Per, cap: int | None) -> None:
        place = (*subject, per)
        stands = self.caps.pop(place, None)
        if cap is None:
            assert self.all("budget_remove", *place) is (stands is not None)
            for id in self.limit:
                if stands is not None and id.startswith(f"{stands[0]}/"):
                    self.limit[id] = AMOUNT_MAX
            return
        self.count += 1
        id = f"b{self.count}" if stands is None else stands[0]
        row = a_budget(cap, per, *subject, id=f"b{self.count}", created_ms=self.now_ms)
        made = self.all("budget_set", row)
        assert (made.id, made.cap_nanos) == (id, cap)
        self.caps[place] = (id, cap)
        if (window := window_id(id, per, self.now_ms)) in self.limit:
            self.limit[window] = cap

    # holds

    def legs(self, row: HoldRow) -> tuple[str, ...]:
        """Every leg of ``row``; a window that is new gets its limit."""
        legs = {row.account}
        subjects = {("key", row.key), ("account", row.account)}
        subjects.add(("project", f"{row.account}/{row.project}"))
        for (scope, subject, per), (id, cap) in self.caps.items():
            if (scope, subject) in subjects:
                window = window_id(id, per, self.now_ms)
                self.limit.setdefault(window, cap)
                legs.add(window)
        return tuple(sorted(legs))

    @rule(
        target=holds,
        account=st.sampled_from([*WALLETS]),
        key=st.sampled_from(["key_1", "key_2"]),
        project=st.sampled_from(["", "site"]),
        nanos=st.integers(0, 12_000),
        floor=st.none() | st.integers(0, 3_000),
        unit=st.integers(1, 50),
        owner=st.sampled_from(["us", "them"]),
    )
    def hold(
        self,
        account: str,
        key: str,
        project: str,
        nanos: int,
        floor: int | None,
        unit: int,
        owner: str,
    ) -> HoldRow:
        self.count += 1
        row = a_hold(
            f"h{self.count}",
            nanos,
            account,
            key=key,
            project=project,
            owner=owner,
            created_ms=self.now_ms,
            price_version=len(self.prices),
        )
        legs = self.legs(row)
        said = self.all("hold", row, floor_nanos=floor, unit_nanos=unit)
        granted = self.grant(legs, nanos, nanos if floor is None else floor, unit)
        if granted is None:
            assert said == NotHeld("short")
            return row
        assert isinstance(said, HoldRow)
        assert (said.amount_nanos, said.legs) == (granted, legs)
        self.open[row.id] = said
        self.renewed[row.id] = self.now_ms
        return said

    @rule(row=holds)
    def hold_again(self, row: HoldRow) -> None:
        if row.id in self.open:
            assert self.all("hold", row) == self.open[row.id]
        elif row.id in self.used:
            assert self.all("hold", row).state != 0

    @rule(row=holds, wanted=st.integers(0, 12_000), unit=st.integers(1, 50), repeat=st.booleans())
    def extend(self, row: HoldRow, wanted: int, unit: int, repeat: bool) -> None:
        stands = self.open.get(row.id)
        if stands is None:
            assert self.all("extend", Extension(row.id, 1, wanted, unit, self.now_ms)) is None
            return
        self.renewed[row.id] = self.now_ms
        asked = Extension(row.id, stands.slice_no + 1, wanted, unit, self.now_ms)
        more = self.grant(stands.legs, wanted, 0, unit)
        grown = self.all("extend", asked)
        assert isinstance(grown, HoldRow)
        assert grown.amount_nanos == stands.amount_nanos + (more or 0)
        assert grown.slice_no == stands.slice_no + bool(more)
        self.open[row.id] = grown
        if repeat and more:
            assert self.all("extend", asked) == grown

    def end(self, row: HoldRow, counts: tuple[int, int, int], *, void: bool) -> Settlement:
        """How ``row`` ends, as it stands."""
        stands = self.open.get(row.id, row)
        usage = Usage(*counts)
        return an_end(stands, usage, price=self.price(row), void=void, ended_ms=self.now_ms)

    def ended(self, settlement: Settlement) -> None:
        row = settlement.row
        if row.hold in self.open:
            self.resolve(row.hold, row.outcome, row.charge_nanos, row.forgiven_nanos)

    @rule(row=holds, counts=COUNTS, void=st.booleans())
    def settle(self, row: HoldRow, counts: tuple[int, int, int], void: bool) -> None:
        settlement = self.end(row, counts, void=void)
        assert self.all("settle", settlement) is (row.id in self.open)
        self.ended(settlement)
        assert self.all("settle", settlement) is False

    @rule(row=consumes(holds), counts=COUNTS)
    def settle_many_times_at_once(self, row: HoldRow, counts: tuple[int, int, int]) -> None:
        settlement = self.end(row, counts, void=False)
        for store in self.stores:

            async def race(store: Store = store) -> list[bool]:
                return await asyncio.gather(*(store.settle(settlement) for _ in range(3)))

            assert sum(self.runner.run(race())) == int(row.id in self.open)
        self.ended(settlement)

    @rule(row=holds)
    def charge_too_much(self, row: HoldRow) -> None:
        if stands := self.open.get(row.id):
            greedy = an_end(stands, charge_nanos=stands.amount_nanos + 1, forgiven_nanos=0)
            assert self.all("settle", greedy) is ValueError

    # leases

    @rule(row=holds, counts=COUNTS)
    def renew(self, row: HoldRow, counts: tuple[int, int, int]) -> None:
        running = [Running(row.id, Usage(*counts))]
        assert self.all("renew", running, self.now_ms) == int(row.id in self.open)
        if stands := self.open.get(row.id):
            self.open[row.id] = msgspec.structs.replace(stands, running=Usage(*counts))
            self.renewed[row.id] = self.now_ms

    def lapse(self, ids: list[str], *, checkpoint: bool) -> list[str]:
        for id in ids:
            row = self.open[id]
            due = charge(row.running, self.price(row))
            paid = min(due, row.amount_nanos) if checkpoint else 0
            self.resolve(id, "expired", paid, due - paid)
        return sorted(ids)

    @rule(seconds=st.integers(1, 150) | st.just(86_400), checkpoint=st.booleans())
    def wait_and_expire(self, seconds: int, checkpoint: bool) -> None:
        self.tick(seconds)
        due = [id for id in self.open if self.renewed[id] + 180_000 <= self.now_ms]
        said = self.all("expire", self.now_ms, 120, checkpoint=checkpoint)
        assert sorted(said) == self.lapse(due, checkpoint=checkpoint)

    @rule(checkpoint=st.booleans())
    def expire_orphans(self, checkpoint: bool) -> None:
        if set(self.engines) <= set(ALONE):
            orphans = [id for id, row in self.open.items() if row.owner != "us"]
            said = self.all("expire_orphans", "us", self.now_ms, checkpoint=checkpoint)
            assert sorted(said) == self.lapse(orphans, checkpoint=checkpoint)

    @rule()
    def restart(self) -> None:
        if "sqlite" in self.engines:
            place = self.engines.index("sqlite")
            self.runner.run(self.stores[place].close())
            self.stores[place] = make_store("sqlite", Path(self.folder.name))
            self.runner.run(self.stores[place].open())

    # what always holds

    @invariant()
    def same_as_the_model(self) -> None:
        if not self.prices:
            return
        assert self.all("audit") == []
        assert self.all("self_check") == []
        for kind in ("cash", "promo", "revenue", "contra", "forgiven"):
            for store in self.stores:
                rows = self.runner.run(store.accounts(kind))
                assert sum(row.posted_nanos for row in rows) == self.posted[kind]
                assert all(row.held_nanos == 0 for row in rows)
        assert all(row.available_nanos >= 0 for row in self.all("accounts", "wallet"))
        for store in self.stores:
            # A window may be made by a hold that then came to nothing.
            rows = {row.id: row for row in self.runner.run(store.accounts())}
            assert {id for id in self.limit if self.posted[id] or self.held(id)} <= rows.keys()
            for row in rows.values():
                if row.kind in {"wallet", "budget"}:
                    assert row.posted_nanos == self.posted[row.id]
                    assert row.held_nanos == self.held(row.id)
                    assert row.credit_limit_nanos == self.limit[row.id]
        assert {row.id: row for row in self.all("open_holds")} == self.open
        used = {
            row.hold: (row.outcome, row.charge_nanos, row.forgiven_nanos)
            for row in self.all("usage")
        }
        assert used == self.used

    @invariant()
    def charges_are_what_was_paid(self) -> None:
        assert self.posted["revenue"] == sum(paid for _, paid, _ in self.used.values())
        assert sum(self.posted.values()) == 0


QUICK = settings(
    max_examples=40,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def test_any_order_of_moves() -> None:
    run_state_machine_as_test(Books, settings=QUICK)


class SharedBooks(Books):
    """The same, with the engine that several processes serve beside the model."""

    engines = ("memory", "postgres")


@pytest.mark.postgres
def test_any_order_of_moves_where_several_processes_serve() -> None:
    run_state_machine_as_test(SharedBooks, settings=settings(QUICK, max_examples=8))


@pytest.mark.full
def test_any_order_of_moves_at_length() -> None:
    run_state_machine_as_test(
        Books, settings=settings(QUICK, max_examples=500, stateful_step_count=60)
    )
