"""One request through every part: what the client is told is what the ledger holds."""

import json
from pathlib import Path

import pytest

from moongate.core.money import charge
from moongate.upstream.scripted import ScriptedServer
from serving_kit import ONE_UPSTREAM, Served, ask, serve
from wire_kit import check_stream

KIMI = """
think The user wants moons.
think  Three of them.
text Io, Europa,
text  Ganymede.
usage prompt=120 cached=40 completion=17 reasoning=9 at={at}
finish stop
"""
TOOLS = """
think I should look.
text Looking.
tool get_weather {"city":"Oslo"}
tool get_time {"zone":"CET"}
usage prompt=200 cached=0 completion=30
finish tool_calls
"""


def kimi(at: str = "both") -> str:
    return KIMI.replace("{at}", at)


async def check_bill(served: Served, usage: dict[str, object]) -> None:
    """P9: the numbers shown equal the ledger row, field for field, and the charge its prices."""
    (row,) = (await served.usage())[-1:]
    price = (await served.app.store.prices())[0].price
    assert usage["prompt_tokens"] == row.usage.prompt
    assert usage["completion_tokens"] == row.usage.output
    assert usage["cached_tokens"] == row.usage.cache_read
    assert usage["prompt_tokens_details"] == {"cached_tokens": row.usage.cache_read}
    assert usage["cost_nanos"] == row.charge_nanos == charge(row.usage, price)
    assert round(float(str(usage["cost"])) * 1e9) == row.charge_nanos


@pytest.mark.parametrize("at", ["choice", "top", "both", "nested", "every"])
async def test_whole_and_streamed_say_and_cost_the_same(tmp_path: Path, at: str) -> None:
    async with (
        ScriptedServer(kimi(at)) as scripted,
        serve(tmp_path, ONE_UPSTREAM.format(kind="moonshot", base_url=scripted.base_url)) as served,
    ):
        before, _ = await served.wallet()
        whole = await served.post(ask())
        assert whole.status == 200, await whole.text()
        answer = await whole.json()
        message = answer["choices"][0]["message"]
        assert message["content"] == "Io, Europa, Ganymede."
        assert message["reasoning_content"] == "The user wants moons. Three of them."
        assert answer["choices"][0]["finish_reason"] == "stop"
        usage = answer["usage"]
        assert (usage["prompt_tokens"], usage["cached_tokens"]) == (120, 40)
        assert usage["cost_nanos"] == 80 * 480 + 40 * 100 + 17 * 2000
        await check_bill(served, usage)

        stream = await served.post(ask(stream=True, stream_options={"include_usage": True}))
        folded = check_stream(await stream.read(), include_usage=True)
        assert folded["choices"][0]["content"] == message["content"]
        assert folded["choices"][0]["reasoning_content"] == message["reasoning_content"]
        assert folded["usage"] == usage

        rows = await served.usage()
        assert [row.outcome for row in rows] == ["done", "done"]
        assert rows[0].charge_nanos == rows[1].charge_nanos
        after, _ = await served.wallet()
        assert before - after == 2 * usage["cost_nanos"]
        assert scripted.violations == []
        assert all(seen.body["stream"] for seen in scripted.requests if seen.body)
        await served.sound()


async def test_tools_thinking_and_headers_arrive_as_kimi_sends_them(tmp_path: Path) -> None:
    tools = [
        {"type": "function", "function": {"name": n, "parameters": {"type": "object"}}}
        for n in ("get_weather", "get_time")
    ]
    async with (
        ScriptedServer(TOOLS) as scripted,
        serve(tmp_path, ONE_UPSTREAM.format(kind="moonshot", base_url=scripted.base_url)) as served,
    ):
        reply = await served.post(ask(tools=tools, tool_choice="auto"))
        answer = await reply.json()
        calls = answer["choices"][0]["message"]["tool_calls"]
        assert [(c["function"]["name"], json.loads(c["function"]["arguments"])) for c in calls] == [
            ("get_weather", {"city": "Oslo"}),
            ("get_time", {"zone": "CET"}),
        ]
        assert answer["choices"][0]["finish_reason"] == "tool_calls"
        assert answer["id"].startswith("chatcmpl-")
        assert reply.headers["x-request-id"].startswith("req_")
        assert reply.headers["x-moongate-upstream"] == "moonshot"
        assert reply.headers["x-moongate-data-policy"] == "none"
        assert "aiohttp" not in reply.headers["server"].lower()
        stream = await served.post(ask(tools=tools, stream=True))
        folded = check_stream(await stream.read(), include_usage=False)
        assert [
            {
                "id": c["id"],
                "type": c["type"],
                "function": {"name": c["name"], "arguments": c["arguments"]},
            }
            for c in folded["choices"][0]["tool_calls"].values()
        ] == calls
        assert scripted.violations == []


async def test_a_silent_upstream_is_counted_and_marked_estimated(tmp_path: Path) -> None:
    script = "text one\ntext  two\ntext  three\nusage at=none\nfinish stop"
    async with (
        ScriptedServer(script) as scripted,
        serve(tmp_path, ONE_UPSTREAM.format(kind="openai", base_url=scripted.base_url)) as served,
    ):
        usage = (await (await served.post(ask("x" * 400))).json())["usage"]
        (row,) = await served.usage()
        assert row.usage.estimated
        assert usage["completion_tokens"] == 3
        assert usage["prompt_tokens"] == 100
        assert row.upstream_prompt is None
        await check_bill(served, usage)


async def test_an_unknown_field_is_named_when_it_goes_no_further(tmp_path: Path) -> None:
    async with (
        ScriptedServer("text ok") as scripted,
        serve(tmp_path, ONE_UPSTREAM.format(kind="vllm", base_url=scripted.base_url)) as served,
    ):
        reply = await served.post(ask(chat_template="{{ evil }}", cache_salt="theirs", seed=7))
        assert reply.status == 200
        assert {"chat_template", "cache_salt"} <= set(
            reply.headers["x-moongate-dropped"].split(",")
        )
        body = next(seen.body for seen in scripted.requests if seen.body)
        assert "chat_template" not in body
        assert body["cache_salt"] != "theirs"
        assert body["seed"] == 7


async def test_a_list_of_the_operator_lets_a_field_through(tmp_path: Path) -> None:
    config = ONE_UPSTREAM.replace("idle_timeout_s", 'forward = ["x_route", "user"]\nidle_timeout_s')
    async with (
        ScriptedServer("text ok") as scripted,
        serve(tmp_path, config.format(kind="vllm", base_url=scripted.base_url)) as served,
    ):
        reply = await served.post(ask(x_route=[1], user="u", store=True, seed=7))
        assert reply.headers["x-moongate-dropped"] == "store"
        body = next(seen.body for seen in scripted.requests if seen.body)
        assert (body["x_route"], body["user"], body["seed"]) == ([1], "u", 7)
        assert "store" not in body


async def test_the_cap_is_lowered_to_the_window_and_said(tmp_path: Path) -> None:
    async with (
        ScriptedServer("text ok") as scripted,
        serve(tmp_path, ONE_UPSTREAM.format(kind="moonshot", base_url=scripted.base_url)) as served,
    ):
        reply = await served.post(ask(max_completion_tokens=900_000))
        assert reply.status == 200
        assert reply.headers["x-moongate-clamped"] == "max_completion_tokens"
        body = next(seen.body for seen in scripted.requests if seen.body)
        # What a prompt of a few words may take at most is left to it.
        assert 262_144 - 400 < body["max_completion_tokens"] < 262_144


async def test_nothing_unpriced_and_nothing_unpaid_reaches_an_upstream(tmp_path: Path) -> None:
    async with (
        ScriptedServer("text ok") as scripted,
        serve(tmp_path, ONE_UPSTREAM.format(kind="moonshot", base_url=scripted.base_url)) as served,
    ):
        gone = await served.post(ask() | {"model": "gpt-4"})
        assert (gone.status, (await gone.json())["error"]["code"]) == (404, "model_not_found")
        _, poor = await served.app.keys.create(account="poor", name="poor")
        refused = await served.post(ask(), authorization=f"Bearer {poor}")
        assert refused.status == 402
        assert refused.headers["x-should-retry"] == "false"
        assert (await refused.json())["error"]["code"] == "insufficient_quota"
        assert [seen for seen in scripted.requests if seen.method == "POST"] == []
        assert await served.usage() == []
        await served.sound()


async def test_content_reaches_neither_log_nor_store(tmp_path: Path) -> None:
    canary = "canary-7f3a9c"
    script = f"think {canary} thought\ntext {canary} said\nfinish stop"
    async with (
        ScriptedServer(script) as scripted,
        serve(tmp_path, ONE_UPSTREAM.format(kind="moonshot", base_url=scripted.base_url)) as served,
    ):
        for stream in (False, True):
            reply = await served.post(
                ask(f"{canary} asked", stream=stream, user=canary, metadata={"k": canary})
            )
            assert canary in await reply.text()
        await served.post(ask(f"{canary}", temperature=canary))
        await served.post({"model": canary, "messages": [{"role": canary}]})
        assert canary not in served.log.getvalue()
        assert served.log.getvalue().count('"event":"request"') == 2
    files = [path for path in (tmp_path / "home").rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if canary.encode() in path.read_bytes()] == []
