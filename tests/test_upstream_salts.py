"""Engines are asked whether two salts share a prompt cache; one that says so is not used."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from moongate.core.errors import UpstreamDown, UpstreamError
from moongate.upstream import salts
from moongate.upstream.prompts import PrefixCache
from moongate.upstream.scripted import ScriptedServer
from serving_kit import ONE_UPSTREAM, ask, serve
from upstream_kit import events_of, running

PROBED = ONE_UPSTREAM.replace("cache_probe = false\n", "")
ENGINES = pytest.mark.parametrize("kind", ["vllm", "sglang"])


@asynccontextmanager
async def upstream(kind="vllm", cache=True, script="text Io"):
    told = []
    async with ScriptedServer(script, cache=cache, rules=False) as server:
        there = {"salted": "kimi-k2.5", "report": told.append}
        async with running(server.base_url, kind, **there) as one:
            yield one, server, told


def bodies(server):
    return [seen.body for seen in server.requests if seen.method == "POST"]


@ENGINES
async def test_one_that_keeps_salts_apart_is_asked_three_times_and_used(kind):
    async with upstream(kind) as (one, server, told):
        for _ in range(2):
            probe = await one.probe()
            assert (probe.ok, probe.models) == (True, ("kimi-k2.5",))
            assert "keeps accounts apart" in probe.detail
        first, second, third = bodies(server)
        assert first == second
        assert first["cache_salt"] != third["cache_salt"]
        assert first["messages"] == third["messages"]
        assert first["max_completion_tokens"] == 1
        assert len(first["messages"][0]["content"].split()) >= 200
        await events_of(one)
        assert len(bodies(server)) == 4
        assert told == []


@ENGINES
async def test_one_that_ignores_salts_is_not_used(kind):
    async with upstream(kind, PrefixCache(salted=False)) as (one, server, told):
        with pytest.raises(UpstreamDown) as refused:
            await events_of(one)
        assert refused.value.kind == "cache_shared"
        with pytest.raises(UpstreamDown):
            await events_of(one)
        assert len(bodies(server)) == 3, "no request of a customer reached it"
        probe = await one.probe()
        assert not probe.ok
        assert "shared_cache = true" in probe.detail
        assert told == ["cache_shared"]


async def test_the_first_requests_wait_for_one_verdict():
    async with upstream(cache=PrefixCache(salted=False)) as (one, server, _):
        asked = [events_of(one) for _ in range(5)]
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert [getattr(each, "kind", None) for each in found] == ["cache_shared"] * 5
        assert len(bodies(server)) == 3


async def test_one_that_tells_no_cached_tokens_is_used_and_the_operator_is_told():
    async with upstream(cache=False) as (one, server, told):
        await events_of(one)
        await events_of(one)
        assert len(bodies(server)) == 2 + 2, "asked no more than once an hour"
        assert "--enable-prompt-tokens-details" in (await one.probe()).detail
        assert told == []


async def test_one_that_was_mended_is_used_again(monkeypatch):
    monkeypatch.setitem(salts.AGAIN_S, "shared", 0.0)
    cache = PrefixCache(salted=False)
    async with upstream(cache=cache) as (one, _, told):
        assert not (await one.probe()).ok
        cache._salted = True
        assert (await one.probe()).ok
        await events_of(one)
        assert told == ["cache_shared"]


async def test_trouble_with_asking_is_no_verdict_and_no_acquittal(monkeypatch):
    monkeypatch.setitem(salts.AGAIN_S, "unasked", 0.0)
    monkeypatch.setitem(salts.AGAIN_S, "shared", 0.0)
    cache = PrefixCache(salted=False)
    replies = ["status 503"]
    async with upstream(cache=cache, script=lambda _: replies[-1]) as (one, _, _told):
        assert "could not be asked" in (await one.probe()).detail
        replies.append("text Io")
        assert not (await one.probe()).ok
        replies.append("status 503")
        assert not (await one.probe()).ok, "found once, it stays so until it is disproved"


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        ("status 503", "overloaded"),
        ("error 401 invalid_authentication_error No.", "account"),
        ("error 400 invalid_request_error No.", "cache_unasked"),
        ("silence", "cache_unasked"),
    ],
)
async def test_nobody_is_served_before_it_could_be_asked(monkeypatch, reply, kind):
    monkeypatch.setitem(salts.AGAIN_S, "unasked", 0.0)
    monkeypatch.setattr(salts, "LOOK_S", 0.2)
    replies = [reply, reply, "text Io"]
    async with upstream(script=lambda _: replies.pop(0) if replies[1:] else replies[0]) as made:
        one, server, _ = made
        for count in (1, 2):
            with pytest.raises(UpstreamError) as met:
                await events_of(one)
            assert met.value.kind == kind
            assert len(bodies(server)) == count, "no request of a customer reached it"
        await events_of(one)
        assert len(bodies(server)) == 2 + 3 + 1


@pytest.mark.parametrize("kind", ["moonshot", "openai"])
async def test_others_know_no_salts_and_are_not_asked(kind):
    async with upstream(kind) as (one, server, _):
        assert (await one.probe()).ok
        await events_of(one)
        assert len(bodies(server)) == 1


async def test_a_server_leaves_it_alone_and_says_so(tmp_path):
    async with ScriptedServer("text Io", cache=PrefixCache(salted=False)) as server:
        config = PROBED.format(kind="vllm", base_url=server.base_url)
        async with serve(tmp_path, config) as served:
            async with asyncio.timeout(10):
                while not any("shared_cache" in str(event.get("text")) for event in served.told):
                    await asyncio.sleep(0.01)
            answer = await served.post(ask("Whose prompt is this?"))
            assert answer.status == 502
            assert '"cache_shared"' in served.log.getvalue()
            assert '"vllm"' in served.log.getvalue()
            assert (await served.wallet())[1] == 0
        assert all("Whose" not in str(body) for body in bodies(server))


async def test_requests_go_to_the_next_target_instead(tmp_path):
    shared = PrefixCache(salted=False)
    async with ScriptedServer(cache=shared) as leaky, ScriptedServer("text Io") as good:
        config = PROBED.format(kind="vllm", base_url=leaky.base_url)
        config = config.replace(
            "[[models]]",
            f'[[upstreams]]\nname = "good"\nkind = "openai"\nbase_url = "{good.base_url}"\n\n'
            "[[models]]",
        ).replace(
            'model = "kimi-k2.5" }]',
            'model = "kimi-k2.5" }, { upstream = "good", model = "kimi-k2.5" }]',
        )
        async with serve(tmp_path, config) as served:
            for _ in range(3):
                answer = await served.post(ask("Whose prompt is this?"))
                assert answer.status == 200
                assert answer.headers["x-moongate-upstream"] == "good"
        assert all("Whose" not in str(body) for body in bodies(leaky))


@pytest.mark.parametrize("word", ["shared_cache = true", "cache_probe = false"])
async def test_an_operator_may_say_otherwise(tmp_path, word):
    async with ScriptedServer("text Io", cache=PrefixCache(salted=False)) as server:
        config = PROBED.format(kind="sglang", base_url=server.base_url)
        config = config.replace("first_token_timeout_s", f"{word}\nfirst_token_timeout_s")
        async with serve(tmp_path, config) as served:
            answer = await served.post(ask())
            assert answer.status == 200
        assert len(bodies(server)) == 1


async def test_each_organisation_has_a_salt_of_its_own_and_no_client_names_it(tmp_path):
    async with ScriptedServer("text Io", cache=True) as server:
        config = PROBED.format(kind="vllm", base_url=server.base_url)
        async with serve(tmp_path, config) as served:
            keys = []
            for account, name in (("one", "a"), ("one", "b"), ("two", "c")):
                keys.append((await served.app.keys.create(account=account, name=name))[1])
            for account in ("one", "two"):
                await served.app.store.credit(account, 10**9, "topup", account, 1)
            long = "The very same long prompt. " * 60
            cached = []
            for key in keys:
                answer = await served.post(
                    ask(long, cache_salt="mine"), authorization=f"Bearer {key}"
                )
                assert "cache_salt" in answer.headers["x-moongate-dropped"].split(",")
                usage = (await answer.json())["usage"]
                cached.append(usage["cached_tokens"])
                assert usage["prompt_tokens_details"]["cached_tokens"] == cached[-1]
            mine = [body["cache_salt"] for body in bodies(server) if long in str(body)]
    assert (cached[0], cached[2]) == (0, 0)
    assert cached[1] > 256
    assert mine[0] == mine[1] != mine[2]
    assert all(len(salt) == 32 and set(salt) <= set("0123456789abcdef") for salt in mine)
