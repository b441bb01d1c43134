"""Who has pictures fetched: only who could pay for a request, each in turn, in bounded room."""

import asyncio
from typing import Any

import pytest

from media_kit import Site, trickle
from moongate.core.errors import Refused
from moongate.core.rows import Quota
from moongate.media import eyes as eyes_module
from moongate.media.fetch import Fetched
from moongate.media.turns import Turns
from picture_kit import chunk, png
from serving_kit import Served
from test_gateway_eyes import error, other_key, scripted, served, shows, there

__all__ = ["scripted", "served", "there"]


async def answered(served: Served, body: dict[str, Any], **headers: str) -> None:
    reply = await served.post(body, **headers)
    assert reply.status == 200, await reply.text()


async def test_nothing_is_fetched_for_an_empty_wallet(served: Served, there: Site) -> None:
    there.pages |= {"/a": png(), "/b": png()}
    await served.leave_in_wallet(0)
    assert (await error(served, shows(there.url("/a"))))[:2] == (402, "insufficient_quota")
    key = await other_key(served, "capped", cap=("day", 0))
    body = shows(there.url("/b"))
    assert (await error(served, body, authorization=key))[:2] == (402, "insufficient_quota")
    assert there.seen == []
    assert served.app.gateway.limits.leases == set()


async def test_nothing_is_fetched_above_a_rate_and_a_fetch_takes_one_request(
    served: Served, there: Site
) -> None:
    there.pages |= {"/a": png(), "/b": png()}
    quota = Quota(rpm=2, tpm=1_000_000, concurrency=1)
    key = await other_key(served, "slow", quota=quota)
    reply = await served.post(shows(there.url("/a")), authorization=key)
    assert reply.status == 200, await reply.text()
    assert reply.headers["x-ratelimit-remaining-requests"] == "1"
    assert int(reply.headers["x-ratelimit-remaining-tokens"]) < 1_000_000
    await answered(served, shows(), authorization=key)
    status, code, _ = await error(served, shows(there.url("/b")), authorization=key)
    assert (status, code) == (429, "rate_limit_exceeded")
    assert len(there.seen) == 1


async def test_a_refused_fetch_gives_its_place_back(served: Served, there: Site) -> None:
    key = await other_key(served, "one", quota=Quota(concurrency=1))
    for _ in range(3):
        status, code, _ = await error(served, shows(there.url("/none")), authorization=key)
        assert (status, code) == (400, "image_fetch_failed")
    await answered(served, shows(), authorization=key)


async def test_slow_addresses_of_one_account_keep_no_other_out(served: Served, there: Site) -> None:
    there.pages |= {"/slow": trickle, "/a": png()}
    turns = served.app.gateway.eyes._turns
    slow = shows(*[there.url(f"/slow?{n}") for n in range(4)])
    many = [asyncio.create_task(served.post(slow)) for _ in range(6)]
    async with asyncio.timeout(10):
        while turns.taken < eyes_module._FETCHES_EACH:
            await asyncio.sleep(0.01)
        key = await other_key(served, "quick")
        await answered(served, shows(there.url("/a")), authorization=key)
        assert turns.taken == eyes_module._FETCHES_EACH
        for task in many:
            task.cancel()
        await asyncio.gather(*many, return_exceptions=True)
        while turns.taken:
            await asyncio.sleep(0.01)


async def test_who_waits_for_a_turn_loses_no_time_and_what_is_kept_needs_none(
    served: Served, there: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    there.pages |= {"/a": png(), "/b": png()}
    await answered(served, shows(there.url("/a")))
    turns = served.app.gateway.eyes._turns
    held = [await turns.take(account, 16) for account in ("x", "y")]
    assert sum(held) == eyes_module._FETCHES_IN_ALL
    await answered(served, shows(there.url("/a")))
    monkeypatch.setattr(eyes_module, "FETCH_S", 2.0)
    waits = asyncio.create_task(served.post(shows(there.url("/b"))))
    await asyncio.sleep(2.2)
    assert not waits.done()
    turns.give("x", held[0])
    assert (await waits).status == 200
    turns.wait_s = 0.05
    held[0] = await turns.take("x", 16)
    status, code, _ = await error(served, shows(there.url("/other")))
    assert (status, code) == (503, "overloaded")
    assert len(there.seen) == 2


class Slow:
    """Fetches pictures of ``size`` bytes and notes how many may come at once."""

    def __init__(self, size: int) -> None:
        self.data = png(8, 8, chunk(b"teXt", bytes(size - len(png()) - 12)))
        self.may = self.most = 0

    async def fetch(self, url: str, *, bytes_max: int, accept: str) -> Fetched:
        del accept
        self.may += bytes_max
        self.most = max(self.most, self.may)
        await asyncio.sleep(0.01)
        self.may += min(len(self.data), bytes_max) - bytes_max
        if len(self.data) > bytes_max:
            raise eyes_module.FetchFailed("size")
        return Fetched(self.data, "image/png", url)


async def test_the_pictures_of_one_request_never_pass_their_room(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eyes_module.fetch, "BYTES_MAX", 1_000)
    monkeypatch.setattr(eyes_module, "FETCHED_BYTES_MAX", 2_500)
    for size, count, status in ((1_000, 2, 200), (400, 6, 200), (900, 3, 400), (400, 7, 400)):
        served.app.gateway.eyes.fetcher = slow = Slow(size)
        body = shows(*[f"https://example.com/{size}/{count}/{n}" for n in range(count)])
        reply = await served.post(body)
        assert reply.status == status, (size, count, await reply.text())
        assert slow.most <= 2_500


async def test_turns_go_to_who_has_the_fewest() -> None:
    turns = Turns(4, 3, 5.0)
    assert await turns.take("a", 8) == 3
    more = asyncio.create_task(turns.take("a", 8))
    assert await turns.take("b", 8) == 1
    late = asyncio.create_task(turns.take("c"))
    await asyncio.sleep(0)
    turns.give("a")
    assert await late == 1
    turns.give("b")
    assert await more == 1
    assert turns.taken == 4
    assert "4 of 4" in repr(turns)


async def test_who_leaves_the_line_takes_no_turn() -> None:
    turns = Turns(1, 1, 0.02)
    await turns.take("a")
    with pytest.raises(Refused, match="overloaded"):
        await turns.take("b")
    turns.wait_s = 5.0
    gone = asyncio.create_task(turns.take("b"))
    await asyncio.sleep(0)
    turns.give("a")
    gone.cancel()  # in the moment in which it was called
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert turns.taken == 0
