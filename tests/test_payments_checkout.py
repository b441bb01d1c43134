"""Opening a checkout: what Stripe is asked, and what a buyer is told when it does not answer."""

import json
from urllib.parse import parse_qs

import pytest

from moongate.core.errors import Refused
from moongate.payments import checkout as checkouts
from moongate.payments.checkout import Checkout
from payments_kit import Elsewhere

CENT = 10_000_000
PAGE = {"id": "cs_test_a1", "object": "checkout.session", "url": "https://checkout.example/c/1"}
OPENED = (200, json.dumps(PAGE).encode())


def checkout(base_url: str, **more: object) -> Checkout:
    said = {
        "api_key": "sk_test_canary",
        "success_url": "https://shop.example/paid?s={CHECKOUT_SESSION_ID}",
        "cancel_url": "https://shop.example/back",
        "least_nanos": 500 * CENT,
        "most_nanos": 50_000 * CENT,
    }
    return Checkout(base_url=base_url, **(said | more))


async def test_stripe_is_asked_for_one_payment_in_dollars_for_the_account():
    async with Elsewhere(OPENED) as stripe:
        session = await checkout(stripe.url + "/").open("acme", 2050 * CENT, "req_1")
    assert (session.id, session.url) == (PAGE["id"], PAGE["url"])
    ((path, headers, body),) = stripe.heard
    assert path == "/v1/checkout/sessions"
    assert headers["authorization"] == "Bearer sk_test_canary"
    assert headers["idempotency-key"] == "req_1"
    assert {name: value for name, (value,) in parse_qs(body.decode()).items()} == {
        "mode": "payment",
        "client_reference_id": "acme",
        "metadata[account]": "acme",
        "adaptive_pricing[enabled]": "false",
        "line_items[0][quantity]": "1",
        "line_items[0][price_data][currency]": "usd",
        "line_items[0][price_data][unit_amount]": "2050",
        "line_items[0][price_data][product_data][name]": "API credit",
        "success_url": "https://shop.example/paid?s={CHECKOUT_SESSION_ID}",
        "cancel_url": "https://shop.example/back",
    }


async def test_without_a_page_to_go_back_to_none_is_sent():
    async with Elsewhere(OPENED) as stripe:
        await checkout(stripe.url, cancel_url="").open("acme", 500 * CENT, "req_1")
    assert b"cancel_url" not in stripe.heard[0][2]


@pytest.mark.parametrize(
    ("nanos", "fine"),
    [
        (500 * CENT, True),
        (50_000 * CENT, True),
        (499 * CENT, False),
        (50_001 * CENT, False),
        (500 * CENT + 1, False),
        (CENT * 500 + CENT // 2, False),
    ],
)
async def test_amounts_are_whole_cents_within_what_is_offered(nanos, fine):
    async with Elsewhere(OPENED) as stripe:
        if fine:
            await checkout(stripe.url).open("acme", nanos, "req_1")
        else:
            with pytest.raises(Refused) as caught:
                await checkout(stripe.url).open("acme", nanos, "req_1")
            assert (caught.value.status, caught.value.param) == (400, "usd")
    assert len(stripe.heard) == fine


@pytest.mark.parametrize(
    "reply",
    [
        (401, b'{"error":{"message":"Invalid API Key: sk_test_canary"}}'),
        (402, OPENED[1]),
        (500, b"oops"),
        (302, b""),
        (200, b"not json"),
        (200, b"[]"),
        (200, b"[" * 100_000),
        (200, b"\xff"),
        (200, b'{"id":"cs_1"}'),
        (200, b'{"id":"cs_1","url":null}'),
        (200, b'{"id":"cs_1","url":"javascript:alert(1)"}'),
        (200, b'{"id":"' + b"x" * (2 << 20) + b'","url":"https://x"}'),
        0.5,
    ],
)
async def test_when_stripe_opens_nothing_the_buyer_is_told_so_and_nothing_of_stripes_words(reply):
    async with Elsewhere(reply) as stripe:
        with pytest.raises(Refused) as caught:
            await checkout(stripe.url, timeout_s=0.2).open("acme", 2000 * CENT, "req_1")
    assert (caught.value.status, caught.value.code) == (502, "payments_unavailable")
    assert "canary" not in str(caught.value.body())
    assert len(stripe.heard) == 1  # a redirect is not followed


async def test_when_nothing_listens_it_is_unavailable():
    with pytest.raises(Refused) as caught:
        await checkout("http://127.0.0.1:9").open("acme", 2000 * CENT, "req_1")
    assert caught.value.code == "payments_unavailable"


async def test_only_so_many_are_opened_at_once(monkeypatch):
    monkeypatch.setattr(checkouts, "OPENING_MAX", 0)
    with pytest.raises(Refused) as caught:
        await checkout("http://127.0.0.1:9").open("acme", 2000 * CENT, "req_1")
    assert caught.value.headers()["retry-after"] == "1"


def test_the_key_does_not_show():
    assert repr(checkout("https://api.example")) == "Checkout()"
