"""What `moongate doctor` says of the web search, and the one search that it makes on demand."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from moongate.cli import run
from moongate.cli.check import Check
from moongate.cli.search_checks import search_checks
from moongate.settings import Settings
from search_kit import FakeEngine, engine
from settings_kit import read

SEARXNG = """
[[upstreams]]
name = "gone"
kind = "openai"
base_url = "http://127.0.0.1:9/v1"
[search]
engine = "searxng"
base_url = "{url}"
data_policy = "self-hosted"
"""


@contextmanager
def running(trouble: str = "") -> Iterator[FakeEngine]:
    """An engine in a thread: a command has a loop of its own."""
    made: list[FakeEngine] = []
    ready, over = threading.Event(), threading.Event()

    async def live() -> None:
        async with engine(trouble=trouble) as fake:
            made.append(fake)
            ready.set()
            await asyncio.to_thread(over.wait)

    thread = threading.Thread(target=asyncio.run, args=(live(),))
    thread.start()
    try:
        assert ready.wait(10)
        yield made[0]
    finally:
        over.set()
        thread.join()


def doctor(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    url: str,
    *more: str,
    settings: str = SEARXNG,
) -> Any:
    file = tmp_path / "c.toml"
    file.write_text(settings.format(url=url))
    words = ["doctor", "--json", "--home", str(tmp_path / "h"), "--config", str(file), *more]
    run(words)
    (check,) = [
        one for one in json.loads(capsys.readouterr().out)["checks"] if one["name"] == "search"
    ]
    return check


def test_without_being_asked_it_searches_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running() as fake:
        check = doctor(tmp_path, capsys, fake.url)
        assert check["state"] == "ok"
        assert "searxng, data policy self-hosted" in check["detail"]
        assert fake.asked == []


@pytest.mark.parametrize(
    ("trouble", "state", "says"),
    [("", "ok", "2 results"), ("403", "broken", "formats"), ("empty", "broken", "finds nothing")],
)
def test_one_real_search(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], trouble: str, state: str, says: str
) -> None:
    with running(trouble) as fake:
        check = doctor(tmp_path, capsys, fake.url, "--search")
        assert (check["state"], len(fake.asked)) == (state, 1)
        assert says in check["detail"]


def test_no_package_no_search(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moongate.app.searches.find_spec", lambda name: None)
    check = doctor(tmp_path, capsys, "", settings=SEARXNG.partition("[search]")[0])
    assert check["state"] == "warning"
    assert "moongate[search]" in check["detail"]


@pytest.mark.parametrize(
    ("settings", "state", "says"),
    [
        ('kind = "openai"', "warning", "no model is served from one"),
        ('kind = "moonshot"', "ok", "maker searches"),
    ],
)
def test_the_maker_searches_where_it_serves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: str, state: str, says: str
) -> None:
    upstream = SEARXNG.partition("[search]")[0].replace('kind = "openai"', settings)
    check = doctor(tmp_path, capsys, "", settings=f'{upstream}[search]\nengine = "moonshot"\n')
    assert check["state"] == state
    assert says in check["detail"]


def test_the_agreement_behind_a_contract_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("K", "key")
    settings = SEARXNG.partition("[search]")[0] + (
        '[search]\nengine = "brave"\napi_key_env = "K"\ndata_policy = "contract"\n'
        '[search.agreement]\ntitle = "DPA"\neffective = "2026-03-01"\nstatements = ["s"]\n'
    )
    check = doctor(tmp_path, capsys, "", settings=settings)
    assert check["state"] == "ok"
    assert "brave, data policy contract: DPA, effective 2026-03-01" in check["detail"]


@pytest.mark.parametrize("require", ["none", "self-hosted"])
def test_an_engine_that_promises_too_little_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], require: str
) -> None:
    settings = SEARXNG.partition("[search]")[0].replace(
        'kind = "openai"', 'kind = "openai"\ndata_policy = "self-hosted"'
    )
    check = doctor(tmp_path, capsys, "", settings=f'{settings}[privacy]\nrequire = "{require}"\n')
    assert (check["state"] == "warning") == (require != "none")
    assert ("privacy.require" in check["detail"]) == (require != "none")


class Elsewhere:
    """The desk of a shell whose configuration is another than the server's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def settings(self, *, secrets: bool) -> Any:
        assert secrets
        return read(self.folder, SEARXNG.partition("[search]")[0])


def test_the_servers_engine_is_tried_and_no_other(tmp_path: Path) -> None:
    def tried(settings: Settings) -> Check:
        (check,) = search_checks(Elsewhere(tmp_path), settings, live=True)  # type: ignore[arg-type]  # half a desk
        return check

    with running() as fake:
        check = tried(read(tmp_path, SEARXNG.format(url=fake.url)))
        assert (check.state, check.detail.split(":")[0]) == ("ok", "searxng")
    table = '[search]\nengine = "tavily"\napi_key_env = "K"\n'
    check = tried(read(tmp_path, SEARXNG.partition("[search]")[0] + table, {"K": "k"}))
    assert check.state == "broken"
    assert "searches with tavily" in check.detail
    assert "names ddgs" in check.detail
