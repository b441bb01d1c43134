"""Statements, usage and invoices: every total is the ledger's, to the nano-dollar."""

import re
from html.parser import HTMLParser
from typing import Any

import msgspec
import pytest

from moongate.admin import Operator, balance, pages, usage
from moongate.core.errors import Refused
from moongate.core.money import Price, Usage, charge, nanos_to_usd
from office_kit import DAY_MS, PRICE, Desk, refusal

FEBRUARY_S = 5 * 86_400
CHEAPER = Price(400, 80, 1_600, 10_000_000)


@pytest.fixture
async def desk() -> Desk:
    """January: five requests at two prices. February: one more, with credit of every kind."""
    it = await Desk().start()
    key = (await it.post("/keys", name="ci", account="acme"))["id"]
    other = (await it.post("/keys", name="laptop", account="acme"))["id"]
    await it.post("/accounts/acme/credit", usd="2", kind="trial", tx="gift")
    await it.spend("req_1", key, Usage(1_100, 500, 70))
    await it.spend("req_2", other, Usage(20, 0, 10, searches=1))
    await it.spend("req_3", key, Usage(100, 0, 50), outcome="upstream_error")
    it.clock.advance(86_400)
    # More was done than was held: the rest is given away.
    await it.spend("req_4", key, Usage(1_000, 0, 500), outcome="credit_stop", amount=700_000)
    await it.price(CHEAPER)
    await it.spend("req_5", other, Usage(2_000, 1_000, 3))
    it.clock.advance(FEBRUARY_S - 86_400)  # to the very first moment of February
    await it.spend("req_6", key, Usage(10, 10, 10))
    await it.post("/accounts/acme/credit", usd="3.5", tx="pay-1")
    now_ms = it.clock.now_ms()
    assert await it.store.credit("acme", -250_000_000, "refund", "back-1", now_ms)
    it.clock.advance(86_400)
    return it


JANUARY = {
    "req_1": 1_100 * 480 + 500 * 100 + 70 * 2_000,
    "req_2": 20 * 480 + 10 * 2_000 + 5_000_000,
    "req_4": 700_000,
    "req_5": 2_000 * 400 + 1_000 * 80 + 3 * 1_600,
}


async def wallet_change(desk: Desk, from_ms: int, to_ms: int, *kinds: str) -> int:
    rows = await desk.store.entries("acme")
    return sum(
        row.amount_nanos for row in rows if row.kind in kinds and from_ms <= row.created_ms < to_ms
    )


async def test_an_invoice_is_the_ledgers_month(desk):
    told = await desk.get("/accounts/acme/invoice", month="2026-01")
    ends_ms = desk.clock.now_ms() - DAY_MS
    assert told["charges_nanos"] == sum(JANUARY.values())
    assert told["charges_nanos"] == -await wallet_change(desk, 0, ends_ms, "charge")
    assert told["opening_nanos"] == 0
    assert told["closing_nanos"] == 2 * 10**9 - sum(JANUARY.values())
    assert (told["requests"], told["uncharged"], told["final"]) == (5, 1, True)
    # Each line can be done again, and they add up to what was charged and what was given away.
    for line in told["lines"]:
        assert line["amount_nanos"] == line["count"] * line["unit_nanos"]
    assert sum(line["amount_nanos"] for line in told["lines"]) == told["due_nanos"]
    given = 1_000 * 480 + 500 * 2_000 - 700_000
    assert told["reduction_nanos"] == told["due_nanos"] - told["charges_nanos"] == given
    assert told["forgiven_nanos"] == given + 100 * 480 + 50 * 2_000
    assert [(line["price_version"], line["class"], line["count"]) for line in told["lines"]] == [
        (1, "input", 2_120),
        (1, "cached", 500),
        (1, "output", 580),
        (1, "searches", 1),
        (2, "input", 2_000),
        (2, "cached", 1_000),
        (2, "output", 3),
    ]
    assert told["lines"][0]["unit_usd"] == "0.48"
    assert (told["lines"][3]["unit_usd"], told["lines"][3]["per"]) == ("0.005", "search")
    assert [(row["kind"], row["amount_nanos"]) for row in told["credits"]] == [("trial", 2 * 10**9)]


async def test_months_follow_each_other_without_a_gap(desk):
    january = await desk.get("/accounts/acme/invoice", month="2026-01")
    february = await desk.get("/accounts/acme/invoice", month="2026-02")
    assert february["opening_nanos"] == january["closing_nanos"]
    assert february["charges_nanos"] == charge(Usage(10, 10, 10), CHEAPER)
    assert [(row["kind"], row["tx"]) for row in february["credits"]] == [
        ("topup", "pay-1"),
        ("refund", "back-1"),
    ]
    assert february["credits_nanos"] == 3_250_000_000
    row = await desk.store.account("acme")
    assert february["closing_nanos"] == row.posted_nanos
    assert not february["final"]
    assert january["final"]
    before = await desk.get("/accounts/acme/invoice", month="2025-12")
    assert (before["lines"], before["charges_nanos"], before["closing_nanos"]) == ([], 0, 0)


async def test_a_month_is_closed_a_minute_after_its_end():
    desk = await Desk().start()
    await desk.post("/accounts/acme/credit", usd="2", tx="pay-1")
    desk.clock.advance(FEBRUARY_S - 1)
    finals = []
    for seconds in (1, 59, 1, 86_400):
        desk.clock.advance(seconds)
        finals.append((await desk.get("/accounts/acme/invoice", month="2026-01"))["final"])
    assert finals == [False, False, True, True]


@pytest.mark.parametrize(
    ("month", "code", "param"),
    [
        ("2026-03", "invalid_value", "month"),
        ("2026-13", "invalid_value", "month"),
        ("2026-1", "invalid_value", "month"),
        ("", "missing_required_parameter", "month"),
    ],
)
async def test_what_is_no_month(desk, month, code, param):
    query = {"month": month} if month else {}
    assert (await refusal(desk.get("/accounts/acme/invoice", **query)))[:2] == (code, param)


async def test_an_invoice_needs_a_wallet_and_books_that_agree(desk):
    for account in ("nobody", "revenue"):
        told = await refusal(desk.get(f"/accounts/{account}/invoice", month="2026-01"))
        assert told[0] == "not_found"
    rows = desk.store.tables.usage
    rows["req_1"] = msgspec.structs.replace(rows["req_1"], charge_nanos=1)
    code, _, message = await refusal(desk.get("/accounts/acme/invoice", month="2026-01"))
    assert code == "conflict"
    assert "moongate audit ledger" in message


class Tags(HTMLParser):
    """Every tag and attribute of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text.append(data)


async def test_the_page_tells_the_invoice_and_loads_nothing(desk):
    desk.office.means.operator = Operator(
        'Moon <script>alert("x")</script> & Sons', "a@moon.example", "https://moon.example"
    )
    data = await desk.get("/accounts/acme/invoice", month="2026-01")
    page = pages.invoice(data)
    seen = Tags()
    seen.feed(page)
    text = re.sub(r"\s+", " ", " ".join(seen.text))
    assert not seen.tags & {"script", "img", "link", "iframe", "object", "form", "a", "svg"}
    names = {name for name, _ in seen.attributes}
    assert not [name for name in names if name.startswith("on") or name in {"src", "href", "style"}]
    assert "url(" not in page
    assert "@import" not in page
    assert 'Moon <script>alert("x")</script> & Sons' in text
    # Amounts stand with the decimals of the finest one, the total too.
    for line in data["lines"]:
        assert pages.dollars(line["amount_nanos"], 6) in text
    assert f"Charges, 5 requests {pages.dollars(data['charges_nanos'], 6)}" in text
    for words in (
        "acme-2026-01",
        "January 2026",
        "1 of the 5 requests failed and cost nothing.",
        "Done for you and not charged",
        "Nothing is to be paid",
        "$0.48 / million tokens",
        "$0.005 / search",
    ):
        assert words in text, words
    assert "Provisional" not in page
    assert "Provisional" in pages.invoice(await desk.get("/accounts/acme/invoice", month="2026-02"))


async def test_what_is_owed_is_said():
    desk = await Desk().start()
    await desk.keys.ensure_account("acme")
    data = await desk.get("/accounts/acme/invoice", month="2026-01")
    owed = data | {"owed_nanos": 5_000_000_001, "closing_nanos": -5_000_000_001}
    assert "To be paid: $5.000000001" in pages.invoice(owed)
    assert "Nothing was charged this month." in pages.invoice(data)


async def test_a_statement_tells_what_was_given_away_and_equals_the_ledger(desk):
    told = await desk.get("/statement", account="acme")
    entries = await desk.store.entries("acme")
    paid = -sum(row.amount_nanos for row in entries if row.kind == "charge")
    assert told["total"]["charge_nanos"] == paid == sum(row["charge_nanos"] for row in told["data"])
    forgiven = sum(
        row.amount_nanos for row in await desk.store.entries("forgiven") if row.kind == "forgiven"
    )
    assert told["total"]["forgiven_nanos"] == forgiven
    rows = await desk.store.prices()
    prices = {row.version: row.price for row in rows}
    for line in told["data"]:
        used = Usage(
            line["input_tokens"], line["cached_tokens"], line["output_tokens"], line["searches"]
        )
        assert line["due_nanos"] == charge(used, prices[line["price_version"]])
    each = await desk.get("/statement", account="acme", each="1")
    assert each["total"] == told["total"]
    cut = next(line for line in each["data"] if line["request"] == "req_4")
    assert (cut["due_nanos"], cut["charge_nanos"], cut["forgiven_nanos"]) == (
        1_480_000,
        700_000,
        780_000,
    )


@pytest.mark.parametrize("by", ["day", "key", "model"])
async def test_usage_by_day_key_and_model_adds_up_to_the_same(desk, by):
    told = await usage.grouped(desk.office.means, "acme", {"group_by": by})
    names = [line[by] for line in told["data"]]
    assert names == sorted(names)
    assert len(names) == {"day": 3, "key": 2, "model": 1}[by]
    statement = (await desk.get("/statement", account="acme"))["total"]
    assert {name: told["total"][name] for name in statement} == statement
    # Cached tokens against the price that their requests would have paid for uncached ones.
    assert told["total"]["saved_nanos"] == 500 * (480 - 100) + 1_010 * (400 - 80)
    assert told["total"]["saved_usd"] == nanos_to_usd(told["total"]["saved_nanos"])
    if by == "key":
        assert {line["key_name"] for line in told["data"]} == {"ci", "laptop"}


async def test_usage_of_a_span_and_of_nothing(desk):
    query = {"from": "2026-01-28", "to": "2026-01-28", "group_by": "day"}
    told = await usage.grouped(desk.office.means, "acme", query)
    assert [line["day"] for line in told["data"]] == ["2026-01-28"]
    assert told["total"]["charge_nanos"] == JANUARY["req_4"] + JANUARY["req_5"]
    empty = await usage.grouped(desk.office.means, "acme", {"from": "2030-01-01"})
    assert (empty["data"], empty["total"]["charge_nanos"], empty["group_by"]) == ([], 0, "day")
    for query in ({"group_by": "hour"}, {"since": "x"}, {"from": "2026-02-01", "to": "2026-01-01"}):
        with pytest.raises(Refused):
            await usage.grouped(desk.office.means, "acme", query)


async def test_trial_credit_is_a_voucher_that_is_used_up_first():
    desk = await Desk().start()
    key = (await desk.post("/keys", name="ci", account="acme"))["id"]
    means = desk.office.means
    assert await balance.balance(means, "acme") == (0, 0)
    await desk.post("/accounts/acme/credit", usd="0.01", kind="trial")
    await desk.post("/accounts/acme/credit", usd="0.02")
    assert await balance.balance(means, "acme") == (30_000_000, 10_000_000)
    used = charge(Usage(1_000, 0, 1_000), PRICE)
    await desk.spend("req_1", key, Usage(1_000, 0, 1_000))
    assert await balance.balance(means, "acme") == (30_000_000 - used, 10_000_000 - used)
    for n in range(2, 6):
        await desk.spend(f"req_{n}", key, Usage(1_000, 0, 1_000))
    assert await balance.balance(means, "acme") == (30_000_000 - 5 * used, 0)
