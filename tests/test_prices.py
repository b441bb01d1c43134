"""The dated price list: a change is a new row, exact, and every place shows the rows that bill."""

import asyncio
from pathlib import Path

import pytest

from moongate.app.clock import StoreClock
from moongate.app.repricing import EVERY_S, keep_prices
from moongate.core import prices
from moongate.core.errors import ConfigurationError, Refused
from moongate.core.money import Price, Usage, charge
from moongate.core.ports import ManualClock
from moongate.core.rows import PriceRow
from moongate.route.catalog import Catalog
from moongate.store.memory import MemoryStore
from moongate.upstream.scripted import ScriptedServer
from office_kit import CARD, DAY_MS, Desk, refusal
from serving_kit import ONE_UPSTREAM, ask, serve

CHEAPER = {"model": "moon/Kimi", "input": "0.40", "cached": "0.08", "output": "1.60"}


@pytest.fixture
async def desk():
    return await Desk().start()


async def test_a_change_is_a_new_row_and_what_was_charged_keeps_its_own(desk):
    key = (await desk.post("/keys", name="ci", account="acme"))["id"]
    await desk.post("/accounts/acme/credit", usd="1")
    await desk.spend("req_1", key, Usage(input=1_000, output=10))
    desk.clock.advance(60)
    told = await desk.post("/prices", **CHEAPER)
    assert (told["version"], told["state"], told["repeated"]) == (2, "in_force", False)
    assert (told["model"], told["input_nanos"], told["input_per_million_usd"]) == (
        "kimi",
        400,
        "0.40",
    )
    # A search that is not named costs what it cost.
    assert told["search_nanos"] == 5_000_000
    assert told["previous"]["version"] == 1
    assert told["previous"]["until_ms"] == told["from_ms"] == desk.clock.now_ms()
    await desk.spend("req_2", key, Usage(input=1_000, output=10))
    first, second = await desk.store.usage()
    assert (first.price_version, first.charge_nanos) == (1, 1_000 * 480 + 10 * 2_000)
    assert (second.price_version, second.charge_nanos) == (2, 1_000 * 400 + 10 * 1_600)
    assert await desk.store.audit() == []

    again = await desk.post("/prices", **CHEAPER)
    assert (again["version"], again["repeated"]) == (2, True)
    assert len(await desk.store.prices()) == 2


async def test_a_price_may_begin_later_and_one_set_meanwhile_ends_then(desk):
    now_ms = desk.clock.now_ms()
    later = await desk.post("/prices", **CHEAPER, **{"from": "2026-02-01"})
    assert (later["state"], later["in_force"], later["previous"]["state"]) == (
        "upcoming",
        False,
        "in_force",
    )
    assert later["previous"]["until_ms"] == later["from_ms"] == now_ms + 5 * DAY_MS
    desk.clock.advance(1)
    between = await desk.post("/prices", **CHEAPER | {"output": "1.70"}, search="0")
    assert (between["state"], between["until_ms"]) == ("in_force", later["from_ms"])
    assert between["search_nanos"] == 0
    # The same moment again replaces what was to begin then.
    await desk.post("/prices", **CHEAPER | {"output": "1.50"}, **{"from": "2026-02-01"})
    rows = (await desk.get("/prices", model="moon/Kimi"))["data"]
    assert [row["state"] for row in rows] == ["past", "replaced", "in_force", "upcoming"]
    desk.clock.advance(5 * 86_400)
    rows = (await desk.get("/prices"))["data"]
    assert [row["state"] for row in rows] == ["past", "replaced", "past", "in_force"]
    assert desk.catalog.offer("kimi").price.version == 4


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"input": "0.4801"}, "invalid_value", "input"),
        ({"output": "-2"}, "invalid_value", "output"),
        ({"cached": "cheap"}, "invalid_value", "cached"),
        ({"cached": 0.1}, "invalid_type", "cached"),
        ({"cached": None}, "missing_required_parameter", "cached"),
        ({"search": "0.0000000001"}, "invalid_value", "search"),
        ({"from": "2026-01-26"}, "invalid_value", "from"),
        ({"from": "soon"}, "invalid_value", "from"),
        ({"model": "other"}, "invalid_value", "model"),
        ({"currency": "EUR"}, "unknown_parameter", "currency"),
    ],
)
async def test_what_a_price_cannot_be(desk, change, code, param):
    assert (await refusal(desk.post("/prices", **CHEAPER | change)))[:2] == (code, param)
    assert len(await desk.store.prices()) == 1


async def test_a_model_without_a_row_needs_a_price_for_everything(desk):
    desk.store.tables.prices.clear()
    assert (await refusal(desk.post("/prices", **CHEAPER)))[:2] == (
        "missing_required_parameter",
        "search",
    )


def test_no_price_no_service():
    """P15: a card without a price stops the start, and a request for it finds no model."""
    clock = ManualClock()
    catalog = Catalog([CARD], lambda _: None, lambda _: True, clock)
    with pytest.raises(ConfigurationError, match="No price is in force for kimi"):
        catalog.require_prices()
    for rows in ([], [PriceRow(1, "kimi", Price(1, 1, 1), clock.now_ms() + 1)]):
        catalog.reprice(rows)
        with pytest.raises(Refused) as caught:
            catalog.offer("kimi")
        assert caught.value.code == "model_not_found"
        assert catalog.offers() == []
    # Nothing is a price as well: null and 0 are different.
    catalog.reprice([PriceRow(1, "kimi", Price(0, 0, 0), clock.now_ms())])
    catalog.require_prices()


def test_per_cent_are_rounded_half_to_even_in_integers():
    for part, whole, text in [
        (100, 480, "79.2"),
        (100, 600, "83.3"),
        (480, 600, "20.0"),
        (600, 480, "-25.0"),
        (0, 5, "100.0"),
        (1999, 2000, "0.0"),  # 0.05 %
        (1997, 2000, "0.2"),  # 0.15 %
        (2001, 2000, "0.0"),  # -0.05 %
        (2003, 2000, "-0.2"),  # -0.15 %
    ]:
        assert prices.percent_under(part, whole) == text, (part, whole)
    assert prices.percent_under(1, 0) is None


async def test_another_worker_charges_by_a_new_row_within_a_second():
    assert EVERY_S <= 1
    clock, store = ManualClock(), MemoryStore()
    catalog = Catalog([CARD], lambda _: None, lambda _: True, clock)
    async with asyncio.timeout(10):
        chore = asyncio.create_task(keep_prices(store, catalog, StoreClock(clock), every_s=0.001))
        await store.price_add(PriceRow(0, "kimi", Price(1, 1, 1), 0))
        while catalog.price("kimi") is None:
            await asyncio.sleep(0.001)
        store.trouble = "gone"
        await asyncio.sleep(0.02)
        # A store that is gone leaves what is known, and the chore goes on.
        assert catalog.price("kimi").version == 1
        store.trouble = None
        await store.price_add(PriceRow(0, "kimi", Price(2, 2, 2), 0))
        while catalog.price("kimi").version != 2:
            await asyncio.sleep(0.001)
        chore.cancel()


async def test_every_place_shows_the_price_that_is_charged(tmp_path: Path) -> None:
    """P20: the operator's list, the cards, the public list and the charge are one and the same."""
    async with (
        ScriptedServer("text ok\nusage prompt=10 completion=2 cached=4") as scripted,
        serve(
            tmp_path,
            ONE_UPSTREAM.format(kind="moonshot", base_url=scripted.base_url)
            + 'list_price = { input = "0.60", cached = "0.10", output = "3.00" }\n',
            store=MemoryStore(),
        ) as served,
    ):
        head = {"authorization": f"Bearer {served.key}"}

        async def shown() -> list[dict]:
            """Model cards, public list and operator's list, as figures."""
            async with served.http.get(f"{served.url}/models", headers=head) as reply:
                card = (await reply.json())["data"][0]["pricing"]
            async with served.http.get(f"{served.url}/pricing") as reply:
                assert reply.status == 200
                public = (await reply.json())["data"][0]
            _, answer = await served.app.office.dispatch("GET", "/admin/v1/prices", {}, {})
            (row,) = [row for row in answer["data"] if row["in_force"]]
            names = ("input", "cached", "output")
            figures = [
                {**{n: p[n] for n in names}, "search": p["search"], "version": p["version"]}
                for p in (card, public)
            ]
            figures.append(
                {n: row[f"{n}_per_million_usd"] for n in names}
                | {"search": row["search_usd"], "version": row["version"]}
            )
            for p in (card, public, row):
                nanos = {n: p[f"{n}_nanos"] for n in (*names, "search")}
                assert nanos == {n: row[f"{n}_nanos"] for n in (*names, "search")}
            return figures

        first = {"input": "0.48", "cached": "0.10", "output": "2.00", "search": "0.005"}
        assert await shown() == [first | {"version": 1}] * 3
        async with served.http.get(f"{served.url}/pricing") as reply:
            public = (await reply.json())["data"][0]
        assert public["percent"] == {
            "cached_under_input": "79.2",
            "cached_under_list_input": "83.3",
            "under_list": {"input": "20.0", "cached": "0.0", "output": "33.3"},
        }
        assert public["upcoming"] == []

        fresh = {"input": "0.40", "cached": "0.08", "output": "1.60", "search": "0.01"}
        body = {"model": "kimi-k2.5", **fresh}
        status, _ = await served.app.office.dispatch("POST", "/admin/v1/prices", {}, body)
        assert status == 200
        await served.app.office.dispatch(
            "POST", "/admin/v1/prices", {}, body | {"from": "2100-01-01"} | first
        )
        assert await shown() == [fresh | {"version": 2}] * 3
        async with served.http.get(f"{served.url}/pricing") as reply:
            (public,) = (await reply.json())["data"]
        (later,) = public["upcoming"]
        assert (later["version"], later["input"], later["from"]) == (
            3,
            "0.48",
            "2100-01-01T00:00:00Z",
        )
        assert public["percent"]["cached_under_input"] == "80.0"

        answer = await (await served.post(ask())).json()
        (used,) = await served.usage()
        assert used.price_version == 2
        price = Price(400, 80, 1_600, 10_000_000)
        assert answer["usage"]["cost_nanos"] == charge(used.usage, price)
