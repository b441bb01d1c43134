"""Each engine against a server that speaks its dialect; ddgs with the real package."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from moongate.core.errors import ConfigurationError
from moongate.search.engines.brave import Brave
from moongate.search.engines.duckduckgo import Ddgs
from moongate.search.engines.searxng import Searxng
from moongate.search.engines.tavily import Tavily
from moongate.search.finding import Finding
from moongate.search.results import Engine, Result, SearchFailed
from search_kit import MOONS, engine
from settings_kit import MODEL, UP, complaint, read

FOUND = [Result(page.title, page.url, page.text, page.published) for page in MOONS]


async def found(asked: Engine, query: str = "moons of mars", count: int = 5) -> list[Result]:
    await asked.start()
    try:
        return await asked.find(query, count)
    finally:
        await asked.close()


async def test_searxng() -> None:
    async with engine() as fake:
        assert await found(Searxng(fake.url + "/")) == FOUND
        assert fake.bodies == [{"q": "moons of mars", "format": "json"}]
        assert "authorization" not in fake.heads[0]
        assert await found(Searxng(fake.url, "k"), count=1) == FOUND[:1]
        assert fake.heads[1]["authorization"] == "Bearer k"
        assert "cookie" not in fake.heads[1]


async def test_tavily() -> None:
    async with engine() as fake:
        assert await found(Tavily(fake.url, "tvly-1")) == FOUND
        assert fake.heads[0]["authorization"] == "Bearer tvly-1"
        body = fake.bodies[0]
        assert (body["query"], body["max_results"], body["search_depth"]) == (
            "moons of mars", 5, "basic",
        )  # fmt: skip
        assert "tvly-1" not in json.dumps(fake.bodies)


async def test_brave() -> None:
    asked: list[Any] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append((dict(request.query), request.headers.get("x-subscription-token")))
        first = {
            "title": "Moons of <strong>Mars</strong>",
            "url": "https://example.org/mars",
            "description": "Two &amp; no more.",
            "extra_snippets": ["Phobos.", 7],
            "page_age": "2026-01-05T00:00:00",
        }
        return web.json_response({"type": "search", "web": {"results": [first, "odd", {}]}})

    app = web.Application()
    app.router.add_get("/web/search", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        got = await found(Brave(url, "b-1"))
    finally:
        await runner.cleanup()
    assert got[0] == Result(
        "Moons of Mars", "https://example.org/mars", "Two & no more.\nPhobos.",
        "2026-01-05T00:00:00",
    )  # fmt: skip
    assert asked == [({"q": "moons of mars", "count": "5", "result_filter": "web"}, "b-1")]


PAGE = """<html><body><div id="links"><div class="body">
<h2><a href="{url}">Moons of Mars</a></h2><a href="{url}">Mars has two moons.</a>
</div></div></body></html>"""


@pytest.mark.parametrize("status", [200, 429])
async def test_ddgs_reads_the_pages_of_search_engines(
    monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    from ddgs.engines.duckduckgo import Duckduckgo

    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append((await request.post())["q"])
        text = PAGE.format(url="https://example.org/mars")
        return web.Response(text=text, content_type="text/html", status=status)

    app = web.Application()
    app.router.add_post("/html/", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    address = f"http://127.0.0.1:{runner.addresses[0][1]}/html/"
    monkeypatch.setattr(Duckduckgo, "search_url", address)
    monkeypatch.setattr("moongate.search.engines.duckduckgo.ASKED", "duckduckgo")
    try:
        if status == 200:
            (one,) = await found(Ddgs())
            assert (one.url, one.title) == ("https://example.org/mars", "Moons of Mars")
            assert "two moons" in one.text
        else:
            with pytest.raises(SearchFailed, match=r"^empty$"):
                await found(Ddgs())
        assert asked
    finally:
        await runner.cleanup()


async def test_no_failure_tells_the_query() -> None:
    class Broken:
        name = "broken"

        async def find(self, query: str, results_max: int) -> list[Result]:
            raise RuntimeError(f"no {query} {results_max}")

    told: list[tuple[str, str]] = []
    finding = Finding(Broken(), "none", counted=lambda *of: told.append(of))  # type: ignore[arg-type]  # half an engine
    with pytest.raises(SearchFailed) as caught:
        await finding.find("secret words", 5)
    assert "secret" not in repr(caught.value) + repr(finding) + str(caught.value.__cause__)
    assert told == [("broken", "malformed")]


async def test_pages_that_take_too_long_leave_what_the_engine_said() -> None:
    class Quick:
        name = "quick"

        async def find(self, query: str, results_max: int) -> list[Result]:
            del query, results_max
            return [Result("Moons", "https://example.com/", "Two of them.")]

    async def never(found: Sequence[Result]) -> list[Result]:
        await asyncio.Event().wait()
        return list(found)

    finding = Finding(Quick(), "none", read=never)  # type: ignore[arg-type]  # half an engine
    async with asyncio.timeout(10):
        (one,) = await finding.find("moons", 5, pages=True, within_s=0.05)
    assert one.text == "Two of them."


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ('engine = "searxng"', "search.base_url is missing"),
        ('engine = "tavily"', "search.api_key_env is missing"),
        ('engine = "brave"', "search.api_key_env is missing"),
        ('engine = "ddgs"\nbase_url = "http://a"', "Remove it"),
        ('engine = "searxng"\nbase_url = "ftp://a"', "search.base_url takes an http(s) address"),
        ('data_policy = "self-hosted"', 'only with engine "searxng"'),
        ('engine = "google"', "search.engine"),
    ],
)
def test_mistakes_in_the_settings(tmp_path: Path, table: str, says: str) -> None:
    assert says in complaint(tmp_path, f"{UP}{MODEL}[search]\n{table}\n")


def test_a_private_address_of_an_engine_is_the_operators_to_name(tmp_path: Path) -> None:
    table = '[search]\nengine = "searxng"\nbase_url = "http://10.0.0.7:8080"\n'
    assert read(tmp_path, UP + MODEL + table).search.base_url == "http://10.0.0.7:8080"


async def test_a_missing_package_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ddgs", None)
    with pytest.raises(ConfigurationError, match="moongate\\[search\\]"):
        await Ddgs().start()
