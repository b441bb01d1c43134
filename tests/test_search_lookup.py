"""Searches outside a chat: our own form and Tavily's, one fee, the rules of any paid request."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from moongate.search.finding import Finding
from moongate.upstream.scripted import ScriptedServer
from search_kit import BUILTIN, SEARCH_NANOS, config, engine
from serving_kit import Served, serve

OURS, TAVILYS = "/v1/search", "/apis/v1/tavily/search"


# Every field that Tavily's reference gives a search, beside query and max_results.
TAVILY_FIELDS = {
    "api_key": "tvly-x", "auto_parameters": False, "topic": "general", "search_depth": "basic",
    "chunks_per_source": 3, "time_range": None, "days": 7, "start_date": "2025-02-09",
    "end_date": "2026-12-29", "include_answer": False, "include_raw_content": False,
    "include_images": False, "include_image_descriptions": False, "include_favicon": False,
    "include_domains": [], "exclude_domains": [], "country": None, "include_usage": False,
}  # fmt: skip


async def look(served: Served, path: str, body: Any, **headers: str) -> tuple[int, Any]:
    head = {"authorization": f"Bearer {served.key}"} | headers
    url = served.url.removesuffix("/v1") + path
    async with served.http.post(url, json=body, headers=head) as answer:
        return answer.status, await answer.json()


def logged(served: Served, event: str = "request") -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in served.log.getvalue().splitlines()]
    return [line for line in lines if line["event"] == event]


async def test_tavilys_clients_may_send_what_is_not_acted_on(tmp_path: Path) -> None:
    body = {"query": "x", **TAVILY_FIELDS, "secret words": 1}
    async with (
        engine() as web,
        ScriptedServer() as upstream,
        serve(tmp_path, config(upstream.base_url, web.url)) as served,
    ):
        head = {"authorization": f"Bearer {served.key}"}
        url = served.url.removesuffix("/v1") + TAVILYS
        async with served.http.post(url, json=body, headers=head) as answer:
            assert answer.status == 200
            assert answer.headers["x-moongate-dropped"].split(",") == [*TAVILY_FIELDS, "?"]
        async with served.http.post(url, json={"query": "x"}, headers=head) as answer:
            assert "x-moongate-dropped" not in answer.headers


@pytest.mark.parametrize("path", [OURS, TAVILYS])
async def test_a_refusal_before_a_hold_leaves_a_line_and_a_count(tmp_path: Path, path: str) -> None:
    async with (
        engine() as web,
        ScriptedServer() as upstream,
        serve(tmp_path, config(upstream.base_url, web.url)) as served,
    ):
        await look(served, path, {"query": 7, "secret": "secret words"})
        await look(served, path, {"query": "secret words"}, authorization="Bearer mg-nobody")
        await served.leave_in_wallet(SEARCH_NANOS - 1)
        await look(served, path, {"query": "secret words"})
        lines = logged(served, "refused")
        code = "unknown_parameter" if path == OURS else "invalid_type"
        assert [(line["status"], line["code"]) for line in lines] == [
            (400, code), (401, "invalid_api_key"), (402, "insufficient_quota"),
        ]  # fmt: skip
        assert all(set(line) == {"time", "event", "request", "status", "code"} for line in lines)
        assert "secret" not in served.log.getvalue()
        text = served.app.metrics.text().decode()
        for status in ("400", "401", "402"):
            assert f'moongate_refusals_total{{status="{status}"}} 1.0' in text


@pytest.mark.parametrize("path", [OURS, TAVILYS])
async def test_results_with_their_fee(tmp_path: Path, path: str) -> None:
    async with (
        engine() as web,
        ScriptedServer() as upstream,
        serve(tmp_path, config(upstream.base_url, web.url)) as served,
    ):
        status, got = await look(served, path, {"query": "moons of mars", "max_results": 1})
        assert status == 200
        assert web.asked == ["moons of mars"]
        (one,) = got["results"]
        assert (one["title"], one["url"]) == ("Moons of Mars", "https://example.org/mars")
        assert one["content"] == "Mars has two moons, Phobos and Deimos."
        assert got["usage"] == {"searches": 1, "cost": 0.005, "cost_nanos": SEARCH_NANOS}
        if path == TAVILYS:
            assert one["score"] == 1.0
            assert (got["answer"], got["images"], got["follow_up_questions"]) == (None, [], None)
        (row,) = await served.rows(1)
        assert (row.usage.searches, row.charge_nanos, row.upstream) == (1, SEARCH_NANOS, "searxng")
        assert (row.model, row.outcome) == ("kimi-k2.5", "done")
        (line,) = logged(served)
        assert (line["request"], line["amount_nanos"]) == (row.hold, SEARCH_NANOS)
        assert (line["upstream"], line["status"]) == ("searxng", 200)
        await served.sound()


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({}, "missing_required_parameter", "query"),
        ({"query": " "}, "missing_required_parameter", "query"),
        ({"query": "x" * 401}, "invalid_value", "query"),
        ({"query": 7}, "invalid_type", "query"),
        ({"query": "x", "max_results": 21}, "invalid_value", "max_results"),
        ({"query": "x", "model": "nobody"}, "model_not_found", "model"),
        ({"query": "x", "maxResults": 3}, "unknown_parameter", "maxResults"),
        ({"query": "x", "secret words": None}, "unknown_parameter", "?"),
        ({"query": "x", "include_domains": []}, "unknown_parameter", "include_domains"),
    ],
)
async def test_bad_input_names_its_field(tmp_path: Path, body: Any, code: str, param: str) -> None:
    async with (
        engine() as web,
        ScriptedServer() as upstream,
        serve(tmp_path, config(upstream.base_url, web.url)) as served,
    ):
        status, got = await look(served, OURS, body)
        assert (status, got["error"]["code"], got["error"]["param"]) == (
            404 if code == "model_not_found" else 400, code, param,
        )  # fmt: skip
        assert web.asked == []
        assert (await served.usage()) == []


async def test_a_failing_engine_costs_nothing(tmp_path: Path) -> None:
    async with (
        engine(trouble="500") as web,
        ScriptedServer() as upstream,
        serve(tmp_path, config(upstream.base_url, web.url)) as served,
    ):
        before = await served.wallet()
        status, got = await look(served, OURS, {"query": "secret words"})
        assert (status, got["error"]["code"]) == (502, "search_failed")
        assert "failed: unavailable. Nothing" in got["error"]["message"]
        assert "secret" not in json.dumps(got) + served.log.getvalue()
        (row,) = await served.rows(1)
        assert (row.charge_nanos, row.outcome, row.usage.searches) == (0, "upstream_error", 0)
        (line,) = logged(served)
        assert (line["amount_nanos"], line["outcome"]) == (0, "upstream_error")
        assert line["kind"] == "status"
        assert logged(served, "refused") == []
        assert await served.wallet() == before
        await served.sound()


@pytest.mark.parametrize("route", [OURS, TAVILYS])
async def test_an_engine_that_finds_nothing_has_not_failed_and_costs_nothing(
    tmp_path: Path, route: str
) -> None:
    async with (
        engine(trouble="empty") as web,
        ScriptedServer() as upstream,
        serve(tmp_path, config(upstream.base_url, web.url)) as served,
    ):
        before = await served.wallet()
        status, got = await look(served, route, {"query": "nobody knows"})
        assert (status, got["results"]) == (200, [])
        assert (got["usage"]["searches"], got["usage"]["cost_nanos"]) == (0, 0)
        (row,) = await served.rows(1)
        assert (row.charge_nanos, row.outcome, row.usage.searches) == (0, "done", 0)
        assert await served.wallet() == before
        await served.sound()


async def test_a_page_that_hurts_its_reader_leaves_what_the_engine_said(tmp_path: Path) -> None:
    async def hurt(_: Any) -> Any:
        raise RecursionError("secret words")

    async with (
        engine() as web,
        ScriptedServer() as upstream,
        serve(tmp_path, config(upstream.base_url, web.url)) as served,
    ):
        served.app.searches.finding._read = hurt
        status, got = await look(served, OURS, {"query": "x", "pages": True})
        assert (status, bool(got["results"]), got["usage"]["searches"]) == (200, True, 1)
        assert "secret" not in served.log.getvalue()
        await served.sound()


async def test_a_fault_of_ours_gives_the_fee_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(Finding, "find", broken)
    async with (
        engine() as web,
        ScriptedServer() as upstream,
        serve(tmp_path, config(upstream.base_url, web.url)) as served,
    ):
        before = await served.wallet()
        assert (await look(served, OURS, {"query": "x"}))[0] == 500
        (row,) = await served.rows(1)
        assert (row.charge_nanos, row.outcome) == (0, "gateway_error")
        assert await served.wallet() == before
        await served.sound()


async def test_an_empty_wallet_reaches_no_engine(tmp_path: Path) -> None:
    async with (
        engine() as web,
        ScriptedServer() as upstream,
        serve(tmp_path, config(upstream.base_url, web.url)) as served,
    ):
        await served.leave_in_wallet(SEARCH_NANOS - 1)
        status, got = await look(served, OURS, {"query": "x"})
        assert (status, got["error"]["code"]) == (402, "insufficient_quota")
        assert web.asked == []
        await served.leave_in_wallet(SEARCH_NANOS)
        assert (await look(served, OURS, {"query": "x"}))[0] == 200


async def test_who_leaves_before_the_results_pays_nothing(tmp_path: Path) -> None:
    async with (
        engine(trouble="slow") as web,
        ScriptedServer() as upstream,
        serve(tmp_path, config(upstream.base_url, web.url)) as served,
    ):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await look(served, OURS, {"query": "x"})
        (row,) = await served.rows(1)
        assert (row.charge_nanos, row.outcome, row.status) == (0, "client_left", 499)
        await served.quiet()
        await served.sound()


async def test_one_idempotency_key_one_fee(tmp_path: Path) -> None:
    async with (
        engine() as web,
        ScriptedServer() as upstream,
        serve(tmp_path, config(upstream.base_url, web.url)) as served,
    ):
        first = await look(served, OURS, {"query": "x"}, **{"idempotency-key": "k"})
        again = await look(served, OURS, {"query": "x"}, **{"idempotency-key": "k"})
        assert (first[0], again[0], again[1]["error"]["code"]) == (
            200, 409, "idempotency_completed",
        )  # fmt: skip
        assert len(web.asked) == 1


async def test_no_key_no_search(tmp_path: Path) -> None:
    async with (
        engine() as web,
        ScriptedServer() as upstream,
        serve(tmp_path, config(upstream.base_url, web.url)) as served,
    ):
        status, got = await look(served, OURS, {"query": "x"}, authorization="Bearer mg-nobody")
        assert (status, got["error"]["code"]) == (401, "invalid_api_key")
        assert web.asked == []


@pytest.mark.parametrize(
    ("policy", "promise"),
    [
        ("none", ""),
        ("contract", "queries are used for nothing else"),
        ("contract", "queries are not retained"),
        ("self-hosted", ""),
    ],
)
async def test_a_zero_retention_key_searches_only_where_nothing_is_kept(
    tmp_path: Path, policy: str, promise: str
) -> None:
    text = _self_hosted(config("{up}", "{web}")) + f'data_policy = "{policy}"\n'
    if promise:
        text += (
            '[search.agreement]\ntitle = "T"\neffective = "2026-02-10"\n'
            f'statements = ["{promise}"]\n'
        )
    async with engine() as web, ScriptedServer("text Hm.") as upstream:
        text = text.replace("{up}", upstream.base_url).replace("{web}", web.url)
        async with serve(tmp_path, text) as served:
            _, served.key = await served.app.keys.create(
                account="default", name="z", zero_retention=True
            )
            chat = {"model": "kimi-k2.5", "messages": [{"role": "user", "content": "Hm?"}]}
            answers = [
                await look(served, OURS, {"query": "x"}),
                await look(served, "/v1/chat/completions", chat | {"tools": [BUILTIN]}),
                await look(served, "/v1/chat/completions", chat | {"web_search_options": {}}),
            ]
            if policy == "self-hosted" or "not retained" in promise:
                assert [status for status, _ in answers] == [200, 200, 200]
                return
            for status, got in answers:
                assert (status, got["error"]["code"]) == (403, "no_zdr_route")
            assert (web.asked, await served.usage()) == ([], [])


def _self_hosted(text: str) -> str:
    return text.replace('kind = "vllm"\n', 'kind = "vllm"\ndata_policy = "self-hosted"\n')
