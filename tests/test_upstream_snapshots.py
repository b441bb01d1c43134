"""Body for body, what each kind of upstream is sent for each feature of a request."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

import snapshot_kit
from capability_kit import KINDS, Place, place_of
from moongate.upstream.quirks import QUIRKS


@pytest_asyncio.fixture(
    scope="module",
    loop_scope="module",
    params=[
        pytest.param(kind, marks=[pytest.mark.engine] * (kind == "embedded")) for kind in KINDS
    ],
)
async def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Place]:
    async with place_of(request.param, tmp_path_factory.mktemp(request.param)) as made:
        yield made


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", snapshot_kit.features())
async def test_what_is_sent_is_the_snapshot(name: str, place: Place) -> None:
    snapshot = snapshot_kit.read(name)
    assert await snapshot_kit.taken(place, snapshot["asked"]) == snapshot["sent"][place.kind]


def test_every_kind_stands_in_every_snapshot() -> None:
    assert len(snapshot_kit.features()) >= 25
    for name in snapshot_kit.features():
        assert set(snapshot_kit.read(name)["sent"]) == set(KINDS), name


def test_each_kind_differs_somewhere_from_each_other() -> None:
    sent = [snapshot_kit.read(name)["sent"] for name in snapshot_kit.features()]
    for one in QUIRKS:
        for other in QUIRKS:
            if one < other:
                assert any(bodies[one] != bodies[other] for bodies in sent), (one, other)
