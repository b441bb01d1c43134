"""A conversation that searches on the embedded model itself: every search is on the bill, once."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from capability_kit import EMBEDDED
from engine_kit import model_cache
from live_kit import Live, running, short_folder
from search_kit import BUILTIN, MOONS, SEARCH_NANOS, FakeEngine, engine

pytestmark = pytest.mark.engine

TURNS = ("How many moons has Mars?", "Which one is the larger?", "Who found them?")
SEARCH = '\n[search]\nengine = "{name}"\nbase_url = "{url}"\npages = false\n'


@contextlib.asynccontextmanager
async def searching(name: str) -> AsyncIterator[tuple[Live, FakeEngine]]:
    """A server of its own process, and the engine of that form that it asks."""
    models = model_cache() / "models"
    models.mkdir(parents=True, exist_ok=True)
    async with engine() as web:
        with short_folder() as folder:
            (folder / "home").mkdir(mode=0o700)
            (folder / "home" / "models").symlink_to(models)
            file = folder / "moongate.toml"
            file.write_text(EMBEDDED + SEARCH.format(name=name, url=web.url))
            with running(folder / "home", config=file) as live:
                yield live, web


async def turn(sdk: openai.AsyncOpenAI, messages: list[Any], *, stream: bool) -> dict[str, Any]:
    """One answer for which the model has to call the search: its text, end, sources and usage."""
    question: Any = {
        "model": "kimi-k2.5", "messages": messages, "tools": [BUILTIN], "tool_choice": "required",
        "max_completion_tokens": 128, "seed": 5, "extra_body": {"thinking": {"type": "disabled"}},
    }  # fmt: skip
    if not stream:
        answer = (await sdk.chat.completions.create(**question)).model_dump()
        (choice,) = answer["choices"]
        told = choice["message"]
        return {**answer, **told, "finish": choice["finish_reason"]}
    got: dict[str, Any] = {"content": "", "annotations": []}
    options = {"stream": True, "stream_options": {"include_usage": True}}
    async for chunk in await sdk.chat.completions.create(**question, **options):
        data = chunk.model_dump()
        got["id"], got["usage"] = data["id"], data["usage"] or got.get("usage")
        for choice in data["choices"]:
            got["content"] += choice["delta"].get("content") or ""
            got["annotations"] += choice["delta"].get("annotations") or []
            assert not choice["delta"].get("tool_calls")
            got["finish"] = choice["finish_reason"]
    return got


async def billed(live: Live, sdk: openai.AsyncOpenAI) -> tuple[list[Any], list[Any], list[Any]]:
    """Statement, usage by model and receipts, each as whoever asks for it sees it."""
    statement = (await asyncio.to_thread(live.json, "statement", "--each"))["data"]
    usage = await sdk.get("/usage?group_by=model", cast_to=dict[str, Any])
    receipts = [
        await sdk.get(f"/receipts/{line['request']}", cast_to=dict[str, Any]) for line in statement
    ]
    return statement, usage["data"], receipts


@pytest.mark.parametrize(("name", "stream"), [("searxng", False), ("tavily", True)])
async def test_each_search_of_a_conversation_is_billed_once(name: str, stream: bool) -> None:
    messages: list[Any] = []
    searched: list[int] = []
    costs: list[int] = []
    async with (
        searching(name) as (live, web),
        openai.AsyncOpenAI(api_key=live.key, base_url=live.url, max_retries=0) as sdk,
    ):
        for question in TURNS:
            before = len(web.asked)
            messages.append({"role": "user", "content": question})
            got = await turn(sdk, messages, stream=stream)
            messages.append({"role": "assistant", "content": got["content"]})
            assert got["finish"] in ("stop", "length")
            assert not got.get("tool_calls")
            cited = {note["url_citation"]["url"] for note in got["annotations"]}
            assert cited <= {page.url for page in MOONS}
            assert cited
            searched.append(len(web.asked) - before)
            costs.append(got["usage"]["cost_nanos"])
            assert got["usage"]["searches"] == searched[-1] > 0
        statement, (by_model,), receipts = await billed(live, sdk)
        audit = await asyncio.to_thread(live.cli, "audit", "ledger")
    assert [line["searches"] for line in statement] == searched
    assert [line["charge_nanos"] for line in statement] == costs
    for receipt, count, cost in zip(receipts, searched, costs, strict=True):
        amounts = {line["class"]: line["amount_nanos"] for line in receipt["lines"]}
        assert receipt["lines"][3]["count"] == count
        assert amounts["searches"] == count * SEARCH_NANOS
        assert sum(amounts.values()) == receipt["charge_nanos"] == cost
    assert (by_model["searches"], by_model["charge_nanos"]) == (sum(searched), sum(costs))
    assert audit.returncode == 0, audit.stdout
