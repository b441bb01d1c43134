"""Four replicas that share one counter, minutes of demand in virtual time, every window looked at.

A tenth of the time by default, all of it with the heavy tier.
"""

import bisect
import random

import pytest

from moongate.access.keys import Principal
from moongate.access.limits import Lease, Limits
from moongate.core.errors import Refused
from moongate.core.rates import Answer, Ask, Counter
from moongate.core.rows import Quota
from rates_kit import MINUTE_MS, Timed

LENGTHS = [4, pytest.param(40, marks=pytest.mark.full)]


class Through:
    """The counter of ``timed`` as a gate sees it."""

    def __init__(self, timed: Timed) -> None:
        self.timed = timed

    async def start(self) -> None: ...
    async def close(self) -> None: ...
    async def ask(self, ask: Ask) -> Answer:
        return await self.timed.count(ask)


def four(timed: Timed) -> list[Limits]:
    counter: Counter = Through(timed)
    return [Limits(counter) for _ in range(4)]


def windows(log: list[tuple[int, int]], end_ms: int) -> tuple[int, int]:
    """(least, most) admitted in any 60 s window of ``log``: (time, amount) in order of time.

    The most is in a window that begins or ends at an admission; for the least, each second.
    """
    times = [at for at, _ in log]
    sums = [0]
    for _, amount in log:
        sums.append(sums[-1] + amount)

    def inside(start: int) -> int:
        first = bisect.bisect_left(times, start)
        return sums[bisect.bisect_right(times, start + MINUTE_MS)] - sums[first]

    most = max(inside(start) for at in times for start in (at, at - MINUTE_MS))
    return min(inside(start) for start in range(0, end_ms - MINUTE_MS, 1000)), most


@pytest.mark.parametrize("minutes", LENGTHS)
async def test_requests_admitted_in_any_window_are_the_limit_to_one_percent(
    timed: Timed, minutes: int
) -> None:
    """One key of 120 a minute, and its account of 300 that is never in the way."""
    gates, dice = four(timed), random.Random(minutes)
    principal = Principal("k", "acc", quota=Quota(rpm=120), account_quota=Quota(rpm=300))
    now, log, promised = 0, [], 0
    while now < minutes * MINUTE_MS:
        lease = Lease(dice.choice(gates), principal)
        try:
            await lease.admit(f"req_{now}", 0)
            assert now >= promised, "sooner than the refusal before said"
            log.append((now, 1))
            await lease.close()
        except Refused as error:
            promised = now + int(error.headers()["retry-after-ms"])
        assert promised <= now + 1000
        step = dice.choice([1, 3, 40, 130, 250])
        await timed.advance(step)
        now += step
    least, most = windows(log, now)
    assert most <= 120 + 120
    assert least >= 120 * 99 // 100


@pytest.mark.parametrize("minutes", LENGTHS)
async def test_tokens_admitted_in_any_window_are_the_limit_and_a_burst_at_most(
    timed: Timed, minutes: int
) -> None:
    """What was debited too much comes back: use is near the limit though bounds are twice it."""
    gates, dice = four(timed), random.Random(minutes)
    principal = Principal("k", "acc", quota=Quota(tpm=30_000))
    now, log = 0, []
    while now < minutes * MINUTE_MS:
        lease = Lease(dice.choice(gates), principal)
        used = dice.randint(50, 500)
        try:
            await lease.admit(f"req_{now}", 2 * used)
            await lease.close(used)
            log.append((now, used))
        except Refused:
            pass
        step = dice.choice([1, 40, 130, 250])
        await timed.advance(step)
        now += step
    least, most = windows(log, now)
    assert most <= 60_000
    assert least >= 30_000 * 95 // 100, "the largest bound of 1,000 keeps a little of it idle"


async def test_concurrency_is_never_exceeded_while_replicas_die(timed: Timed) -> None:
    gates, dice = four(timed), random.Random(4)
    principal = Principal("k", "acc", quota=Quota(concurrency=5))
    running: dict[Lease, int] = {}  # until when the counter must think of it as running
    now = admitted = 0
    for turn in range(2000):
        for lease, end in list(running.items()):
            if end <= now:
                del running[lease]
        lease = Lease(dice.choice(gates), principal)
        try:
            await lease.admit(f"req_{turn}", 0)
            admitted += 1
            running[lease] = now + 30_000
        except Refused:
            assert len(running) == 5, "a place was free"
        assert len(running) <= 5
        if running and dice.random() < 0.3:
            ended = dice.choice(list(running))
            if dice.random() < 0.8:  # else its process died: the place stays till its lease ends
                await ended.close()
                del running[ended]
        step = dice.randint(1, 800)
        await timed.advance(step)
        now += step
    assert admitted > 400
