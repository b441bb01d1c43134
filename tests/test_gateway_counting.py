"""Counts over HTTP: estimates are what is billed, caps fit beside prompts, no room costs nothing.

The model's vocabulary is a small one that the tests make; its upstream stays silent about usage
unless a test says otherwise.
"""

import asyncio
import threading
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from moongate import counting
from moongate.app import Application
from moongate.core.cards import Facts, Offer, Target
from moongate.core.errors import ConfigurationError
from moongate.core.request import Message, Request
from moongate.core.rows import Quota
from moongate.home import Home
from moongate.meter import tokens
from moongate.route.plan import Step
from moongate.settings import load
from moongate.upstream.scripted import ScriptedServer
from picture_kit import png, url
from serving_kit import Served, serve
from vocabulary_kit import small_tokenizer, vocabulary
from wire_kit import check_stream

WINDOW = 2000
DEFAULT = 500
CONFIG = """
[server]
port = 0
drain_s = 2

[[upstreams]]
name = "there"
kind = "{kind}"
base_url = "{base_url}"

[[models]]
id = "moon-1"
window = 2000
output_tokens_default = 500
abilities = ["tools", "json", "partial", "thinking", "images"]
tokenizer = "{file}"
targets = [{{ upstream = "there", model = "moon-1" }}]
price = {{ input = "0.48", cached = "0.10", output = "2.00" }}
"""
SILENT = "text the moon\nusage at=none\nfinish stop"


def config(scripted: ScriptedServer, folder: Path, kind: str = "moonshot") -> str:
    file = vocabulary(folder) if kind else ""
    return CONFIG.format(kind=kind or "moonshot", base_url=scripted.base_url, file=file)


def ask(text: str = "the moon", **more: Any) -> dict[str, Any]:
    return {"model": "moon-1", "messages": [{"role": "user", "content": text}], **more}


async def estimate(served: Served, body: Any, key: str = "") -> aiohttp.ClientResponse:
    head = {"authorization": f"Bearer {key or served.key}"}
    address = f"{served.url}/tokenizers/estimate-token-count"
    return await served.http.post(address, json=body, headers=head)


async def total(served: Served, body: Any) -> int:
    reply = await estimate(served, body)
    assert reply.status == 200, await reply.text()
    answer = await reply.json()
    count = answer["data"]["total_tokens"]
    assert answer == {
        "code": 0,
        "data": {"total_tokens": count},
        "scode": "0x0",
        "status": True,
    }
    return int(count)


def sent(scripted: ScriptedServer) -> list[dict[str, Any]]:
    return [seen.body for seen in scripted.requests if seen.body]


ASKED = [
    ask(),
    ask(thinking={"type": "disabled"}),
    ask("\u6708 12345 the moon\n\n" * 9),
    ask()
    | {"messages": [{"role": "user", "name": "moon", "content": [{"type": "text", "text": "in"}]}]},
    ask()
    | {
        "messages": [
            {"role": "system", "content": "the moon"},
            {"role": "user", "content": "the"},
            {"role": "assistant", "content": "moon", "reasoning_content": "the the"},
            {"role": "user", "content": "in"},
        ]
    },
    ask()
    | {
        "messages": [
            {"role": "user", "content": "the"},
            {"role": "assistant", "content": "the m", "partial": True},
        ]
    },
    ask()
    | {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": url(png(280, 280))}},
                    {"type": "text", "text": "the moon"},
                ],
            }
        ]
    },
]


@pytest.mark.parametrize("body", ASKED)
async def test_the_estimate_is_what_is_billed(tmp_path: Path, body: dict[str, Any]) -> None:
    async with (
        ScriptedServer(SILENT) as scripted,
        serve(tmp_path, config(scripted, tmp_path)) as served,
    ):
        reply = await estimate(served, body)
        assert reply.headers["x-moongate-exact"] == "true"
        count = await total(served, body)
        assert sent(scripted) == []
        assert await served.usage() == []
        usage = (await (await served.post(body)).json())["usage"]
        (row,) = await served.usage()
        assert usage["prompt_tokens"] == row.usage.prompt == count
        # Output: two tokens by the tokenizer, though they came in one piece.
        assert usage["completion_tokens"] == row.usage.output == 2
        assert row.usage.estimated
        await served.sound()


async def test_tools_make_the_estimate_say_that_it_is_none_exactly(tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    async with (
        ScriptedServer(SILENT) as scripted,
        serve(tmp_path, config(scripted, tmp_path)) as served,
    ):
        reply = await estimate(served, ask(tools=[tool]))
        assert reply.headers["x-moongate-exact"] == "false"
        assert await total(served, ask(tools=[tool])) > await total(served, ask())


async def test_what_was_said_costs_by_its_joined_text_streamed_and_cut(tmp_path: Path) -> None:
    script = "think the mo\nthink on\ntext th\ntext e moon\nusage at=none\nfinish stop"
    async with (
        ScriptedServer(script) as scripted,
        serve(tmp_path, config(scripted, tmp_path)) as served,
    ):
        whole = (await (await served.post(ask())).json())["usage"]
        stream = await served.post(ask(stream=True, stream_options={"include_usage": True}))
        folded = check_stream(await stream.read(), include_usage=True)
        assert folded["usage"]["completion_tokens"] == whole["completion_tokens"] == 4


async def test_an_upstream_that_counts_is_believed(tmp_path: Path) -> None:
    script = "text the moon\nusage prompt=9 cached=3 completion=7\nfinish stop"
    async with (
        ScriptedServer(script) as scripted,
        serve(tmp_path, config(scripted, tmp_path)) as served,
    ):
        await served.post(ask())
        (row,) = await served.usage()
        assert (row.usage.prompt, row.usage.cache_read, row.usage.output) == (9, 3, 7)
        assert not row.usage.estimated


async def test_caps_are_lowered_to_the_room_left_and_named(tmp_path: Path) -> None:
    async with (
        ScriptedServer("text ok") as scripted,
        serve(tmp_path, config(scripted, tmp_path)) as served,
    ):
        prompt = await total(served, ask())
        long = ask("the moon " * 800)
        much = await total(served, long)
        assert WINDOW - DEFAULT < much < WINDOW
        for body, lowered_to in [
            (ask(), None),
            (ask(max_tokens=WINDOW - prompt), None),
            (ask(max_completion_tokens=WINDOW - prompt + 1), WINDOW - prompt),
            (ask(max_completion_tokens=900_000), WINDOW - prompt),
            (long, WINDOW - much),
        ]:
            reply = await served.post(body)
            assert reply.status == 200, await reply.text()
            named = reply.headers.get("x-moongate-clamped")
            assert named == (None if lowered_to is None else "max_completion_tokens")
            given = body.get("max_completion_tokens") or body.get("max_tokens") or DEFAULT
            cap = sent(scripted)[-1]["max_completion_tokens"]
            assert cap == (given if lowered_to is None else lowered_to)


async def test_a_prompt_without_room_is_refused_before_money_moves(tmp_path: Path) -> None:
    async with (
        ScriptedServer("text ok") as scripted,
        serve(tmp_path, config(scripted, tmp_path)) as served,
    ):
        before = await served.wallet()
        for times in (1_000, 100_000):  # counted, and too long to be worth it
            body = ask("the moon " * times)
            reply = await served.post(body)
            error = (await reply.json())["error"]
            assert (reply.status, error["code"]) == (400, "context_length_exceeded")
            assert error["param"] == "messages"
            assert f"exceeded model token limit : {WINDOW}" in error["message"]
            least = int(error["message"].split()[2])
            assert least > WINDOW
            assert await total(served, body) == least - 1
        assert sent(scripted) == []
        assert await served.wallet() == before
        assert await served.usage() == []


async def test_without_a_tokenizer_a_cap_that_may_not_fit_is_lowered_by_the_estimate(
    tmp_path: Path,
) -> None:
    async with (
        ScriptedServer("text ok") as scripted,
        serve(tmp_path, config(scripted, tmp_path, kind="")) as served,
    ):
        reply = await estimate(served, ask("x" * 400))
        assert reply.headers["x-moongate-exact"] == "false"
        assert (await reply.json())["data"]["total_tokens"] == 100
        found = tokens.count(Request("m", (Message("user", "the moon"),)), WINDOW)
        # An eighth of the room at most is kept for doubt about the estimate.
        room = WINDOW - found.tokens
        kept = min(room // 8, 160, found.bound - found.tokens)
        assert kept > 100
        for asked, cap in [(1500, 1500), (WINDOW - 1, room - kept), (WINDOW, room - kept)]:
            reply = await served.post(ask(max_completion_tokens=asked))
            assert reply.status == 200
            assert ("x-moongate-clamped" in reply.headers) == (cap < asked)
            assert sent(scripted)[-1]["max_completion_tokens"] == cap


async def test_the_estimate_refuses_as_the_table_says(tmp_path: Path) -> None:
    async with (
        ScriptedServer("text ok") as scripted,
        serve(tmp_path, config(scripted, tmp_path)) as served,
    ):
        _, slow = await served.app.keys.create(account="default", name="slow", quota=Quota(rpm=1))
        _, other = await served.app.keys.create(account="default", name="o", models=("none",))
        for body, key, status, code in [
            (ask(), "mg-" + "x" * 40, 401, "invalid_api_key"),
            (ask(), other, 403, "insufficient_permissions"),
            (ask() | {"model": "gpt-4"}, "", 404, "model_not_found"),
            ({"model": "moon-1"}, "", 400, "missing_required_parameter"),
            ({"model": "moon-1", "messages": "the moon"}, "", 400, "invalid_type"),
            (ask(), slow, 200, None),
            (ask(), slow, 429, "rate_limit_exceeded"),
        ]:
            reply = await estimate(served, body, key)
            answer = await reply.json()
            assert (reply.status, answer.get("error", {}).get("code")) == (status, code)
        address = f"{served.url}/tokenizers/estimate-token-count"
        head = {"authorization": f"Bearer {served.key}", "content-type": "text/plain"}
        assert (await served.http.post(address, data=b"{}", headers=head)).status == 415
        assert (await served.http.get(address, headers=head)).status == 405
        assert (await served.http.post(address, json=ask())).status == 401
        assert served.app.gateway.limits.running == 0


async def test_long_text_is_counted_beside_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where: list[bool] = []
    real = counting.tokens.count

    def noted(*args: Any) -> tokens.Count:
        where.append(threading.current_thread() is threading.main_thread())
        return real(*args)

    monkeypatch.setattr(counting.tokens, "count", noted)
    async with (
        ScriptedServer("text ok") as scripted,
        serve(tmp_path, config(scripted, tmp_path)) as served,
    ):
        await total(served, ask())
        await asyncio.gather(*(total(served, ask("m" * counting.BESIDE)) for _ in range(5)))
    assert where == [True, *[False] * 5]


class Standing:
    """An upstream that says what it is."""

    kind = "openai"

    def __init__(self, told: int | None, stand_in: str | None = None) -> None:
        self.told, self.stand_in, self.asked = told, stand_in, 0

    def facts(self) -> Facts:
        return Facts(stand_in=self.stand_in)

    async def count(self, request: Request) -> int | None:
        self.asked += 1
        return self.told


async def test_whoever_may_answer_counts_and_the_bound_holds_at_each(tmp_path: Path) -> None:
    request = Request("moon-1", (Message("user", "the moon"),))
    small = small_tokenizer(tmp_path)
    exact = tokens.count(request, WINDOW, small)
    blind = tokens.count(request, WINDOW)

    async with ScriptedServer("text ok") as scripted:
        file = tmp_path / "c.toml"
        file.write_text(config(scripted, tmp_path))
        (card,) = load(file, {}).cards()
    for upstreams, least, bound in [
        ([Standing(None)], exact.least, exact.bound),
        ([Standing(7)], 7, 7),
        ([Standing(7), Standing(None)], 7, exact.bound),
        ([Standing(None), Standing(900)], exact.least, 900),
        # The model's own tokenizer is not that of what stands in for it.
        ([Standing(None, "a small model")], blind.least, blind.bound),
        ([Standing(None), Standing(None, "a small model")], blind.least, blind.bound),
    ]:
        made = counting.Counting(
            {str(at): upstream for at, upstream in enumerate(upstreams)},
            {"moon-1": small},
        )
        found = await made.prompt(request, offer_of(card), steps_of(len(upstreams)))
        assert (found.least, found.bound) == (least, bound)
    big = Request("moon-1", (Message("user", "x" * (counting.ENGINE + 1)),))
    engine = Standing(7)
    made = counting.Counting({"0": engine}, {})
    assert (await made.prompt(big, offer_of(card), steps_of(1))).bound == WINDOW
    assert engine.asked == 0


def offer_of(card: Any) -> Any:
    return Offer(card, None, WINDOW, DEFAULT, frozenset(), "", "none", "0", None)


def steps_of(count: int) -> Any:
    return [Step(Target(str(at), "m"), "first") for at in range(count)]


def test_a_wrong_file_stops_the_start_by_the_name_of_its_key(tmp_path: Path) -> None:
    file = tmp_path / "moongate.toml"
    wrong = tmp_path / "tiktoken.model"
    wrong.write_text("no vocabulary\n")
    file.write_text(CONFIG.format(kind="openai", base_url="http://127.0.0.1:9", file=wrong))
    with pytest.raises(ConfigurationError, match=r"models\[0\]\.tokenizer is not the model's"):
        Application(load(file, {}), Home(tmp_path / "home").open())
    # Of a model that we know, the vocabulary's size is known: a file that was cut shows.
    known = (
        file.read_text()
        .replace("moon-1", "kimi-k2.5")
        .replace(str(wrong), str(vocabulary(tmp_path)))
    )
    file.write_text(known)
    with pytest.raises(ConfigurationError, match="the model has 163840"):
        Application(load(file, {}), Home(tmp_path / "home").open())


@pytest.mark.engine
async def test_the_engines_own_count_is_its_estimate_and_its_bill(live_server: Any) -> None:
    head = {"authorization": f"Bearer {live_server.key}"}
    tool = {
        "type": "function",
        "function": {"name": "look", "description": "Looks.", "parameters": {"type": "object"}},
    }
    async with aiohttp.ClientSession(headers=head) as http:
        for more in (
            {"messages": [{"role": "user", "content": "Name three moons."}]},
            {
                "messages": [{"role": "user", "content": "Name three moons."}],
                "response_format": {"type": "json_object"},
                "tools": [tool],
            },
            {
                "messages": [
                    {"role": "user", "content": "<|im_end|> Say: a"},
                    {"role": "assistant", "content": "a", "partial": True},
                ]
            },
        ):
            body = {"model": "kimi-k2.5", "max_completion_tokens": 8, **more}
            address = f"{live_server.url}/tokenizers/estimate-token-count"
            async with http.post(address, json=body) as reply:
                assert reply.status == 200, await reply.text()
                assert reply.headers["x-moongate-exact"] == "true"
                count = (await reply.json())["data"]["total_tokens"]
            async with http.post(f"{live_server.url}/chat/completions", json=body) as reply:
                assert (await reply.json())["usage"]["prompt_tokens"] == count
        body = {"model": "kimi-k2.5", "max_completion_tokens": 8}
        body |= {"messages": [{"role": "user", "content": "moon " * 20_000}]}
        async with http.post(f"{live_server.url}/chat/completions", json=body) as reply:
            error = (await reply.json())["error"]
            assert (reply.status, error["code"]) == (400, "context_length_exceeded")
            assert error["param"] == "messages"
