"""Pages of results: readable text, nothing that is hidden, and no way to the inside."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web

from media_kit import Site, site
from moongate.media import beside
from moongate.media.fetch import Fetcher
from moongate.search import article, pages
from moongate.search.pages import Pages
from moongate.search.results import TEXT_CHARS_MAX, Result, plain
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


def readable(page: str) -> str:
    return "".join(article.read(page.encode()))


def test_the_readable_text() -> None:
    assert readable(HTML).splitlines() == ["Moons", WORDS.strip(), "Deimos is the smaller one."]


@pytest.mark.parametrize(
    "page",
    ["", "<", "<html>", "plain words", "<p>" * 5_000, "<div>" * 5_000 + "x", "\0<p>a</p>",
     "<table><tr><td>a", "<script>alert(1)", "<svg><p>a</p></svg>", "<template><p>a</p>"],
)  # fmt: skip
def test_odd_pages_are_read_all_the_same(page: str) -> None:
    assert "alert" not in readable(page)


def test_a_block_in_a_block_is_said_once() -> None:
    page = "<td>a<figcaption>b<h2>c</h2>d</figcaption><li>e<p>f</p></li></td>"
    assert readable(f"<table><tr>{page}").splitlines() == list("abcdef")
    assert readable("a<b>b</b><i>c").splitlines() == list("abc")


def test_the_longest_article_is_read_and_a_short_one_is_none() -> None:
    one, two = f"<article><p>{WORDS * 3}</article>", f"<main><p>{WORDS * 4}</main>"
    assert readable(f"<p>before</p>{one}{two}<p>after</p>") == (WORDS * 4).strip()
    assert readable("<p>before</p><article><p>short</article>") == "before\nshort"


def work(page: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """How many nodes are met in ``page``, and how many characters of text are taken up."""
    walk, say = article._walk, article._Article.say
    met, said = [], []

    def counted(top: object, hidden: set[int]) -> Iterator[object]:
        for step in walk(top, hidden):
            met.append(1)
            yield step

    def heard(self: article._Article, text: str) -> None:
        said.append(len(text))
        say(self, text)

    monkeypatch.setattr(article, "_walk", counted)
    monkeypatch.setattr(article._Article, "say", heard)
    readable(page)
    monkeypatch.undo()
    return len(met), sum(said)


@pytest.mark.parametrize("tag", ["figcaption", "td", "dd", "h1", "div", "span", "article"])
def test_no_depth_makes_a_walk_longer(tag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    few, many = (work(f"<{tag}>x" * deep, monkeypatch) for deep in (500, 2_000))
    assert many[0] <= 5 * few[0]
    assert many[1] <= 2 * 2_000


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


async def test_a_page_that_is_made_to_hurt_takes_its_time_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pages, "READ_S", 0.5)
    hurts = "<article>" * 200_000 + "x"  # its tree alone takes a minute
    async with site() as it:
        it.pages = {"/a": html(hurts), "/b": html(HTML)}
        reads = Pages(it.fetcher())
        async with asyncio.timeout(30):
            found = await reads([Result("t", it.url("/a"), "short")] * 3)
            assert [one.text for one in found] == ["short"] * 3
            monkeypatch.undo()
            (one,) = await reads([Result("t", it.url("/b"), "short")])
        assert "Deimos" in one.text


def test_white_space_takes_no_time() -> None:
    for sign in "\u00a0\u3000 \t\n":
        began_s = time.thread_time()
        assert plain("a" + sign * 64_000 + "b", 16_000) == "a"
        assert plain("a" + sign * 9 + "b", 99) == ("a\nb" if sign == "\n" else "a b")
        assert time.thread_time() - began_s < 1
    assert plain(" a \u00a0\n\u3000\n b\u00a0", 99) == "a\nb"


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


async def test_a_reader_that_nobody_hears_is_ended_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It writes more than a pipe holds when its time is over."""
    talks = tmp_path / "talks.py"
    talks.write_text("def read(data):\n    for _ in range(16):\n        yield 'x' * 1_000_000\n")
    code, text = await beside.read(str(talks), b"", 30)
    assert (code, len(text)) == (0, 16_000_000)

    async def deaf(child: asyncio.subprocess.Process, data: bytes) -> None:
        assert child.stdin is not None
        child.stdin.write(data)
        child.stdin.close()
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio.subprocess.Process, "communicate", deaf)
    async with asyncio.timeout(20):
        with pytest.raises(TimeoutError):
            await beside.read(str(talks), b"", 3)
