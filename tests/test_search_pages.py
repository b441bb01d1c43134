"""Pages of results: readable text, nothing that is hidden, and no way to the inside."""

from pathlib import Path

import pytest
from aiohttp import web

from media_kit import Site, site
from moongate.media.fetch import Fetcher
from moongate.search.pages import Pages, readable
from moongate.search.results import TEXT_CHARS_MAX, Result
from moongate.upstream.prompts import rounds
from moongate.upstream.scripted import ScriptedServer
from search_kit import BUILTIN, Page, bodies, call, config, engine, told
from serving_kit import ask, serve

WORDS = "Phobos is the larger of the two moons of Mars and circles it in less than eight hours. "
HTML = f"""<!doctype html><html><head><title>T</title><style>p {{ color: red }}</style>
<script>var secret = "script";</script></head><body>
<nav><ul><li><a href="/">Home</a></li><li><a href="/b">Menu entry</a></li></ul></nav>
<article><h1>Moons</h1><p>{WORDS}</p><p hidden>hidden one</p>
<p style="display:none">hidden two</p><div aria-hidden="true"><p>hidden three</p></div>
<ul><li><p>Deimos is the smaller one.</p></li></ul><p><a href="/x">Only a link</a></p></article>
<footer><p>Footer words</p></footer></body></html>"""


def test_the_readable_text() -> None:
    assert readable(HTML).splitlines() == ["Moons", WORDS.strip(), "Deimos is the smaller one."]


@pytest.mark.parametrize(
    "page",
    ["", "<", "<html>", "plain words", "<p>" * 5_000, "<div>" * 5_000 + "x", "\0<p>a</p>",
     "<table><tr><td>a", "<script>alert(1)", "<svg><p>a</p></svg>", "<template><p>a</p>"],
)  # fmt: skip
def test_odd_pages_are_read_all_the_same(page: str) -> None:
    assert "alert" not in readable(page)


def html(text: str, kind: str = "text/html", encoding: str = "utf-8") -> object:
    async def answer(request: web.Request) -> web.Response:
        del request
        return web.Response(body=text.encode(encoding), headers={"content-type": kind})

    return answer


async def read(it: Site, path: str, snippet: str = "short") -> str:
    (one,) = await Pages(it.fetcher())([Result("t", it.url(path), snippet)])
    return one.text


async def test_what_a_page_says_takes_the_place_of_a_snippet() -> None:
    async with site() as it:
        greek = "<p>" + "Πόσα φεγγάρια; " * 3 + "</p>"
        it.pages = {
            "/a": html(HTML),
            "/greek": html(greek, "text/html; charset=iso-8859-7", "iso-8859-7"),
            "/meta": html('<meta charset="iso-8859-7">' + greek, encoding="iso-8859-7"),
            "/odd": html(HTML, "text/html; charset=nothing"),
            "/text": html("plain words " * 9, "text/plain"),
            "/picture": html("\x89PNG" * 99, "image/png"),
            "/huge": html("<p>" + "word " * 600_000),
            "/long": html("<p>" + "word " * 9_000),
        }
        assert await read(it, "/a") == readable(HTML)
        assert "φεγγάρια" in await read(it, "/greek")
        assert "φεγγάρια" in await read(it, "/meta")
        assert await read(it, "/odd") == readable(HTML)
        assert (await read(it, "/text")).startswith("plain words")
        for path in ("/picture", "/huge", "/missing"):
            assert await read(it, path) == "short"
        assert len(await read(it, "/long")) <= TEXT_CHARS_MAX
        assert await read(it, "/a", WORDS * 20) == WORDS * 20


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1/", "http://localhost/", "http://169.254.169.254/latest/", "http://[::1]/",
     "http://2130706433/", "http://10.0.0.1/", "http://[::ffff:10.0.0.1]/"],
)  # fmt: skip
async def test_no_result_leads_inside(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    monkeypatch.setattr("moongate.media.fetch._Gate.socket", lambda *about: made.append(about))
    found = [Result("t", url, "snippet")]
    assert await Pages(Fetcher())(found) == found
    assert made == []


async def test_pages_reach_the_model_unless_nothing_may_be_kept(tmp_path: Path) -> None:
    script = f"{call('moons')}---\ntext Two."
    async with site() as it, ScriptedServer(rounds(script)) as upstream:
        it.pages = {"/a": html(HTML)}
        page = Page("Moons", it.url("/a"), "snippet")
        async with engine(pages=lambda query: (page,)) as fake:
            text = config(upstream.base_url, fake.url).replace(
                'kind = "vllm"\n', 'kind = "vllm"\ndata_policy = "self-hosted"\n'
            )
            async with serve(tmp_path, text + 'data_policy = "self-hosted"\n') as served:
                finding = served.app.searches.finding
                assert finding is not None
                finding._read = Pages(it.fetcher())
                answer = await served.post(ask(tools=[BUILTIN]))
                assert answer.status == 200
                last = bodies(upstream)[-1]["messages"][-1]
                assert "Deimos is the smaller one." in told(last)["results"][0]["text"]
                seen = len(it.seen)
                _, served.key = await served.app.keys.create(
                    account="default", name="z", zero_retention=True
                )
                answer = await served.post(ask(tools=[BUILTIN]))
                assert answer.status == 200
                last = bodies(upstream)[-1]["messages"][-1]
                assert told(last)["results"][0]["text"] == "snippet"
                assert len(it.seen) == seen
