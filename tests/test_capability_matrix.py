"""Every feature on every kind of upstream: a cell works, or is refused for a stated reason."""

import contextlib
import importlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from capability_kit import KINDS, REASONS, Place, place_of
from capability_matrix import FEATURES, table


class Places:
    """One Moongate a kind, started when it is first wanted."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = contextlib.AsyncExitStack()
        self._places: dict[str, Place] = {}

    async def get(self, kind: str) -> Place:
        if kind not in self._places:
            folder = self._folder / kind
            folder.mkdir()
            self._places[kind] = await self._stack.enter_async_context(place_of(kind, folder))
        return self._places[kind]

    async def close(self) -> None:
        await self._stack.aclose()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def places(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Places]:
    made = Places(tmp_path_factory.mktemp("places"))
    yield made
    await made.close()


CELLS = [
    pytest.param(name, kind, id=f"{name}-{kind}", marks=[pytest.mark.engine] * (kind == "embedded"))
    for kind in KINDS
    for name in FEATURES
]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("name", "kind"), CELLS)
async def test_cell(name: str, kind: str, places: Places) -> None:
    await FEATURES[name].show(await places.get(kind))


def test_every_row_has_a_cell_of_every_kind() -> None:
    cells = {cell.id for cell in CELLS}
    assert cells == {f"{name}-{kind}" for name in FEATURES for kind in KINDS}
    for row in FEATURES.values():
        assert set(row.refused) <= set(KINDS)
        assert set(row.refused.values()) <= set(REASONS)
        assert not row.refused or row.body, f"{row.name}: what is refused is a request"
        for test in row.also:
            file, _, name = test.partition("::")
            assert hasattr(importlib.import_module(file.removesuffix(".py")), name), test


def test_every_reason_is_one_of_a_cell() -> None:
    given = {reason for row in FEATURES.values() for reason in row.refused.values()}
    assert given == set(REASONS)


def test_the_page_shows_every_cell() -> None:
    rows = [line for line in table() if line.startswith("| ") and "Shown by" not in line]
    assert len(rows) == len(FEATURES)
    for line, row in zip(rows, FEATURES.values(), strict=True):
        cells = line.split(" | ")[1:6]
        assert [cell != "works" for cell in cells] == [kind in row.refused for kind in KINDS]


@pytest.mark.last
def test_what_a_cell_names_has_run_and_passed(
    request: pytest.FixtureRequest, passed: set[str]
) -> None:
    """Of this run: cells and the other tests that they name. What was left out is printed."""
    named = {f"{Path(__file__).name}::test_cell[{cell.id}]" for cell in CELLS}
    named |= {test for row in FEATURES.values() for test in row.also}
    chosen = {item.nodeid for item in request.session.items}
    wanted = {id for id in chosen if _plain(id) in named or _plain(id).partition("[")[0] in named}
    assert wanted, "no cell was chosen"
    assert wanted - passed == set()
    found = {_plain(id) for id in chosen} | {_plain(id).partition("[")[0] for id in chosen}
    print("not in this run:", sorted(named - found))


def _plain(id: str) -> str:
    """A test's id without its folder."""
    path, mark, rest = id.partition("::")
    return Path(path).name + mark + rest
