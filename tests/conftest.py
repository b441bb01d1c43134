"""Fixtures that several parts share."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from engine_kit import model_cache
from grammar_kit import watch
from live_kit import Live, running, short_folder
from moongate.core.ports import Store
from postgres_kit import database
from rates_kit import Timed, TimedLocal, TimedPostgres, TimedRedis
from redis_kit import RedisServer, redis_server
from store_kit import ENGINES, make_store, opened

PASSED = pytest.StashKey[set[str]]()
"""Ids of the tests that have passed in this run."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What looks back on the whole run comes last."""
    items.sort(key=lambda item: item.get_closest_marker("last") is not None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.when == "call" and report.passed:
        item.session.stash.setdefault(PASSED, set()).add(item.nodeid)
    return report


@pytest.fixture(autouse=True)
def grammar(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Each stream that ends in this process keeps the grammar, whatever the test is about."""
    complaints = watch(monkeypatch)
    yield complaints
    assert complaints == []


@pytest.fixture
def passed(request: pytest.FixtureRequest) -> set[str]:
    """Ids of the tests that have passed so far."""
    return request.session.stash.get(PASSED, set())


@pytest.fixture(scope="session")
def live_server() -> Iterator[Live]:
    """One real server on the embedded engine for the whole run: ``.url``, ``.key``, ``.home``."""
    with short_folder() as folder:
        home, models = folder / "home", model_cache() / "models"
        home.mkdir(mode=0o700)
        models.mkdir(parents=True, exist_ok=True)
        (home / "models").symlink_to(models)  # fetched once, not once a run
        with running(home) as live:
            yield live


@pytest.fixture(params=ENGINES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """An open store of each engine, whose books hold at the end."""
    async with opened(make_store(request.param, tmp_path)) as it:
        yield it
        assert await it.audit() == []


@pytest.fixture(scope="session")
def redis() -> Iterator[RedisServer]:
    """One Redis for the whole run: ``.url``. Tests tell theirs apart by account."""
    with redis_server() as server:
        yield server


COUNTERS = [
    "local",
    pytest.param("redis", marks=pytest.mark.redis),
    pytest.param("postgres", marks=pytest.mark.postgres),
]


@pytest.fixture(params=COUNTERS)
async def timed(request: pytest.FixtureRequest) -> AsyncIterator[Timed]:
    """Each counter of rates, with a time that the test moves and an account of its own."""
    made: Timed
    match request.param:
        case "local":
            made = TimedLocal()
        case "redis":
            made = TimedRedis(request.getfixturevalue("redis").url)
        case _:
            made = TimedPostgres(database())
    yield made
    await made.close()
