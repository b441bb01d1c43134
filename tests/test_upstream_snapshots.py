"""Body for body, what each kind of upstream is sent for each feature of a request."""

import contextlib
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

import snapshot_kit
from capability_kit import Place, place_of
from moongate.upstream.quirks import QUIRKS


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def places(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, Place]]:
    async with contextlib.AsyncExitStack() as stack:
        yield {
            kind: await stack.enter_async_context(place_of(kind, tmp_path_factory.mktemp(kind)))
            for kind in snapshot_kit.HTTP_KINDS
        }


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", snapshot_kit.features())
async def test_what_is_sent_is_the_snapshot(name: str, places: dict[str, Place]) -> None:
    snapshot = snapshot_kit.read(name)
    for kind, place in places.items():
        assert await snapshot_kit.taken(place, snapshot["asked"]) == snapshot["sent"][kind], kind


def test_every_kind_stands_in_every_snapshot() -> None:
    assert len(snapshot_kit.features()) >= 25
    for name in snapshot_kit.features():
        assert set(snapshot_kit.read(name)["sent"]) == set(QUIRKS), name


def test_each_kind_differs_somewhere_from_each_other() -> None:
    sent = [snapshot_kit.read(name)["sent"] for name in snapshot_kit.features()]
    for one in QUIRKS:
        for other in QUIRKS:
            if one < other:
                assert any(bodies[one] != bodies[other] for bodies in sent), (one, other)
