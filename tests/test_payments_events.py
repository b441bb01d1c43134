"""No free credit: a forged, stale, repeated or unpaid event credits nothing, a paid one once."""

import asyncio
import json

import pytest

from moongate.core.errors import LedgerUnavailable, Refused
from moongate.payments import stripe
from moongate.payments.signature import sign, verify
from moongate.payments.till import Till
from payments_kit import EVENT, SECRET, Shop, event, signed

CENT = 10_000_000
NOW_S = 1_769_472_000


@pytest.fixture
async def shop():
    return await Shop().start()


async def test_a_paid_session_is_credited_once_to_the_cent(shop):
    assert await shop.take(event(amount_total=2001)) == "credited"
    assert await shop.posted() == 2001 * CENT
    (ours, _) = await shop.store.entries(tx="stripe_cs_test_a1")
    assert (ours.account, ours.kind, ours.amount_nanos) == ("acme", "topup", 20_010_000_000)
    assert shop.said == [
        ("topup", {"account": "acme", "amount_nanos": 20_010_000_000, "kind": "credited"})
    ]
    assert await shop.store.audit() == []


async def test_repeats_other_events_of_the_session_and_races_credit_nothing_more(shop):
    later = {**event(), "id": "evt_2", "type": "checkout.session.async_payment_succeeded"}
    other_session = event(id="cs_test_a2")  # the same event id over another session
    took = await asyncio.gather(*(shop.take(made) for made in [event()] * 20 + [later] * 20))
    assert sorted(took) == ["credited"] + ["repeated"] * 39
    assert await shop.take(other_session) == "repeated"
    assert await shop.posted() == 2000 * CENT


async def test_a_delayed_payment_is_credited_when_it_has_arrived(shop):
    assert await shop.take(event(payment_status="unpaid")) == "ignored"
    assert await shop.posted() == 0
    arrived = {**event(), "id": "evt_2", "type": "checkout.session.async_payment_succeeded"}
    assert await shop.take(arrived) == "credited"
    assert await shop.posted() == 2000 * CENT


@pytest.mark.parametrize(
    "made",
    [
        {**EVENT, "type": "checkout.session.expired"},
        {**EVENT, "type": "checkout.session.async_payment_failed"},
        {**EVENT, "type": "charge.refunded"},
        {**EVENT, "type": 7},
        {"id": "evt_1"},
        event(metadata={}, client_reference_id=None),
        event(metadata={"order": "9"}, client_reference_id=..., mode="subscription"),
    ],
)
async def test_what_is_not_ours_is_taken_and_changes_nothing(shop, made):
    assert await shop.take(made) == "ignored"
    assert await shop.posted() == 0
    assert shop.said == []


@pytest.mark.parametrize(
    ("made", "param"),
    [
        (event(currency="eur"), "data.object.currency"),
        (event(currency="USD"), "data.object.currency"),
        (event(currency=...), "data.object.currency"),
        (event(payment_status="no_payment_required"), "data.object.payment_status"),
        (event(payment_status=...), "data.object.payment_status"),
        (event(mode="setup"), "data.object.mode"),
        (event(mode="subscription"), "data.object.mode"),
        (event(amount_total=0), "data.object.amount_total"),
        (event(amount_total=-2000), "data.object.amount_total"),
        (event(amount_total=20.0), "data.object.amount_total"),
        (event(amount_total="2000"), "data.object.amount_total"),
        (event(amount_total=True), "data.object.amount_total"),
        (event(amount_total=None), "data.object.amount_total"),
        (event(amount_total=10**8), "data.object.amount_total"),
        (event(amount_total=10**40), "data.object.amount_total"),
        (event(amount_total=...), "data.object.amount_total"),
        (event(client_reference_id="other"), "data.object.client_reference_id"),
        (event(client_reference_id=None), "data.object.client_reference_id"),
        (event(metadata={"account": "other"}), "data.object.client_reference_id"),
        (event(metadata={"account": ["acme"]}), "data.object.client_reference_id"),
        (event(metadata=None), "data.object.client_reference_id"),
        (
            event(metadata={"account": "nobody"}, client_reference_id="nobody"),
            "data.object.metadata.account",
        ),
        (
            event(metadata={"account": "revenue"}, client_reference_id="revenue"),
            "data.object.metadata.account",
        ),
        (event(id="cs test"), "data.object.id"),
        (event(id=None), "data.object.id"),
        (event(object="payment_intent"), "data.object"),
        ({**EVENT, "id": None}, "id"),
        ({**EVENT, "id": "evt_" + "x" * 200}, "id"),
        ({**EVENT, "data": None}, "data.object"),
        ({**EVENT, "data": {"object": []}}, "data.object"),
        (
            {
                **event(payment_status="unpaid"),
                "type": "checkout.session.async_payment_succeeded",
            },
            "data.object.payment_status",
        ),
    ],
)
async def test_what_is_wrong_in_a_signed_session_is_refused_and_told_the_operator(
    shop, made, param
):
    with pytest.raises(Refused) as caught:
        await shop.take(made)
    assert (caught.value.status, caught.value.param) == (400, param)
    assert await shop.store.entries() == []
    assert shop.said == [("topup_refused", {"code": "invalid_value", "kind": param})]


RIGHT = sign(SECRET.encode(), b"body", NOW_S)
MAC = RIGHT.partition(",v1=")[2]


@pytest.mark.parametrize(
    ("header", "fine"),
    [
        (RIGHT, True),
        (f"t={NOW_S}, v1={MAC}", True),
        (f"t={NOW_S},v1={'0' * 64},v1={MAC}", True),
        (f"t={NOW_S},v0={'0' * 64},v1={MAC}", True),
        (sign(SECRET.encode(), b"body", NOW_S - 300), True),
        (sign(SECRET.encode(), b"body", NOW_S + 300), True),
        (sign(SECRET.encode(), b"body", NOW_S - 301), False),
        (sign(SECRET.encode(), b"body", NOW_S + 301), False),
        (sign(b"another secret", b"body", NOW_S), False),
        (sign(SECRET.encode(), b"body ", NOW_S), False),
        (f"t={NOW_S},v0={MAC}", False),
        (f"t={NOW_S},v1={MAC.upper()}", False),
        (f"t={NOW_S},v1={MAC[:-1]}", False),
        (f"t={NOW_S},v1=", False),
        (f"t={NOW_S}", False),
        (f"t={NOW_S - 1},v1={MAC}", False),
        (f"t={NOW_S},t={NOW_S - 1},v1={MAC}", False),
        (f"t= {NOW_S},v1={MAC}", False),
        (f"t=0{NOW_S},v1={MAC}", False),
        (f"t={'9' * 40},v1={MAC}", False),
        (f"t=now,v1={MAC}", False),
        (f"v1={MAC}", False),
        (f"t={NOW_S},v1=\udcffé", False),
        (",=,,", False),
        ("", False),
    ],
)
def test_which_signatures_are_right(header, fine):
    assert verify(SECRET.encode(), header, b"body", NOW_S) is fine


def test_an_empty_secret_signs_and_opens_nothing():
    with pytest.raises(ValueError):
        sign(b"", b"body", NOW_S)
    with pytest.raises(ValueError):
        verify(b"", RIGHT, b"body", NOW_S)
    shop = Shop()
    with pytest.raises(ValueError):
        Till(shop.store, shop.clock, shop.report, secret="")


async def test_the_signature_is_judged_before_the_body_is_read(shop):
    for body in (b"{", b"\xff", b"[" * 100_000, b"", json.dumps(EVENT).encode()):
        with pytest.raises(Refused) as caught:
            await shop.till.take(sign(b"guessed", body, shop.now_s), body)
        assert caught.value.code == "invalid_signature"
    assert await shop.posted() == 0
    header, body = signed(EVENT, shop.now_s)
    with pytest.raises(Refused):
        await shop.till.take(header, body.replace(b"2000", b"9000"))
    shop.clock.advance(301)
    with pytest.raises(Refused):
        await shop.till.take(header, body)
    assert await shop.posted() == 0


async def test_signed_nonsense_is_refused(shop):
    for body in (b"{", b"\xff", b"[" * 100_000, b"", b"[]", b'{"type":"a","type":"b"}'):
        with pytest.raises(Refused) as caught:
            await shop.till.take(sign(SECRET.encode(), body, shop.now_s), body)
        assert caught.value.status == 400


async def test_a_store_that_is_gone_loses_nothing_stripe_sends_it_again(shop):
    shop.store.trouble = "full"
    with pytest.raises(LedgerUnavailable):
        await shop.take(EVENT)
    shop.store.trouble = None
    assert await shop.take(EVENT) == "credited"


def test_the_method_is_told_where_only_one_was_offered():
    def method(offered: object) -> str:
        paid = stripe.read(json.dumps(event(payment_method_types=offered)).encode())
        assert paid is not None
        return paid.topup.method

    assert method(["card"]) == "card"
    assert method(["us_bank_account"]) == "us_bank_account"
    assert [method(odd) for odd in (["card", "link"], [], None, ["A B"], [3])] == ["checkout"] * 5
