"""Strangers do not meet in the prompt cache, by the clock and by the counts, and kin do.

Two organisations, three keys, the whole gateway over HTTP. The model has Kimi's architecture and
random weights: its prefill is quick, yet long enough to be told from a hit by the clock, which
the power check shows in the same run. An honest p > 0.01 fails once in a hundred times, hence a
second, fresh sample.
"""

import tempfile
from pathlib import Path

import pytest

from cache_audit_kit import ACROSS_P_MIN, WITHIN_P_MAX, Audit, Sample, audited


def complaints(sample: Sample) -> list[str]:
    """What the clock has against the cache, and against the audit itself."""
    across, within = sample.p("across"), sample.p("within")
    print(f"across organisations p = {across:.3g}, within one p = {within:.3g}")
    found = []
    if across <= ACROSS_P_MIN:
        found.append(f"a stranger's prompt can be told by the clock: p = {across:.3g}")
    if within >= WITHIN_P_MAX:
        found.append(f"not even one's own hit can be told by the clock: p = {within:.3g}")
    return found


async def audit(them: Audit, count: int) -> None:
    """Counts must be exact in every sample; the clock gets a second chance."""
    told: list[str] = []
    for _ in range(2):
        sample = await them.sample(count)
        assert set(sample.cached["across"]) == {0}
        assert set(sample.cached["miss"]) == {0}
        # What follows the shared part may begin alike by chance.
        assert min(sample.cached["within"]) >= them.shared
        assert max(sample.cached["within"]) < them.shared + 20
        told = complaints(sample)
        if not told:
            return
    raise AssertionError(told)


async def test_strangers_do_not_meet_in_the_cache() -> None:
    with tempfile.TemporaryDirectory(prefix="mg-") as folder:
        async with audited(Path(folder), 400, layers=6) as them:
            await audit(them, 40)


@pytest.mark.full
async def test_strangers_do_not_meet_in_the_cache_full_size() -> None:
    with tempfile.TemporaryDirectory(prefix="mg-") as folder:
        async with audited(Path(folder), 5_000, layers=2) as them:
            await audit(them, 250)
