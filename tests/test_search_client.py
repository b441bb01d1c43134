"""The maker's own form: a client that runs the loop, with receipts that nobody else can open."""

import json
import os
from pathlib import Path
from typing import Any

import openai
import pytest

from moongate.search.sealing import Carried, Seal
from moongate.upstream.prompts import rounds
from moongate.upstream.scripted import ScriptedServer
from search_kit import BUILTIN, SEARCH_NANOS, Page, bodies, call, config, engine, told
from serving_kit import Served, ask, serve

ROUND = "usage prompt=100 completion=10 at=top\n"
SCRIPT = f"think Hm.\n{call('moons')}{ROUND}---\ntext Two moons [^1^].\n{ROUND}"
OWN = {"x-moongate-search": "client"}


async def first(served: Served, **more: Any) -> dict[str, Any]:
    answer = await served.post(ask(tools=[BUILTIN], **more), **OWN)
    assert answer.status == 200, await answer.text()
    return await answer.json()


def second(message: dict[str, Any], content: str | None = None) -> dict[str, Any]:
    (made,) = message["tool_calls"]
    arguments = made["function"]["arguments"]
    result = {
        "role": "tool", "tool_call_id": made["id"], "name": "$web_search",
        "content": arguments if content is None else content,
    }  # fmt: skip
    body = ask(tools=[BUILTIN])
    return body | {"messages": [*body["messages"], message, result]}


async def test_receipt_and_echo(tmp_path: Path) -> None:
    async with (
        engine() as web,
        ScriptedServer(rounds(SCRIPT)) as upstream,
        serve(tmp_path, config(upstream.base_url, web.url)) as served,
    ):
        got = await first(served)
        (choice,) = got["choices"]
        assert choice["finish_reason"] == "tool_calls"
        (made,) = choice["message"]["tool_calls"]
        assert (made["type"], made["function"]["name"]) == ("builtin_function", "$web_search")
        receipt = json.loads(made["function"]["arguments"])
        assert receipt["usage"]["total_tokens"] > 20
        assert "moons" not in made["function"]["arguments"].lower()
        assert (got["usage"]["searches"], web.asked) == (1, ["moons"])

        answer = await served.post(second(choice["message"]), **OWN)
        got = await answer.json()
        assert "x-moongate-search-lost" not in answer.headers
        message = got["choices"][0]["message"]
        assert message["content"] == "Two moons [^1^]."
        (note,) = message["annotations"]
        assert note["url_citation"]["url"] == "https://example.org/mars"
        assert got["usage"]["searches"] == 0
        asked, results = bodies(upstream)[1]["messages"][1:]
        assert asked["tool_calls"][0]["type"] == "function"
        assert json.loads(asked["tool_calls"][0]["function"]["arguments"]) == {"query": "moons"}
        assert told(results)["results"][0]["url"] == "https://example.org/mars"
        assert len(web.asked) == 1
        rows = await served.rows(2)
        assert sorted(row.usage.searches for row in rows) == [0, 1]
        assert sum(row.charge_nanos for row in rows) == 2 * (48_000 + 20_000) + SEARCH_NANOS


async def test_the_loop_of_the_sdk(tmp_path: Path) -> None:
    async with (
        engine() as web,
        ScriptedServer(rounds(SCRIPT)) as upstream,
        serve(tmp_path, config(upstream.base_url, web.url)) as served,
        openai.AsyncOpenAI(api_key=served.key, base_url=served.url, max_retries=0) as sdk,
    ):
        messages: list[Any] = [{"role": "user", "content": "How many moons has Mars?"}]
        tools: Any = [BUILTIN]
        for _ in range(4):
            answer = await sdk.chat.completions.create(
                model="kimi-k2.5", messages=messages, tools=tools, extra_headers=OWN
            )
            (choice,) = answer.choices
            messages.append(choice.message.model_dump(exclude_none=True, warnings=False))
            if choice.finish_reason != "tool_calls":
                break
            for one in choice.message.tool_calls or ():
                arguments = one.function.arguments  # type: ignore[union-attr]  # the only kind
                named = {"name": "$web_search", "tool_call_id": one.id}
                messages.append({"role": "tool", "content": arguments, **named})
        assert messages[-1]["content"] == "Two moons [^1^]."
        assert web.asked == ["moons"]


async def test_an_altered_receipt_loses_its_results(tmp_path: Path) -> None:
    async with (
        engine() as web,
        ScriptedServer(rounds(SCRIPT)) as upstream,
        serve(tmp_path, config(upstream.base_url, web.url)) as served,
    ):
        message = (await first(served))["choices"][0]["message"]
        arguments = json.loads(message["tool_calls"][0]["function"]["arguments"])
        token = arguments["search_result"]["search_id"]
        other = "A" if token[40] != "A" else "B"
        arguments["search_result"]["search_id"] = token[:40] + other + token[41:]
        for content in (json.dumps(arguments), "results, please", "{}", '{"notice":"mine"}'):
            answer = await served.post(second(message, content), **OWN)
            assert answer.status == 200, await answer.text()
            assert answer.headers["x-moongate-search-lost"] == "messages[2]"
            said = bodies(upstream)[-1]["messages"][2]["content"]
            assert "lost" in json.loads(said)["error"]


async def test_another_organisation_cannot_use_a_receipt(tmp_path: Path) -> None:
    async with (
        engine() as web,
        ScriptedServer(rounds(SCRIPT)) as upstream,
        serve(tmp_path, config(upstream.base_url, web.url)) as served,
    ):
        message = (await first(served))["choices"][0]["message"]
        _, served.key = await served.app.keys.create(account="other", name="o")
        await served.app.store.credit("other", 10**9, "topup", "g1", 1)
        answer = await served.post(second(message), **OWN)
        assert answer.headers["x-moongate-search-lost"] == "messages[2]"
        assert "example.org" not in json.dumps(bodies(upstream)[-1])


def test_what_is_no_receipt_opens_to_nothing() -> None:
    seal = Seal(bytes(32))
    whole = seal.receipt("a", Carried("q", "m"), 3)
    assert seal.open("a", whole) == Carried("q", "m")
    assert seal.receipt("a", Carried("q", "m"), 3) != whole
    assert seal.open("b", whole) is None
    assert Seal(bytes([1]) * 32).open("a", whole) is None
    for text in ("", "{", "null", "[]", '{"search_result":{"search_id":"é"}}', whole[:-30] + "}"):
        assert seal.open("a", text) is None


def test_what_is_larger_than_any_receipt_is_not_read() -> None:
    seal = Seal(bytes(32))
    hardest = seal.receipt("a", Carried("q" * 400, os.urandom(12_000).hex()), 6_000)
    assert seal.open("a", hardest) is not None
    assert seal.open("a", hardest + " " * 2**18) is None


@pytest.mark.parametrize("stream", [False, True])
async def test_a_receipt_is_none_of_the_models_words(tmp_path: Path, stream: bool) -> None:
    """An upstream that tells no counts: the model wrote a call, the receipt in it is ours."""
    script = f"think Hm.\n{call('moons')}usage at=none"
    pages = tuple(
        Page(f"Page {at}", f"https://example.org/{at}", os.urandom(1500).hex()) for at in range(5)
    )
    async with (
        engine(pages=lambda query: pages) as web,
        ScriptedServer(rounds(script)) as upstream,
        serve(tmp_path, config(upstream.base_url, web.url)) as served,
    ):
        answer = await served.post(ask(tools=[BUILTIN], stream=stream), **OWN)
        assert len(await answer.read()) > 10_000  # the receipt
        (row,) = await served.rows(1)
        assert row.usage.estimated
        assert (row.usage.searches, row.usage.output) == (1, 4)  # a thought, a call in three pieces
        await served.sound()


@pytest.mark.parametrize(("reason", "searches"), [("length", 0), ("tool_calls", 1)])
@pytest.mark.parametrize("by_client", [False, True])
async def test_the_maker_charges_rounds_that_ended_in_a_search(
    tmp_path: Path, reason: str, searches: int, by_client: bool
) -> None:
    receipt = '{"search_result":{"search_id":"maker-1"},"usage":{"total_tokens":900}}'
    if reason == "length":
        receipt = receipt[:20]
    script = f"tool $web_search {receipt}\nfinish {reason}\n{ROUND}---\ntext Two.\n{ROUND}"
    text = config("{up}", "", kind="moonshot", name="moonshot").replace('base_url = ""\n', "")
    async with (
        ScriptedServer(rounds(script)) as upstream,
        serve(tmp_path, text.replace("{up}", upstream.base_url)) as served,
    ):
        body = ask(tools=[BUILTIN], thinking={"type": "disabled"})
        answer = await served.post(body, **(OWN if by_client else {}))
        usage = (await answer.json())["usage"]
        asked = len(bodies(upstream))
        assert usage["searches"] == searches
        assert usage["cost_nanos"] == searches * SEARCH_NANOS + asked * 68_000
        await served.sound()


@pytest.mark.parametrize("by_client", [False, True])
async def test_the_makers_own_search(tmp_path: Path, by_client: bool) -> None:
    receipt = '{"search_result":{"search_id":"maker-1"},"usage":{"total_tokens":900}}'
    script = f"tool $web_search {receipt}\nfinish tool_calls\n{ROUND}---\ntext Two.\n{ROUND}"
    text = config("{up}", "", kind="moonshot", name="moonshot").replace('base_url = ""\n', "")
    async with ScriptedServer(rounds(script)) as upstream:
        text = text.replace("{up}", upstream.base_url)
        async with serve(tmp_path, text) as served:
            head = OWN if by_client else {}
            refused = await served.post(ask(tools=[BUILTIN]))
            assert (await refused.json())["error"]["param"] == "thinking"
            body = ask(tools=[BUILTIN], thinking={"type": "disabled"})
            answer = await served.post(body, **head)
            got = await answer.json()
            (choice,) = got["choices"]
            assert got["usage"]["searches"] == 1
            if by_client:
                (made,) = choice["message"]["tool_calls"]
                assert made["function"]["arguments"] == receipt
                assert made["type"] == "builtin_function"
            else:
                assert choice["message"]["content"] == "Two."
                result = bodies(upstream)[1]["messages"][-1]
                assert (result["content"], result["name"]) == (receipt, "$web_search")
            assert bodies(upstream)[0]["tools"] == [BUILTIN]
            assert upstream.violations == []
            (row,) = await served.rows(1)
            assert (
                row.charge_nanos
                == got["usage"]["cost_nanos"]
                == (SEARCH_NANOS + 68_000 * (1 if by_client else 2))
            )
            await served.sound()


async def test_another_word_in_the_header_is_refused(tmp_path: Path) -> None:
    async with (
        engine() as web,
        ScriptedServer(rounds(SCRIPT)) as upstream,
        serve(tmp_path, config(upstream.base_url, web.url)) as served,
    ):
        answer = await served.post(ask(tools=[BUILTIN]), **{"x-moongate-search": "klient"})
        error = (await answer.json())["error"]
        assert (answer.status, error["param"]) == (400, "x-moongate-search")
        assert '"client"' in error["message"]
        assert (web.asked, bodies(upstream)) == ([], [])
