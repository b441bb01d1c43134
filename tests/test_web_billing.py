"""What a key's holder is told of their own money over HTTP, and that nobody else is told."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from moongate.admin import pages, statement
from moongate.core.money import nanos_to_usd
from moongate.ledger import receipt
from moongate.upstream.scripted import ScriptedServer
from moongate.web.routes import ROUTES
from serving_kit import ONE_UPSTREAM, Served, ask, serve

SCRIPT = """
text Io
usage prompt=40 cached=10 completion=9
---
error 500 server_error Oops
---
text Europa
usage prompt=50 completion=7
"""


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with (
        ScriptedServer(SCRIPT) as scripted,
        serve(
            tmp_path, ONE_UPSTREAM.format(kind="moonshot", base_url=scripted.base_url)
        ) as running,
    ):
        yield running


async def get(served: Served, path: str, key: str | None = None) -> tuple[int, Any]:
    head = {"authorization": f"Bearer {key or served.key}"} if key != "" else {}
    async with served.http.get(served.url + path, headers=head) as reply:
        return reply.status, json.loads(await reply.text())


async def made(served: Served, **body: Any) -> str:
    """A new key's secret."""
    _, answer = await served.app.office.dispatch("POST", "/admin/v1/keys", {}, body)
    return str(answer["key"])


async def test_a_receipt_of_every_request_and_its_sum_is_the_wallets_fall(served: Served) -> None:
    before, _ = await served.wallet()
    ids = []
    for _ in range(3):
        reply = await served.post(ask())
        ids.append((reply.headers["x-request-id"], reply.status))
    assert [status for _, status in ids] == [200, 502, 200]
    status, key = await get(served, "/receipts/key", key="")
    assert status == 200
    public = bytes.fromhex(key["public_key"])
    assert (served.app.home.path / "receipts.pub").read_text() == f"{public.hex()}\n"
    charged = 0
    for id, answered in ids:
        status, told = await get(served, f"/receipts/{id}")
        assert status == 200
        assert list(receipt.differences(told, public)) == []
        assert (told["request"], told["status"]) == (id, answered)
        charged += told["charge_nanos"]
    after, _ = await served.wallet()
    assert charged == before - after > 0


async def test_a_strangers_receipt_is_not_there(served: Served) -> None:
    reply = await served.post(ask())
    id = reply.headers["x-request-id"]
    stranger = await made(served, name="s", account="stranger")
    admin = await made(served, name="a", account="ops", admin=True)
    for key in (stranger, admin):
        for asked in (id, "req_00", "a/b"):
            status, told = await get(served, f"/receipts/{asked}", key=key)
            assert (status, told["error"]["code"]) == (404, "not_found")
    for path in (f"/receipts/{id}", "/usage", "/invoices/2026-01", "/users/me/balance"):
        status, told = await get(served, path, key="")
        assert (status, told["error"]["code"]) == (401, "missing_api_key")


async def test_usage_is_the_keys_own_account_alone(served: Served) -> None:
    for _ in range(3):
        await served.post(ask())
    status, told = await get(served, "/usage?group_by=model")
    assert (status, told["account"]) == (200, "default")
    (line,) = told["data"]
    rows = await served.usage()
    assert (line["model"], line["requests"], line["uncharged"]) == ("kimi-k2.5", 3, 1)
    assert line["charge_nanos"] == sum(row.charge_nanos for row in rows)
    cached = sum(row.usage.cache_read for row in rows)
    assert (line["cached_tokens"], line["saved_nanos"]) == (cached, cached * (480 - 100))
    assert line["charge_usd"] == nanos_to_usd(line["charge_nanos"])

    stranger = await made(served, name="s", account="stranger")
    status, told = await get(served, "/usage", key=stranger)
    assert (status, told["data"], told["total"]["requests"]) == (200, [], 0)
    status, told = await get(served, "/usage?account=default", key=stranger)
    assert (status, told["error"]["code"]) == (404, "not_found")
    admin = await made(served, name="a", account="ops", admin=True)
    status, told = await get(served, "/usage?account=default", key=admin)
    assert (status, told["total"]["requests"]) == (200, 3)
    assert (await get(served, "/usage?account=nobody", key=admin))[0] == 404
    assert (await get(served, "/usage?group_by=hour"))[0] == 400
    assert (await get(served, "/usage?till=2026-01-01"))[0] == 400


async def test_an_invoice_is_a_page_that_loads_nothing_and_the_same_as_data(served: Served) -> None:
    await served.post(ask())
    month = statement.moment(served.app.clock.now_ms())[:7]
    head = {"authorization": f"Bearer {served.key}"}
    async with served.http.get(f"{served.url}/invoices/{month}", headers=head) as reply:
        page = await reply.text()
        assert (reply.status, reply.headers["content-type"]) == (200, "text/html; charset=utf-8")
        policy = reply.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; style-src 'sha256-")
        assert policy.endswith("frame-ancestors 'none'")
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert pages.POLICY in policy
    status, data = await get(served, f"/invoices/{month}?format=json")
    before, _ = await served.wallet()
    assert (status, data["account"], data["closing_nanos"]) == (200, "default", before)
    assert f"default-{month}" in page
    assert (await get(served, "/invoices/2999-01"))[0] == 400
    assert (await get(served, f"/invoices/{month}?format=pdf"))[0] == 400


async def test_the_balance_is_told_as_moonshot_tells_it(served: Served) -> None:
    reply = await served.post(ask())
    cost = (await reply.json())["usage"]["cost_nanos"]
    head = {"authorization": f"Bearer {served.key}"}
    async with served.http.get(f"{served.url}/users/me/balance", headers=head) as answer:
        text = await answer.text()
    left = nanos_to_usd(5 * 10**9 - cost)
    # The digits are those of the integer: no float has touched them.
    assert text == (
        f'{{"code":0,"data":{{"available_balance":{left},"voucher_balance":{left},'
        '"cash_balance":0.00},"scode":"0x0","status":true}'
    )
    assert isinstance(json.loads(text)["data"]["available_balance"], float)


def test_no_route_of_these_moves_money_and_only_two_are_public() -> None:
    own = {"receipt", "receipt_key", "usage", "invoice", "balance", "pricing"}
    routes = [route for route in ROUTES if route.handler in own]
    assert {route.handler for route in routes} == own
    assert {(route.method, route.money, route.keeps) for route in routes} == {
        ("GET", "free", "nothing")
    }
    assert {route.handler for route in routes if route.auth != "key"} == {"receipt_key", "pricing"}
