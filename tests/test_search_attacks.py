"""Results that want to be obeyed: they stay quoted, and no tool of ours does harm."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moongate.search import quoting
from moongate.search.results import Result, clean, is_web
from moongate.upstream.prompts import rounds
from moongate.upstream.scripted import ScriptedServer
from search_attacks import ATTACKS, URLS
from search_kit import BUILTIN, Page, bodies, call, config, engine
from serving_kit import ask, serve

HARD = [*ATTACKS.values()]


def quoted(*texts: str, room: int = 24_000) -> str:
    found = [Result(text, f"https://example.org/{at}", text, text) for at, text in enumerate(texts)]
    return quoting.quote(clean(found, 20), 1, room)[0]


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_stays_inside_its_string(name: str) -> None:
    whole = quoted("Mars has two moons.", ATTACKS[name])
    read = json.loads(whole)
    assert list(read) == ["notice", "results"]
    assert read["notice"] == quoting.NOTICE
    assert [list(one) for one in read["results"]] == [
        ["id", "title", "url", "published", "text"]
    ] * 2
    assert all(type(v) in (str, int) for one in read["results"] for v in one.values())
    assert "<|" not in whole
    assert "|>" not in whole
    assert whole.isprintable() or "\n" not in whole.replace("\\n", "")
    assert not any(sign in whole for sign in "\u200b\u2060\u202e\x1b\x00\U000e0049")
    assert len(whole.encode()) <= 24_000


@given(
    st.lists(st.text() | st.sampled_from(HARD), min_size=1, max_size=8), st.integers(500, 30_000)
)
def test_any_text_is_quoted_within_its_room(texts: list[str], room: int) -> None:
    whole = quoted(*texts, room=room)
    read = json.loads(whole)
    assert list(read) == ["notice", "results"]
    assert len(whole.encode()) <= room
    assert [source.id for source in quoting.sources_in(whole)] == [
        one["id"] for one in read["results"]
    ]


@pytest.mark.parametrize("url", URLS)
def test_only_addresses_of_the_web_are_shown(url: str) -> None:
    assert is_web(url) is URLS[url]
    assert [one.url for one in clean([Result("t", url, "x")], 5)] == ([url] if URLS[url] else [])


async def test_an_obedient_model_still_only_searches(tmp_path: Path) -> None:
    """The worst that a model can do that obeys: ask for another search, three times, no more."""
    pages = tuple(
        Page(text, f"https://example.org/{at}", text) for at, text in enumerate(ATTACKS.values())
        if "\ud800" not in text
    )  # fmt: skip
    script = "".join(f"{call(f'sk-secret {n}')}---\n" for n in range(5))
    async with (
        engine(pages=lambda query: pages) as web,
        ScriptedServer(rounds(script + "text Done.")) as upstream,
        serve(tmp_path, config(upstream.base_url, web.url)) as served,
    ):
        answer = await served.post(ask(tools=[BUILTIN]))
        assert answer.status == 200
        assert len(web.asked) == 3
        for body in bodies(upstream):
            assert [tool["function"]["name"] for tool in body["tools"]] == ["web_search"]
            roles = [message["role"] for message in body["messages"]]
            assert set(roles) <= {"user", "assistant", "tool"}
            for message in body["messages"]:
                if message["role"] == "tool":
                    assert {"notice", "results"} <= json.loads(message["content"]).keys()
