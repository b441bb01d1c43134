"""Whole histories in virtual time, from a seed each: the books hold, and it plays as it was."""

import asyncio
import os
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from world_kit import World


def lived(seed: int, requests: int, folder: Path) -> World:
    folder.mkdir()
    world = World(seed, requests, folder)
    world.play()
    return world


def simulate(folder: Path, seeds: int, requests: int) -> None:
    first = int(os.environ.get("MOONGATE_TEST_SEED") or random.randrange(10**9))
    began, simulated_s, total = time.monotonic(), 0.0, Counter[str]()
    for seed in range(first, first + seeds):
        world = lived(seed, requests, folder / str(seed))
        assert list(world.complaints()) == [], f"seed {seed}"
        assert asyncio.run(world.store.audit()) == [], f"seed {seed}"
        simulated_s += world.loop.time()
        total.update(world.seen())
    print(
        f"seeds {first} to {first + seeds - 1}: {simulated_s / 3600:.1f} simulated hours in "
        f"{time.monotonic() - began:.1f} s: {dict(total)}"
    )
    outcomes = {"done", "client_left", "credit_stop", "upstream_error", "refused", "expired"}
    assert outcomes <= total.keys()
    assert {"200", "402", "409", "502", "503"} <= total.keys()
    assert total["broken"] > 0
    assert total["lives"] > seeds


@pytest.mark.parametrize(
    ("seeds", "requests"), [(20, 200), pytest.param(200, 2_000, marks=pytest.mark.full)]
)
def test_histories(tmp_path: Path, seeds: int, requests: int) -> None:
    simulate(tmp_path, seeds, requests)


def test_a_seed_plays_again_as_it_was(tmp_path: Path) -> None:
    seed = random.randrange(10**9)
    one, two, other = (
        lived(n, 150, tmp_path / name) for name, n in (("a", seed), ("b", seed), ("c", seed + 1))
    )
    assert len(one.events) > 150
    assert one.events == two.events, f"seed {seed}"
    assert one.digest == two.digest != other.digest
