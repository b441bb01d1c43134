"""The gate: who gets in, what is taken and given back, and what the headers say."""

import asyncio
from contextlib import ExitStack
from typing import Any

import pytest

from moongate.access.bodies import Bodies
from moongate.access.codes import mint
from moongate.access.counter import LocalCounter
from moongate.access.keys import Keys, Principal
from moongate.access.limits import Lease, Limits, RateLimited, duration
from moongate.core.errors import Refused
from moongate.core.ports import ManualClock
from moongate.core.rates import Answer, Ask
from moongate.core.rows import NO_QUOTA, KeyRow, Quota


def gate(**more: Any) -> tuple[ManualClock, Limits]:
    clock = ManualClock()
    return clock, Limits(LocalCounter(clock), **more)


def who(key: str = "key_1", quota: Quota = NO_QUOTA, account: Quota = NO_QUOTA) -> Principal:
    return Principal(key, "acc", quota=quota, account_quota=account)


async def test_a_full_process_sends_the_next_request_away_and_counts_nothing() -> None:
    _, limits = gate(requests_max=1)
    with limits.enter(who()):
        with pytest.raises(Refused) as caught, limits.enter(who()):
            pass
        assert (caught.value.status, caught.value.code) == (503, "overloaded")
        assert caught.value.headers()["retry-after"] == "1"
        assert not await limits.idle(0.01)
    assert await limits.idle(0.01)
    with limits.enter(who()):
        assert limits.running == 1


@pytest.mark.parametrize(("quota", "most"), [(NO_QUOTA, 200), (Quota(concurrency=3), 6)])
async def test_a_key_whose_bodies_come_slowly_takes_twice_its_answers_of_the_places(
    quota: Quota, most: int
) -> None:
    _, limits = gate()
    with ExitStack() as inside:
        first = inside.enter_context(ExitStack())
        first.enter_context(limits.enter(who(quota=quota)))
        for _ in range(most - 1):
            inside.enter_context(limits.enter(who(quota=quota)))
        with pytest.raises(RateLimited) as caught, limits.enter(who(quota=quota)):
            pass
        assert (caught.value.status, caught.value.headers()["retry-after"]) == (429, "1")
        inside.enter_context(limits.enter(who("key_2", quota)))
        first.close()
        inside.enter_context(limits.enter(who(quota=quota)))
        assert limits.running == most + 1
    assert limits.running == 0
    with limits.enter(who(quota=quota)):
        assert limits.running == 1


async def test_bytes_in_flight_are_bounded_and_given_back_in_the_end() -> None:
    _, limits = gate(bodies=Bodies(100, wait_s=0))
    with limits.enter(who()) as first, limits.enter(who()) as second:
        await first.bytes(30)
        await first.bytes(30)
        await second.bytes(40)
        with pytest.raises(Refused, match="overloaded"):
            await second.bytes(1)
    assert limits.bodies.size == 0
    with limits.enter(who()) as lease:
        await lease.bytes(100)


async def test_the_answer_beyond_a_hundred_of_a_key_waits_and_another_keys_does_not() -> None:
    _, limits = gate()
    leases = [Lease(limits, who()) for _ in range(101)]
    for number, lease in enumerate(leases[:100]):
        await lease.admit(f"req_{number}", 0)
    with pytest.raises(Refused) as caught:
        await leases[100].admit("req_100", 0)
    assert caught.value.status == 429
    assert caught.value.message == "Rate limit reached for concurrent requests."
    await Lease(limits, who("key_2")).admit("req_101", 0)
    await leases[0].close()
    await leases[100].admit("req_100", 0)


async def test_a_key_may_have_more_places_than_others_and_its_account_bounds_them() -> None:
    _, limits = gate()
    principal = who(quota=Quota(concurrency=200), account=Quota(concurrency=160))
    for number in range(160):
        await Lease(limits, principal).admit(f"req_{number}", 0)
    with pytest.raises(Refused, match="rate_limit_exceeded"):
        await Lease(limits, principal).admit("req_160", 0)


async def test_a_visit_that_breaks_off_gives_its_place_back_and_keeps_its_debit() -> None:
    _, limits = gate()
    principal = who(quota=Quota(concurrency=1, tpm=100))

    async def visit() -> None:
        with limits.enter(principal) as lease:
            await lease.admit("req_1", 60)
            await asyncio.sleep(60)

    task = asyncio.create_task(visit())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await limits.close()
    assert not limits.leases
    with pytest.raises(Refused) as caught:
        await Lease(limits, principal).admit("req_2", 41)
    assert "tokens per minute" in caught.value.message
    await Lease(limits, principal).admit("req_2", 40)


class Slow:
    """A counter that answers when told; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Ask] = []
        self.go = asyncio.Event()

    async def start(self) -> None: ...
    async def close(self) -> None: ...
    async def ask(self, ask: Ask) -> Answer:
        self.asked.append(ask)
        await self.go.wait()
        return Answer(tuple(0 for _ in ask.rates), tuple(rate.limit for rate in ask.rates))


async def test_a_client_that_leaves_while_it_is_counted_leaves_no_place_behind() -> None:
    counter = Slow()
    limits = Limits(counter)

    async def visit() -> None:
        with limits.enter(who()) as lease:
            await lease.admit("req_1", 0)

    task = asyncio.create_task(visit())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    counter.go.set()
    await limits.close()
    assert [(ask.kind, ask.ids) for ask in counter.asked] == [
        ("take", ("req_1",)),
        ("drop", ("req_1",)),
    ]


async def test_a_cancelled_close_is_carried_out_all_the_same() -> None:
    counter = Slow()
    counter.go.set()
    limits = Limits(counter)
    lease = Lease(limits, who())
    await lease.admit("req_1", 0)
    counter.go.clear()
    task = asyncio.create_task(lease.close(0))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    counter.go.set()
    await limits.close()
    assert [ask.kind for ask in counter.asked] == ["take", "drop"]
    await lease.close(0)
    assert len(counter.asked) == 2, "a second close gave back again"


async def test_a_second_take_is_of_the_same_request_and_takes_no_second_place() -> None:
    asked: list[Ask] = []

    class Noted(LocalCounter):
        async def ask(self, ask: Ask) -> Answer:
            asked.append(ask)
            return await super().ask(ask)

    limits = Limits(Noted(ManualClock()))
    quota = Quota(rpm=2, tpm=100, concurrency=1)
    with limits.enter(who(quota=quota)) as lease:
        await lease.admit("req_1", 0)
        await lease.admit("req_1", 60)
        assert lease.headers()["x-ratelimit-remaining-requests"] == "1"
        assert lease.headers()["x-ratelimit-remaining-tokens"] == "40"
        await lease.close(10)
    assert [(ask.kind, ask.ids, len(ask.rooms)) for ask in asked] == [
        ("take", ("req_1",), 1),
        ("take", ("req_1",), 0),
        ("drop", ("req_1",), 1),
    ]
    with limits.enter(who(quota=quota)) as lease:
        await lease.admit("req_2", 90)


async def test_what_was_taken_is_trued_up_to_what_was_used() -> None:
    clock, limits = gate()
    principal = who(quota=Quota(tpm=1000), account=Quota(tpm=500))
    lease = Lease(limits, principal)
    await lease.admit("req_1", 800)  # the account takes its whole minute's worth, 500
    await lease.debit(100)
    await lease.close(350)
    second = Lease(limits, principal)
    await second.admit("req_2", 0)
    assert second.headers()["x-ratelimit-remaining-tokens"] == "150"
    assert second.headers()["x-ratelimit-limit-tokens"] == "500"
    clock.advance(42)
    third = Lease(limits, principal)
    await third.admit("req_3", 500)
    await third.close(1250)  # more than was taken: owed, and later requests wait
    with pytest.raises(RateLimited) as caught:
        await Lease(limits, principal).admit("req_4", 1)
    assert caught.value.retry_after_s == pytest.approx(60.12)


async def test_headers_tell_the_tighter_of_key_and_account_on_success_and_refusal() -> None:
    clock, limits = gate()
    principal = who(quota=Quota(rpm=60, tpm=6000), account=Quota(rpm=10))
    lease = Lease(limits, principal)
    assert lease.headers() == {}
    await lease.admit("req_0", 1500)
    assert lease.headers() == {
        "x-ratelimit-limit-requests": "10",
        "x-ratelimit-remaining-requests": "9",
        "x-ratelimit-reset-requests": "6s",
        "x-ratelimit-limit-tokens": "6000",
        "x-ratelimit-remaining-tokens": "4500",
        "x-ratelimit-reset-tokens": "15s",
    }
    with pytest.raises(Refused) as caught:
        await Lease(limits, principal).admit("req_1", 5000)
    assert caught.value.headers() == {
        **lease.headers(),
        "retry-after": "5",
        "retry-after-ms": "5000",
    }
    clock.advance(5)
    await Lease(limits, principal).admit("req_1", 5000)


async def test_a_key_without_rates_gets_no_headers() -> None:
    _, limits = gate()
    lease = Lease(limits, who())
    await lease.admit("req_0", 10**9)
    assert lease.headers() == {}


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "0s"),
        (17, "17ms"),
        (1000, "1s"),
        (8640, "8.64s"),
        (60_000, "1m0s"),
        (86_400, "1m26.4s"),
        (360_000, "6m0s"),
        (7_261_001, "2h1m1.001s"),
    ],
)
def test_durations_are_spelt_as_openai_spells_them(ms: int, text: str) -> None:
    assert duration(ms) == text


async def test_renewal_keeps_every_place_with_one_step_for_each_key() -> None:
    counter = Slow()
    counter.go.set()
    limits = Limits(counter)
    for number in range(4):
        await Lease(limits, who(f"key_{number % 2}")).admit(f"req_{number}", 0)
    del counter.asked[:]
    await limits.renew()
    assert {(ask.kind, frozenset(ask.ids)) for ask in counter.asked} == {
        ("keep", frozenset({"req_0", "req_2"})),
        ("keep", frozenset({"req_1", "req_3"})),
    }


async def test_a_long_answer_keeps_its_place_beyond_its_lease() -> None:
    clock, limits = gate(lease_ms=30)
    principal = who(quota=Quota(concurrency=1))
    await Lease(limits, principal).admit("req_1", 0)
    run = asyncio.create_task(limits.run())
    for _ in range(4):
        clock.advance(20)
        await asyncio.sleep(0.03)
    with pytest.raises(Refused):
        await Lease(limits, principal).admit("req_2", 0)
    run.cancel()


async def test_an_identified_key_carries_its_rates_and_those_of_its_account() -> None:
    class OneKey:
        async def key_by_mac(self, mac: bytes) -> KeyRow:
            return KeyRow(
                "key_1", "acc", "n", mac, "last", 0, quota=Quota(rpm=3), account_quota=Quota(tpm=9)
            )

    keys = Keys(OneKey(), b"p" * 32, ManualClock())  # type: ignore[arg-type]  # one look is enough
    principal = await keys.identify(mint("mg-"))
    assert (principal.quota, principal.account_quota) == (Quota(rpm=3), Quota(tpm=9))
