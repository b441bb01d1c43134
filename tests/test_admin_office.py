"""The operator's operations over the memory store: what they answer, refuse, and never tell."""

import json

import pytest

from moongate.admin import OPERATIONS
from moongate.core.errors import LedgerUnavailable
from moongate.core.money import Price, Usage, charge
from office_kit import DAY_MS, PRICE, Desk, refusal


@pytest.fixture
async def desk():
    return await Desk().start()


async def test_a_key_is_made_with_its_account_and_works_until_it_is_revoked(desk):
    made = await desk.post("/keys", name="ci", account="acme", models=["moon/Kimi", "kimi"])
    assert made["key"].startswith("mg-")
    assert (made["account"], made["state"], made["models"]) == ("acme", "active", ["kimi"])
    assert made["account_created"]
    assert (await desk.keys.identify(made["key"])).account == "acme"
    assert (await desk.get("/accounts/acme"))["available_nanos"] == 0

    listed = await desk.get("/keys", account="acme")
    assert [row["id"] for row in listed["data"]] == [made["id"]]
    assert (await refusal(desk.get("/keys", account="other")))[0] == "not_found"

    ended = await desk.post(f"/keys/{made['id']}/revoke")
    assert (ended["state"], ended["revoked_ms"]) == ("revoked", desk.clock.now_ms())
    again = await desk.post(f"/keys/{made['id']}/revoke")
    assert again == ended
    assert (await refusal(desk.keys.identify(made["key"])))[0] == "invalid_api_key"


async def test_an_admin_key_and_a_day_of_expiry(desk):
    made = await desk.post("/keys", name="ops", admin=True, expires="2026-01-28", policy="strict")
    assert made["key"].startswith("mga-")
    # The clock stands at the start of the 27th: the 28th is the last day, included.
    assert made["expires_ms"] == desk.clock.now_ms() + 2 * DAY_MS
    desk.clock.advance(2 * 86_400)
    assert (await desk.get("/keys"))["data"][0]["state"] == "expired"


async def test_nothing_secret_leaves_but_once(desk):
    made = await desk.post("/keys", name="ci", account="acme")
    (row,) = await desk.store.keys()
    await desk.post("/accounts/acme/credit", usd="1")
    await desk.spend("req_1", made["id"], Usage(input=1))
    for operation in OPERATIONS:
        if operation.verb != "GET":
            continue
        id = "req_1" if operation.path.startswith("/receipts") else "acme"
        path = operation.path.replace("{id}", id)
        query = {"month": "2026-01"} if path.endswith("/invoice") else {}
        told = json.dumps(await desk.get(path, **query))
        assert made["key"] not in told
        assert "mac" not in told
        assert row.mac.hex() not in told


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({}, "missing_required_parameter", "name"),
        ({"name": ""}, "invalid_value", "name"),
        ({"name": "x" * 81}, "invalid_value", "name"),
        ({"name": "a\nb"}, "invalid_value", "name"),
        ({"name": 3}, "invalid_type", "name"),
        ({"name": "n", "account": "a b"}, "invalid_value", "account"),
        ({"name": "n", "account": "revenue"}, "conflict", "account"),
        ({"name": "n", "policy": "loose"}, "invalid_value", "policy"),
        ({"name": "n", "models": "kimi"}, "invalid_type", "models"),
        ({"name": "n", "models": ["kimi", "other"]}, "invalid_value", "models[1]"),
        ({"name": "n", "models": ["kimi"] * 101}, "invalid_value", "models"),
        ({"name": "n", "expires": "soon"}, "invalid_value", "expires"),
        ({"name": "n", "expires": "9999-12-31"}, "invalid_value", "expires"),
        ({"name": "n", "expires": "2020-01-01"}, "invalid_value", "expires"),
        ({"name": "n", "admin": "yes"}, "invalid_type", "admin"),
        ({"name": "n", "rate": 3}, "unknown_parameter", "rate"),
        ({"name": "n", "project": "a/b"}, "invalid_value", "project"),
        ({"name": "n", "project": 3}, "invalid_type", "project"),
        ({"name": "n", "budget": "-1"}, "invalid_value", "budget"),
        ({"name": "n", "budget": None}, "invalid_type", "budget"),
        ({"name": "n", "budget": "5", "per": "year"}, "invalid_value", "per"),
        ({"name": "n", "per": "day"}, "missing_required_parameter", "budget"),
        ({"name": "n", "rpm": -1}, "invalid_value", "rpm"),
        ({"name": "n", "tpm": 10**10}, "invalid_value", "tpm"),
        ({"name": "n", "concurrency": "2"}, "invalid_type", "concurrency"),
        ({"name": "n", "concurrency": True}, "invalid_type", "concurrency"),
        ({"name": "n", "a b": 3}, "unknown_parameter", "?"),
    ],
)
async def test_what_a_key_cannot_be(desk, body, code, param):
    told = await refusal(desk.post("/keys", **body))
    assert told[:2] == (code, param)
    assert await desk.store.keys() == []


async def test_credit_is_exact_and_a_repeat_changes_nothing(desk):
    first = await desk.post("/accounts/acme/credit", usd="5.000000001", tx="t1")
    assert first["account_created"]
    assert first["credited_nanos"] == first["posted_nanos"] == 5_000_000_001
    assert (first["posted_usd"], first["repeated"]) == ("5.000000001", False)
    again = await desk.post("/accounts/acme/credit", usd="5.000000001", tx="t1")
    assert not again["account_created"]
    assert (again["posted_nanos"], again["credited_nanos"], again["repeated"]) == (
        5_000_000_001,
        0,
        True,
    )
    more = await desk.post("/accounts/acme/credit", usd=2, kind="trial")
    assert more["available_usd"] == "7.000000001"
    assert await desk.get("/ledger/audit") == {"ok": True, "findings": []}
    wallets = (await desk.get("/accounts"))["data"]
    assert [row["id"] for row in wallets] == ["acme"]
    everything = (await desk.get("/accounts", all="1"))["data"]
    assert {"cash", "promo"} <= {row["id"] for row in everything}
    assert sum(row["posted_nanos"] for row in everything) == 0


@pytest.mark.parametrize("usd", ["0", "-1", "x", "1.0000000001", "1e3", "1000000.01", 1.5, True])
async def test_what_is_no_credit(desk, usd):
    code, param, message = await refusal(desk.post("/accounts/acme/credit", usd=usd))
    assert code in {"invalid_value", "invalid_type"}
    assert param == "usd"
    assert str(usd) not in message or usd == "0"
    assert await desk.store.account("acme") is None


async def test_the_ledgers_own_accounts_take_no_credit(desk):
    assert (await refusal(desk.post("/accounts/revenue/credit", usd="1")))[0] == "conflict"


async def test_a_statement_is_tokens_times_price_to_the_nano_dollar(desk):
    key = (await desk.post("/keys", name="ci", account="acme"))["id"]
    await desk.post("/accounts/acme/credit", usd="1")
    await desk.spend("req_1", key, Usage(input=11, cache_read=5, output=7))
    await desk.spend("req_2", key, Usage(input=2, output=1))
    await desk.spend("req_3", key, Usage(input=100, output=50), outcome="upstream_error")
    desk.clock.advance(86_400)
    dearer = Price(500, 100, 3_000)
    await desk.price(dearer)
    await desk.spend("req_4", key, Usage(input=1, output=1, searches=2))

    told = await desk.get("/statement", account="acme")
    prices = {row.version: row.price for row in await desk.store.prices()}
    assert [(line["day"], line["key_name"], line["requests"]) for line in told["data"]] == [
        ("2026-01-27", "ci", 3),
        ("2026-01-28", "ci", 1),
    ]
    for line in told["data"]:
        used = Usage(
            line["input_tokens"], line["cached_tokens"], line["output_tokens"], line["searches"]
        )
        assert line["charge_nanos"] == line["due_nanos"]
        assert line["due_nanos"] == charge(used, prices[line["price_version"]])
    wallet = await desk.get("/accounts/acme")
    assert told["total"]["charge_nanos"] == 10**9 - wallet["posted_nanos"]
    assert (told["total"]["requests"], told["total"]["uncharged"]) == (4, 1)
    assert told["total"]["forgiven_nanos"] == charge(Usage(input=100, output=50), PRICE)

    each = await desk.get("/statement", each="1")
    assert [line["request"] for line in each["data"]] == ["req_1", "req_2", "req_3", "req_4"]
    assert each["data"][2]["charge_nanos"] == each["data"][2]["input_tokens"] == 0
    assert each["total"] == told["total"]

    first = await desk.get("/statement", **{"from": "2026-01-27", "to": "2026-01-27"})
    assert first["total"]["requests"] == 3
    assert (first["from"], first["to"]) == ("2026-01-27", "2026-01-27")
    second = await desk.get("/statement", **{"from": "2026-01-28T00:00:00+00:00"})
    assert second["total"]["requests"] == 1
    assert (second["from"], second["to"]) == ("2026-01-28T00:00:00Z", None)


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"from": "x"}, "invalid_value"),
        ({"from": "2026-02-01", "to": "2026-01-01"}, "invalid_value"),
        ({"account": "nobody"}, "not_found"),
        ({"account": "a b"}, "invalid_value"),
        ({"till": "2026-01-01"}, "unknown_parameter"),
    ],
)
async def test_what_a_statement_cannot_span(desk, query, code):
    assert (await refusal(desk.get("/statement", **query)))[0] == code


async def test_prices_models_and_upstreams(desk):
    await desk.price(Price(1, 1, 1), desk.clock.now_ms() + DAY_MS)
    rows = (await desk.get("/prices"))["data"]
    assert [row["in_force"] for row in rows] == [True, False]
    assert (rows[0]["input_nanos"], rows[0]["input_per_million_usd"]) == (480, "0.48")
    assert (rows[0]["search_nanos"], rows[0]["search_usd"]) == (5_000_000, "0.005")
    (model,) = (await desk.get("/models"))["data"]
    assert (model["id"], model["aliases"], model["context_length"]) == ("kimi", ["moon/Kimi"], 1000)
    assert model["targets"] == [{"upstream": "up", "model": "x"}]
    assert model["pricing"]["output_per_million_usd"] == "2.00"
    (up,) = (await desk.get("/upstreams"))["data"]
    assert (up["name"], up["ok"], up["models"], up["data_policy"]) == (
        "up",
        True,
        ["x"],
        "contract",
    )


async def test_the_server_tells_of_itself_where_there_is_one(desk):
    assert (await desk.get("/server"))["pid"] == 7
    desk.office.means.about = None
    assert (await refusal(desk.get("/server")))[0] == "not_found"


async def test_paths_and_verbs(desk):
    assert (await refusal(desk.get("/nothing")))[0] == "unknown_url"
    assert (await refusal(desk.get("/keys/x/y/revoke")))[0] == "unknown_url"
    assert (await refusal(desk.get("/keys/x/revoke")))[0] == "method_not_allowed"
    assert (await refusal(desk.post("/statement")))[0] == "method_not_allowed"
    assert (await refusal(desk.get("/accounts/nobody")))[0] == "not_found"
    assert (await refusal(desk.post("/keys/key_x/revoke")))[0] == "not_found"
    assert (await refusal(desk.post("/keys/key_local/revoke")))[0] == "conflict"


async def test_a_store_that_is_gone_is_said(desk):
    desk.store.trouble = "full"
    for path in ("/keys", "/accounts", "/prices", "/statement", "/ledger/audit"):
        with pytest.raises(LedgerUnavailable):
            await desk.get(path)


@pytest.mark.parametrize("name", ["revenue", "contra", "forgiven", "cash", "promo", "suspense"])
async def test_the_ledgers_own_names_are_no_wallets(desk, name):
    desk.store.tables.accounts.pop(name, None)  # as where it is spread over several
    refused = await refusal(desk.post(f"/accounts/{name}/credit", usd="1"))
    assert refused[:2] == ("conflict", "account")
    assert await desk.store.account(name) is None
