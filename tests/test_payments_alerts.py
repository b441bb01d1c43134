"""A low balance is told once for each fall, signed, however many processes look."""

import asyncio
import json

import pytest

from moongate.core.rows import AccountRow
from moongate.payments.alerts import HEADER, Alerts
from moongate.payments.signature import verify
from payments_kit import Elsewhere, Shop

USD = 10**9
TAKEN, FULL = (204, b""), (503, b"")
SECRET = "shared"


@pytest.fixture
async def shop():
    shop = await Shop().start()
    await credit(shop, "acme", 5 * USD)
    return shop


async def credit(shop: Shop, account: str, nanos: int) -> None:
    kind = "topup" if nanos > 0 else "refund"
    shop.count = getattr(shop, "count", 0) + 1
    now_ms = shop.clock.now_ms()
    assert await shop.store.credit(account, nanos, kind, f"tx_{shop.count}", now_ms)


def alerts(shop: Shop, url: str, **more: float) -> Alerts:
    return Alerts(
        shop.store, shop.clock, shop.report, url=url, secret=SECRET, below_nanos=USD, **more
    )


async def test_each_fall_is_told_once_and_signed(shop):
    async with Elsewhere(TAKEN) as receiver:
        one, two = alerts(shop, f"{receiver.url}/hook"), alerts(shop, f"{receiver.url}/hook")
        assert await one.turn()
        assert receiver.heard == []
        await credit(shop, "acme", -4 * USD - 1)
        await asyncio.gather(one.turn(), two.turn(), one.turn(), two.turn())
        shop.clock.advance(3600)
        await asyncio.gather(one.turn(), two.turn())
        ((path, headers, body),) = receiver.heard
        assert path == "/hook"
        told_ms = shop.clock.now_ms() - 3_600_000
        assert json.loads(body) == {
            "type": "balance.low",
            "account": "acme",
            "available_nanos": USD - 1,
            "available_usd": "0.999999999",
            "threshold_nanos": USD,
            "threshold_usd": "1.00",
            "created_ms": told_ms,
        }
        signature = headers[HEADER]
        assert verify(SECRET.encode(), signature, body, told_ms // 1000)
        assert not verify(SECRET.encode(), signature, body + b" ", told_ms // 1000)
        await credit(shop, "acme", 4 * USD)
        assert await one.turn()
        await credit(shop, "acme", -4 * USD)
        await one.turn()
        assert len(receiver.heard) == 2


async def test_what_was_not_taken_is_told_again(shop):
    await credit(shop, "acme", -5 * USD + 1)
    async with Elsewhere(FULL, (302, b""), TAKEN) as receiver:
        ours = alerts(shop, receiver.url)
        for taken in (False, False, True, True):
            assert await ours.turn() is taken
            shop.clock.advance(61)
        assert len(receiver.heard) == 3
    assert [fields["kind"] for name, fields in shop.said] == ["untaken", "untaken", "taken"]


async def test_a_receiver_that_is_gone_is_asked_later_and_later(shop, monkeypatch):
    await credit(shop, "acme", -5 * USD + 1)
    pauses: list[float] = []
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        if seconds < 1:  # somebody else's turn of the loop
            return await real(seconds)
        pauses.append(seconds)
        shop.clock.advance(61)
        if len(pauses) == 9:
            raise asyncio.CancelledError
        return None

    monkeypatch.setattr("moongate.payments.alerts.asyncio.sleep", sleep)
    ours = alerts(shop, "http://127.0.0.1:9/")
    monkeypatch.setattr(
        ours, "turn", lambda turn=ours.turn: turn() if len(pauses) != 8 else real(0, result=True)
    )
    with pytest.raises(asyncio.CancelledError):
        await ours.run()
    assert pauses == [5, 10, 20, 40, 80, 160, 300, 300, 5]
    assert {fields["kind"] for name, fields in shop.said} == {"unreached"}


async def test_many_wallets_are_told_of_and_a_store_that_is_gone_does_not_end_it(shop):
    for number in range(20):
        await shop.store.account_create(AccountRow(f"a{number}", "wallet", 0, 0, 0, 0))
        await credit(shop, f"a{number}", USD // 2)
    await shop.store.account_create(AccountRow("never", "wallet", 0, 0, 0, 0))
    async with Elsewhere(TAKEN) as receiver:
        shop.store.trouble = "full"
        running = asyncio.create_task(alerts(shop, receiver.url, every_s=0.01).run())
        await asyncio.sleep(0.05)
        shop.store.trouble = None
        async with asyncio.timeout(10):
            while len(receiver.heard) < 20:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    accounts = sorted(json.loads(body)["account"] for _, _, body in receiver.heard)
    assert accounts == sorted(f"a{number}" for number in range(20))
    assert ("ledger_unavailable", {"kind": "full"}) in shop.said


async def test_without_a_secret_there_are_no_alerts(shop):
    with pytest.raises(ValueError):
        Alerts(shop.store, shop.clock, shop.report, url="http://x", secret="", below_nanos=1)
    assert repr(alerts(shop, "http://x")) == "Alerts()"
