"""Rates at the door: what they tell, what a refusal costs, and what an answer really takes."""

import asyncio
from pathlib import Path

import aiohttp

from moongate.core.rows import Quota
from moongate.store.memory import MemoryStore
from moongate.upstream.scripted import ScriptedServer
from serving_kit import ONE_UPSTREAM, Served, ask, serve

ANSWER = "text Io\nusage prompt=10 cached=0 completion=5"


async def limited(served: Served, quota: Quota) -> None:
    (key,) = [row for row in await served.app.store.keys() if row.name == "first"]
    assert await served.app.store.key_quota(key.id, quota)


async def test_the_headers_tell_how_the_rates_stand_and_a_429_costs_nothing(tmp_path: Path) -> None:
    async with (
        ScriptedServer(ANSWER) as scripted,
        serve(
            tmp_path,
            ONE_UPSTREAM.format(kind="moonshot", base_url=scripted.base_url),
            store=MemoryStore(),
        ) as served,
    ):
        await limited(served, Quota(rpm=2, tpm=1_000_000))
        first = await served.post(ask())
        assert first.status == 200
        assert first.headers["x-ratelimit-limit-requests"] == "2"
        assert first.headers["x-ratelimit-remaining-requests"] == "1"
        assert first.headers["x-ratelimit-limit-tokens"] == "1000000"
        second = await served.post(ask(stream=True))
        assert second.headers["x-ratelimit-remaining-requests"] == "0"
        await second.read()
        # What the first two really used (15 tokens each) is all that is gone.
        remaining = int(second.headers["x-ratelimit-remaining-tokens"])
        for stream in (False, True):
            third = await served.post(ask(stream=stream))
            error = (await third.json())["error"]
            assert (third.status, error["code"], error["type"]) == (
                429, "rate_limit_exceeded", "rate_limit_error",
            )  # fmt: skip
            assert error["message"] == "Rate limit reached for requests per minute."
            assert 0 < int(third.headers["retry-after-ms"]) <= 30_000
            assert third.headers["x-ratelimit-remaining-requests"] == "0"
            left = int(third.headers["x-ratelimit-remaining-tokens"])
            assert remaining < left
            assert 1_000_000 - left <= 30
        assert len(await served.usage()) == 2


async def test_a_request_that_cannot_be_paid_takes_no_tokens(tmp_path: Path) -> None:
    async with (
        ScriptedServer(ANSWER) as scripted,
        serve(
            tmp_path,
            ONE_UPSTREAM.format(kind="moonshot", base_url=scripted.base_url),
            store=MemoryStore(),
        ) as served,
    ):
        await limited(served, Quota(tpm=10_000))
        posted, _ = await served.wallet()
        assert await served.app.store.credit("default", 1 - posted, "refund", "out", 1)
        for _ in range(4):  # each would take most of a minute's tokens
            reply = await served.post(ask())
            assert reply.status == 402
            assert reply.headers["x-ratelimit-limit-tokens"] == "10000"
            assert reply.headers["x-should-retry"] == "false"
        assert await served.app.store.credit("default", 10**9, "topup", "in", 1)
        assert (await served.post(ask())).status == 200


async def test_answers_at_once_are_bounded_and_an_end_frees_its_place(tmp_path: Path) -> None:
    async with (
        ScriptedServer("text a\ndelay 0.3\ntext b") as scripted,
        serve(
            tmp_path,
            ONE_UPSTREAM.format(kind="moonshot", base_url=scripted.base_url),
            store=MemoryStore(),
        ) as served,
    ):
        await limited(served, Quota(concurrency=3))
        replies = await asyncio.gather(*(served.post(ask(stream=True)) for _ in range(9)))
        passed = [reply for reply in replies if reply.status == 200]
        assert len(passed) == 3
        refused = next(reply for reply in replies if reply.status == 429)
        message = (await refused.json())["error"]["message"]
        assert message == "Rate limit reached for concurrent requests."
        for reply in passed:
            assert b"[DONE]" in await reply.read()
        # Whoever saw the end may ask again at once.
        again = await asyncio.gather(*(served.post(ask()) for _ in range(3)))
        assert [reply.status for reply in again] == [200] * 3
        assert len(await served.usage()) == 6


async def test_looks_into_the_books_take_a_request_and_nothing_else(tmp_path: Path) -> None:
    """What reads many rows, or asks a payment service, is no way around a key's rate."""
    config = ONE_UPSTREAM.format(kind="moonshot", base_url="http://127.0.0.1:9/v1") + (
        '[topups]\nstripe_secret_env = "HOOK"\nstripe_api_key_env = "API"\n'
        'stripe_base_url = "http://127.0.0.1:9"\nsuccess_url = "https://shop.example/paid"\n'
    )
    env = {"HOOK": "whsec", "API": "sk"}
    async with serve(tmp_path, config, store=MemoryStore(), env=env) as served:
        head = {"authorization": f"Bearer {served.key}"}
        looks = [
            ("GET", "/usage", {}, 200),
            ("GET", "/invoices/2099-01", {}, 400),
            ("POST", "/topups", {"json": {"usd": "20"}}, 502),
        ]
        await limited(served, Quota(rpm=3, tpm=1))
        assert await served.app.store.account_quota("default", Quota(rpm=3))
        for method, path, more, status in looks:
            async with served.http.request(
                method, served.url + path, headers=head, **more
            ) as reply:
                assert reply.status == status, await reply.text()
                if status == 200:
                    assert reply.headers["x-ratelimit-remaining-requests"] == "2"
                    assert "x-ratelimit-limit-tokens" not in reply.headers
        for method, path, more, _ in looks:
            async with served.http.request(
                method, served.url + path, headers=head, **more
            ) as reply:
                error = (await reply.json())["error"]
                assert (reply.status, error["code"]) == (429, "rate_limit_exceeded")
                assert 0 < int(reply.headers["retry-after-ms"]) <= 20_000
                assert reply.headers["x-ratelimit-remaining-requests"] == "0"
        async with served.http.get(f"{served.url}/models", headers=head) as reply:
            assert reply.status == 200
        # The operator's own door counts nothing.
        connector = aiohttp.UnixConnector(str(served.app.home.socket))
        async with aiohttp.ClientSession(connector=connector) as local:
            for _ in range(5):
                async with local.get("http://moongate/v1/models") as reply:
                    assert reply.status == 200
                async with local.get("http://moongate/v1/usage?account=default") as reply:
                    assert reply.status == 200
