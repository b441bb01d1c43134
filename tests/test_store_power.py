"""The power goes at any moment: whatever the disk kept, the books hold and no answer was a lie."""

import asyncio
import os
import random
import shutil
import time
from pathlib import Path

import pytest

from moongate.core.errors import ConfigurationError
from store_power_kit import Event, Recording, acknowledged, crash_image, faults, record

IMAGES_A_RECORDING = 50


def _seed() -> int:
    return int(os.environ.get("MOONGATE_TEST_SEED") or random.randrange(10**9))


def _look(
    recording: Recording, rng: random.Random, folder: Path, begin: int = 0
) -> tuple[list[str], int]:
    """The faults of one crash image, and how many settles were acknowledged before it."""
    cut = rng.randrange(begin, len(recording.events) + 1)
    folder.mkdir()
    try:
        crash_image(recording, cut, rng, folder)
        acks = acknowledged(recording, cut)
        try:
            found = asyncio.run(faults(folder, acks))
        except ConfigurationError as error:
            found = [f"cannot be opened: {error}"]
        return found, sum(what == "settled" for what, _ in acks.values())
    finally:
        shutil.rmtree(folder)


def _cut_power(folder: Path, images: int) -> None:
    seed = _seed()
    rng = random.Random(seed)
    began = time.monotonic()
    settles, checkpoints, wrong = 0, 0, []
    for n in range(0, images, IMAGES_A_RECORDING):
        (folder / f"r{n}").mkdir()
        recording = record(folder / f"r{n}", rng.randrange(10**9))
        checkpoints += sum(e.kind == "sync" and e.file == "moongate.db" for e in recording.events)
        for k in range(min(IMAGES_A_RECORDING, images - n)):
            found, acks = _look(recording, rng, folder / f"i{n}-{k}")
            settles += acks
            wrong += [f"recording {n} image {k}: {fault}" for fault in found]
    print(
        f"seed {seed}, {time.monotonic() - began:.1f} s: {images} crash images, {settles} settles "
        f"acknowledged before them, {checkpoints} checkpoints, {len(wrong)} faults"
    )
    assert wrong == [], f"seed {seed}"
    assert settles >= 20 * images
    assert checkpoints >= 3 * images // IMAGES_A_RECORDING


def test_200_crash_images(tmp_path: Path) -> None:
    _cut_power(tmp_path, 200)


@pytest.mark.full
def test_2_000_crash_images(tmp_path: Path) -> None:
    _cut_power(tmp_path, 2_000)


@pytest.mark.parametrize("synchronous", ["OFF", "NORMAL"])
def test_without_a_sync_at_each_commit_settles_are_lost(synchronous: str, tmp_path: Path) -> None:
    """That the check can fail: the same images of a store that answers before its sync."""
    seed = _seed()
    recording = record(tmp_path, seed, synchronous)
    rng = random.Random(seed)
    found: list[str] = []
    for k in range(40):
        found += _look(recording, rng, tmp_path / f"i{k}", len(recording.events) // 4)[0]
    lost = sum(fault.startswith("settle lost") for fault in found)
    print(f"synchronous={synchronous}: {lost} settles lost, {len(found)} faults in 40 images")
    assert lost > 0, f"seed {seed}"


def test_what_was_synced_is_in_every_image_and_what_was_not_may_be_torn(tmp_path: Path) -> None:
    """The disk that the images are made of: old, new, or a piece of each, never anything else."""
    old, new = b"a" * 4096, b"b" * 4096
    events = [
        Event("write", "f", 0, new),
        Event("sync", "f"),
        Event("write", "f", 2048, b"c" * 4096),
    ]
    seen = set()
    for seed in range(200):
        crash_image(Recording({"f": old}, events), 3, random.Random(seed), tmp_path)
        data = (tmp_path / "f").read_bytes()
        assert data[:2048] == new[:2048]
        sectors = [data[at : at + 512] for at in range(2048, len(data), 512)]
        assert all(len(set(sector)) == 1 for sector in sectors)
        seen.add("".join(chr(sector[0]) for sector in sectors))
    assert {"bbbb", "cccccccc"} <= seen
    assert len(seen) > 50
