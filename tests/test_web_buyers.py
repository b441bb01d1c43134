"""Buyers over HTTP: the page of an invitation, hosted checkouts, and the event that pays in."""

import asyncio
import functools
import json
import re

import pytest

from moongate.core.errors import ConfigurationError
from moongate.payments.alerts import HEADER, Alerts
from moongate.payments.signature import verify
from moongate.store.memory import MemoryStore
from moongate.web.routes import ROUTES, Route, Router
from payments_kit import SECRET, Elsewhere, event, signed
from serving_kit import ONE_UPSTREAM, Served, serve

CONFIG = ONE_UPSTREAM.format(kind="moonshot", base_url="http://127.0.0.1:9/v1")
ENV = {"WHSEC": SECRET, "STRIPE_KEY": "sk_test_1"}
WEBHOOK = '\n[topups]\nstripe_secret_env = "WHSEC"\n'


def checkouts(stripe: Elsewhere) -> str:
    return (
        WEBHOOK + 'stripe_api_key_env = "STRIPE_KEY"\nsuccess_url = "https://shop.example/paid"\n'
        f'stripe_base_url = "{stripe.url}"\n'
    )


def base(served: Served) -> str:
    return served.url.removesuffix("/v1")


def now_s(served: Served) -> int:
    return served.app.clock.now_ms() // 1000


async def deliver(served: Served, made: object, *, secret: str = SECRET) -> tuple[int, dict]:
    header, body = signed(made, now_s(served), secret)
    headers = {"stripe-signature": header, "content-type": "application/json"}
    url = f"{base(served)}/webhooks/stripe"
    async with served.http.post(url, data=body, headers=headers) as reply:
        return reply.status, await reply.json()


async def topup(served: Served, usd: object, **headers: str) -> tuple[int, dict]:
    headers = {"authorization": f"Bearer {served.key}"} | headers
    async with served.http.post(
        f"{served.url}/topups", json={"usd": usd}, headers=headers
    ) as reply:
        return reply.status, await reply.json()


# Top-ups.


async def test_without_a_webhook_secret_there_is_no_route_that_could_be_told_a_payment(tmp_path):
    async with serve(tmp_path, CONFIG, store=MemoryStore()) as served:
        before = await served.wallet()
        for secret in (SECRET, "x"):
            status, body = await deliver(served, event(), secret=secret)
            assert (status, body["error"]["code"]) == (404, "unknown_url")
        empty = {"stripe-signature": f"t={now_s(served)},v1="}
        url = f"{base(served)}/webhooks/stripe"
        async with served.http.post(url, json=event(), headers=empty) as reply:
            assert reply.status == 404
        async with served.http.get(url) as reply:
            assert reply.status == 404
        status, body = await topup(served, "20")
        assert (status, body["error"]["code"]) == (404, "unknown_url")
        assert await served.wallet() == before


async def test_a_checkout_is_opened_and_its_event_credits_the_wallet_once(tmp_path):
    opened = {"id": "cs_test_a1", "url": "https://checkout.example/1"}
    async with (
        Elsewhere((200, json.dumps(opened).encode())) as stripe,
        serve(tmp_path, CONFIG + checkouts(stripe), env=ENV) as served,
    ):
        status, body = await topup(served, "20")
        assert (status, body["id"], body["url"]) == (200, opened["id"], opened["url"])
        assert (body["account"], body["amount_nanos"], body["amount_usd"]) == (
            "default",
            20_000_000_000,
            "20.00",
        )
        asked = stripe.heard[0][2].decode()
        assert "client_reference_id=default" in asked
        assert "unit_amount%5D=2000" in asked
        before, _ = await served.wallet()
        ours = {"metadata": {"account": "default"}, "client_reference_id": "default"}
        assert await deliver(served, event(**ours)) == (
            200,
            {"received": True, "result": "credited"},
        )
        for made in (event(**ours), {**event(**ours), "id": "evt_2"}):
            assert await deliver(served, made) == (200, {"received": True, "result": "repeated"})
        assert (await served.wallet())[0] - before == 20_000_000_000
        assert (await deliver(served, {**event(), "type": "invoice.paid"}))[1]["result"] == (
            "ignored"
        )
        await served.sound()
        assert '"event":"topup"' in served.log.getvalue()
        for secret in (SECRET, "sk_test_1", served.key):
            assert secret not in served.log.getvalue()


async def test_what_is_forged_or_too_large_is_refused_and_credits_nothing(tmp_path):
    async with serve(tmp_path, CONFIG + WEBHOOK, env=ENV, store=MemoryStore()) as served:
        before = await served.wallet()
        ours = {"metadata": {"account": "default"}, "client_reference_id": "default"}
        status, body = await deliver(served, event(**ours), secret="guessed")
        assert (status, body["error"]["code"]) == (400, "invalid_signature")
        status, body = await deliver(served, event(**ours, currency="eur"))
        assert (status, body["error"]["param"]) == (400, "data.object.currency")
        status, _ = await deliver(served, event(**ours, padding="x" * (256 << 10)))
        assert status == 413
        url = f"{base(served)}/webhooks/stripe"
        header, raw = signed(event(**ours), now_s(served))
        two = [("stripe-signature", header), ("stripe-signature", header)]
        two.append(("content-type", "application/json"))
        async with served.http.post(url, data=raw, headers=two) as reply:
            assert reply.status == 400
        async with served.http.get(url) as reply:
            assert reply.status == 405
        status, body = await topup(served, "20")
        assert (status, body["error"]["code"]) == (404, "unknown_url")
        assert await served.wallet() == before


@pytest.mark.parametrize(
    ("usd", "code", "param"),
    [
        ("4.99", "invalid_value", "usd"),
        ("500.01", "invalid_value", "usd"),
        ("20.001", "invalid_value", "usd"),
        ("-20", "invalid_value", "usd"),
        (20.5, "invalid_type", "usd"),
        (None, "invalid_type", "usd"),
    ],
)
async def test_what_cannot_be_topped_up(tmp_path, usd, code, param):
    async with (
        Elsewhere((500, b"")) as stripe,
        serve(tmp_path, CONFIG + checkouts(stripe), env=ENV, store=MemoryStore()) as served,
    ):
        status, body = await topup(served, usd)
        assert (status, body["error"]["code"], body["error"]["param"]) == (400, code, param)
        assert (await topup(served, "20", authorization="Bearer nonsense"))[0] == 401
        assert stripe.heard == []
        status, body = await topup(served, "20")
        assert (status, body["error"]["code"]) == (502, "payments_unavailable")


# Invitations.


async def invited(served: Served, account: str = "acme") -> str:
    path = f"/admin/v1/accounts/{account}/invites"
    _, made = await served.app.office.dispatch("POST", path, {}, {"name": "<b>laptop"})
    assert made["link"] == f"{base(served)}/join#{made['code']}"
    return made["code"]


async def test_the_page_of_an_invitation_loads_nothing_and_tells_nobody(tmp_path):
    async with serve(tmp_path, CONFIG, store=MemoryStore()) as served:
        policies = set()
        for _ in range(2):
            async with served.http.get(f"{base(served)}/join") as reply:
                text, headers = await reply.text(), reply.headers
            assert (reply.status, headers["content-type"]) == (200, "text/html; charset=utf-8")
            assert headers["cache-control"] == "no-store"
            assert headers["referrer-policy"] == "no-referrer"
            policy = headers["content-security-policy"]
            assert policy.startswith("default-src 'none'; script-src 'nonce-")
            assert "frame-ancestors 'none'" in policy
            policies.add(policy)
            (nonce, again) = re.findall(r'<(?:style|script) nonce="([^"]+)"', text)
            assert nonce == again
            assert f"script-src 'nonce-{nonce}'" in policy
            assert not re.search(r'(?:src|href)="|style="|onclick', text)
        assert len(policies) == 2


async def test_a_form_turns_the_code_into_a_key_shown_once(tmp_path):
    async with serve(tmp_path, CONFIG) as served:
        code = await invited(served)
        url = f"{base(served)}/join"
        async with served.http.get(url) as reply:
            assert reply.status == 200  # looking uses nothing up
        async with served.http.post(url, data={"code": f" {code}\n"}) as reply:
            text = await reply.text()
        assert (reply.status, reply.headers["cache-control"]) == (200, "no-store")
        (key,) = set(re.findall(r"mg-[0-9A-Za-z]{33}", text))
        assert f'id="api" aria-labelledby="h-api">{served.url}<' in text
        assert "&lt;b&gt;laptop" in text
        assert "<b>laptop" not in text
        assert (await served.app.keys.identify(key)).account == "acme"
        for wrong in (code, "mgi-nonsense", "", "<script>"):
            async with served.http.post(url, data={"code": wrong}) as reply:
                text = await reply.text()
            assert reply.status == 404
            assert "This invitation is not known, was used, or has expired." in text
            assert "mg-" not in text
            assert not wrong or wrong not in text.replace("<script nonce", "")
        assert code not in served.log.getvalue()
        assert key not in served.log.getvalue()


async def test_a_program_gets_json(tmp_path):
    config = CONFIG.replace("port = 0", 'port = 0\npublic_url = "https://api.example/"')
    async with serve(tmp_path, config, store=MemoryStore()) as served:
        path = "/admin/v1/accounts/acme/invites"
        _, made = await served.app.office.dispatch("POST", path, {}, {})
        assert made["link"] == f"https://api.example/join#{made['code']}"
        url = f"{base(served)}/join"
        async with served.http.post(url, json={"code": made["code"]}) as reply:
            got = await reply.json()
        assert (got["account"], got["name"], got["api"]) == (
            "acme",
            "acme",
            "https://api.example/v1",
        )
        assert (await served.app.keys.identify(got["key"])).key == got["id"]
        async with served.http.post(url, json={"code": made["code"]}) as reply:
            error = (await reply.json())["error"]
            assert (reply.status, error["code"]) == (404, "invalid_invitation")
        for bad, status in (({}, 400), ({"code": 3}, 400), ({"code": "x", "n": 1}, 400)):
            async with served.http.post(url, json=bad) as reply:
                assert reply.status == status
        async with served.http.post(url, data=b"x", headers={"content-type": "text/x"}) as reply:
            assert reply.status == 415
        async with served.http.post(url, json={"code": "x" * 5000}) as reply:
            assert reply.status == 413


async def test_while_the_store_is_gone_the_invitation_is_kept(tmp_path):
    store = MemoryStore()
    async with serve(tmp_path, CONFIG, store=store) as served:
        code = await invited(served)
        store.trouble = "full"
        url = f"{base(served)}/join"
        async with served.http.post(url, data={"code": code}) as reply:
            assert reply.status == 503
            assert "your invitation was not used" in await reply.text()
        async with served.http.post(url, json={"code": code}) as reply:
            assert (reply.status, (await reply.json())["error"]["code"]) == (
                503,
                "ledger_unavailable",
            )
        store.trouble = None
        async with served.http.post(url, data={"code": code}) as reply:
            assert reply.status == 200


async def test_an_odd_host_is_not_repeated(tmp_path):
    async with serve(tmp_path, CONFIG, store=MemoryStore()) as served:
        code = await invited(served)
        url, headers = f"{base(served)}/join", {"host": '"><script>alert(1)</script>'}
        async with served.http.post(url, data={"code": code}, headers=headers) as reply:
            text = await reply.text()
        assert "alert(1)" not in text


# What the application wires.


async def test_a_server_tells_of_a_low_balance(tmp_path, monkeypatch):
    quick = functools.partial(Alerts, every_s=0.02)
    monkeypatch.setattr("moongate.app.buyers.Alerts", quick)
    async with Elsewhere((200, b"")) as receiver:
        alerts = (
            f'\n[alerts]\nwebhook_url = "{receiver.url}/low?team=1"\n'
            'webhook_secret_env = "WHSEC"\nlow_balance_usd = "6.00"\n'
        )
        async with serve(tmp_path, CONFIG + alerts, env=ENV, store=MemoryStore()) as served:
            async with asyncio.timeout(10):
                while not receiver.heard:
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            ((path, headers, body),) = receiver.heard
            assert path == "/low"
            assert json.loads(body)["account"] == "default"
            assert verify(SECRET.encode(), headers[HEADER], body, now_s(served))
            assert not verify(b"other", headers[HEADER], body, now_s(served))


def test_a_route_without_a_handler_stops_the_start_unless_it_is_optional():
    names = {route.handler for route in ROUTES}
    router = Router(handlers=names)
    assert router.find("POST", "/webhooks/stripe")[0].auth == "signature"
    Router(handlers=names - {route.handler for route in ROUTES if route.optional})
    with pytest.raises(ConfigurationError, match="POST /v1/chat/completions has no handler"):
        Router(handlers=names - {"chat"})
    paid = Route("POST", "/x", "x", "signature", "hold", "gate", "usage-row", "")
    with pytest.raises(ConfigurationError, match="needs a key"):
        Router((paid,))
