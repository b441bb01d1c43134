"""A conversation that searches: rounds, citations, and a bill that is right to the nano-dollar."""

import json
from pathlib import Path
from typing import Any

import openai
import pytest

from moongate.core.money import Usage
from moongate.upstream.prompts import rounds
from moongate.upstream.scripted import ScriptedServer
from search_kit import BUILTIN, MOONS, SEARCH_NANOS, FakeEngine, bodies, call, config, engine, told
from serving_kit import Served, ask, serve

THREE = f"""think I should look.
{call("moons of mars")}usage prompt=100 completion=10 at=top
---
think More.
{call("phobos orbit")}usage prompt=300 cached=100 completion=12 at=top
---
{call("deimos orbit")}usage prompt=500 cached=300 completion=14 at=top
---
text Mars has two moons [^1^], one of which
text  is Phobos [^4^].
usage prompt=700 cached=500 completion=20 at=top
"""
TOKENS_NANOS = (100 + 200 + 200 + 200) * 480 + (100 + 300 + 500) * 100 + 56 * 2000
COST_NANOS = TOKENS_NANOS + 3 * SEARCH_NANOS
TEXT = "Mars has two moons [^1^], one of which is Phobos [^4^]."
ENGINES = ("searxng", "tavily")


def client(served: Served) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(api_key=served.key, base_url=served.url, max_retries=0)


async def whole(served: Served, **more: Any) -> dict[str, Any]:
    """The parts of an unstreamed answer of the SDK's."""
    question: Any = ask(tools=[BUILTIN], **more)
    async with client(served) as sdk:
        answer = (await sdk.chat.completions.create(**question)).model_dump()
    (choice,) = answer["choices"]
    return {**choice["message"], "finish": choice["finish_reason"], "usage": answer["usage"]}


async def streamed(served: Served, **more: Any) -> dict[str, Any]:
    """The same out of a stream."""
    question: Any = ask(
        tools=[BUILTIN], stream=True, stream_options={"include_usage": True}, **more
    )
    got: dict[str, Any] = {"content": "", "annotations": [], "tool_calls": None}
    async with client(served) as sdk:
        async for chunk in await sdk.chat.completions.create(**question):
            data = chunk.model_dump()
            for choice in data["choices"]:
                delta = choice["delta"]
                got["content"] += delta.get("content") or ""
                got["annotations"] += delta.get("annotations") or []
                assert not delta.get("tool_calls")
                got["finish"] = choice["finish_reason"]
            got["usage"] = data["usage"] or got.get("usage")
    return got


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("read", [whole, streamed])
async def test_three_rounds_of_searches_are_one_answer(
    tmp_path: Path, read: Any, name: str
) -> None:
    async with (
        engine() as web,
        ScriptedServer(rounds(THREE)) as upstream,
        serve(tmp_path, config(upstream.base_url, web.url, name=name)) as served,
    ):
        got = await read(served)
        assert web.asked == ["moons of mars", "phobos orbit", "deimos orbit"]
        assert (got["content"], got["finish"], got["tool_calls"]) == (TEXT, "stop", None)
        cited = [note["url_citation"] for note in got["annotations"]]
        assert [(c["url"], TEXT[c["start_index"] : c["end_index"]]) for c in cited] == [
            ("https://example.org/mars", "[^1^]"),
            ("https://example.org/phobos", "[^4^]"),
        ]
        usage = got["usage"]
        assert (usage["searches"], usage["cost_nanos"]) == (3, COST_NANOS)
        assert (usage["prompt_tokens"], usage["cached_tokens"], usage["completion_tokens"]) == (
            1600, 900, 56,
        )  # fmt: skip
        (row,) = await served.rows(1)
        assert row.usage == Usage(700, 900, 56, searches=3, reasoning=row.usage.reasoning)
        assert (row.charge_nanos, row.forgiven_nanos, row.outcome) == (COST_NANOS, 0, "done")
        assert (row.upstream_prompt, row.upstream_completion) == (1600, 56)
        await served.sound()


async def test_the_fee_stands_on_every_surface(tmp_path: Path) -> None:
    async with (
        engine() as web,
        ScriptedServer(rounds(THREE)) as upstream,
        serve(tmp_path, config(upstream.base_url, web.url)) as served,
    ):
        await whole(served)
        (row,) = await served.rows(1)
        head = {"authorization": f"Bearer {served.key}"}

        async def shown(path: str) -> Any:
            async with served.http.get(f"{served.url}/{path}", headers=head) as answer:
                return await answer.json()

        lines = (await shown(f"receipts/{row.hold}"))["lines"]
        assert lines[3] == {
            "class": "searches", "count": 3, "unit_nanos": SEARCH_NANOS,
            "amount_nanos": 3 * SEARCH_NANOS,
        }  # fmt: skip
        assert (await shown("usage?group_by=model"))["data"][0]["searches"] == 3
        month = await shown(f"invoices/{_month()}?format=json")
        assert any(line["count"] == 3 and "search" in str(line).lower() for line in month["lines"])
        async with served.http.get(served.url.removesuffix("/v1") + "/metrics") as answer:
            assert (
                'moongate_searches_total{engine="searxng",outcome="ok"} 3.0' in await answer.text()
            )
        assert "phobos" not in served.log.getvalue()


def _month() -> str:
    import time

    return time.strftime("%Y-%m", time.gmtime())


async def test_the_model_is_offered_a_function_and_told_quoted_results(tmp_path: Path) -> None:
    theirs = {
        "type": "function",
        "function": {"name": "web_search", "parameters": {"type": "object"}},
    }
    script = call("moons of mars").replace("web_search", "moongate_web_search")
    async with (
        engine() as web,
        ScriptedServer(rounds(f"think Hm.\n{script}---\ntext Two.")) as upstream,
        serve(tmp_path, config(upstream.base_url, web.url)) as served,
    ):
        answer = await served.post(ask(tools=[theirs, BUILTIN]))
        assert answer.status == 200, await answer.text()
        first, second = bodies(upstream)
        assert [t["function"]["name"] for t in first["tools"]] == [
            "web_search",
            "moongate_web_search",
        ]
        assert {tool["type"] for tool in first["tools"]} == {"function"}
        assert first["tools"] == second["tools"]
        assert second["messages"][:1] == first["messages"]
        asked, results = second["messages"][1:]
        assert asked["reasoning_content"] == "Hm."
        assert json.loads(asked["tool_calls"][0]["function"]["arguments"]) == {
            "query": "moons of mars"
        }
        assert results["tool_call_id"] == asked["tool_calls"][0]["id"]
        quoted = told(results)
        assert [(one["id"], one["url"]) for one in quoted["results"]] == [
            (1, "https://example.org/mars"), (2, "https://example.org/phobos"),
        ]  # fmt: skip
        assert "data" in quoted["notice"]
        assert upstream.violations == []


async def test_no_search_no_fee(tmp_path: Path) -> None:
    async with (
        engine() as web,
        ScriptedServer("text Two.\nusage prompt=50 completion=2 at=top") as upstream,
        serve(tmp_path, config(upstream.base_url, web.url)) as served,
    ):
        got = await whole(served)
        assert (got["usage"]["searches"], got["usage"]["cost_nanos"]) == (0, 50 * 480 + 2 * 2000)
        assert "search_errors" not in got["usage"]
        assert web.asked == []


TROUBLES = {
    **dict.fromkeys(("500", "429", "down"), "unavailable"),
    **dict.fromkeys(("garbage", "shape", "huge"), "malformed"),
    "401": "refused",
    "empty": "empty",
    "slow": "timeout",
}


@pytest.mark.parametrize("read", [whole, streamed])
@pytest.mark.parametrize("trouble", TROUBLES)
async def test_a_failing_engine_is_told_to_model_and_client_and_costs_nothing(
    tmp_path: Path, trouble: str, read: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moongate.search.finding.DEADLINE_S", 0.3)
    script = (
        f"{call('secret words')}usage prompt=50 completion=5 at=top\n---\ntext I cannot look.\n"
    )
    async with (
        engine(trouble=trouble) as web,
        ScriptedServer(rounds(script + "usage prompt=90 completion=4 at=top")) as upstream,
        serve(tmp_path, config(upstream.base_url, _gone(web, trouble))) as served,
    ):
        served.app.searches.finding._deadline_s = 0.3
        got = await read(served)
        assert (got["content"], got["finish"]) == ("I cannot look.", "stop")
        assert not got["annotations"]
        assert got["usage"]["searches"] == 0
        assert got["usage"]["search_errors"] == [TROUBLES[trouble]]
        assert got["usage"]["cost_nanos"] == 140 * 480 + 9 * 2000
        assert "error" in told(bodies(upstream)[1]["messages"][-1])
        assert "secret" not in served.log.getvalue()
        await served.sound()


async def test_of_several_searches_each_that_brought_nothing_has_its_word(tmp_path: Path) -> None:
    def args(query: str) -> str:
        return f"tool web_search {json.dumps({'query': query} if query else {})}\n"

    queries = ("a", "", "b", "c")
    calls = "".join(map(args, queries))
    async with (
        engine(pages=lambda query: MOONS if query == "b" else ()) as web,
        ScriptedServer(rounds(f"{calls}finish tool_calls\n---\ntext Two.\n")) as upstream,
        serve(tmp_path, config(upstream.base_url, web.url)) as served,
    ):
        usage = (await whole(served))["usage"]
        assert (usage["searches"], web.asked) == (1, ["a", "b"])
        assert usage["search_errors"] == ["empty", "no_query", "limit"]
        await served.sound()


def _gone(web: FakeEngine, trouble: str) -> str:
    return "http://127.0.0.1:9" if trouble == "down" else web.url
