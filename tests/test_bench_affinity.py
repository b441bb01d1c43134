"""The routing benchmark: caches are caches, it drives the product's code, and its bounds bite."""

import random
import sys
from pathlib import Path
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "bench"))

import affinity
import policies
from conversations import Conversation, Plan, Turn, draw
from fleet import BLOCK, PrefixCache, Upstream, Visit
from moongate.core.request import Message, Request
from moongate.route.prefix import prefix
from ours import CHARS_PER_TOKEN, MODEL, Ours, Transcript
from simulation import AGAIN_S, DOWN_S, Change, Result, Simulation

PLAN = Plan(conversations=200, tenants=20, slots=32)
SMALL = Plan(conversations=50, tenants=5, slots=8)
UPSTREAMS = 4


class PlainCache:
    """The same block by block: the least recently used goes first, leaves before their parents."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.used: dict[tuple, tuple[int, int]] = {}
        self.now = 0

    def path(self, system: int, blocks: int, talk: int, of: int):
        return [("s", system, at) if at < blocks else ("t", talk, at) for at in range(of)]

    def touch(self, path) -> None:
        self.now += 1
        for depth, block in enumerate(path):
            self.used[block] = (self.now, -depth)

    def match(self, path) -> int:
        found = next((at for at, block in enumerate(path) if block not in self.used), len(path))
        self.touch(path[:found])
        return found

    def insert(self, path) -> None:
        self.touch(path)
        while len(self.used) > self.capacity:
            del self.used[min(self.used, key=self.used.__getitem__)]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(20, 120))
def test_the_cache_is_that_of_a_block_by_block_radix_tree(seed: int, capacity: int) -> None:
    dice = random.Random(seed)
    ours, plain = PrefixCache(capacity), PlainCache(capacity)
    lengths = [0] * 9
    for _ in range(120):
        talk = dice.randrange(9)
        system, trunk = talk % 3, 2 + talk % 3 * 3
        grown = min(lengths[talk] + dice.randint(1, 3), 8)
        names = (("system", system), trunk, ("talk", talk))
        path = plain.path(system, trunk, talk, trunk + grown)
        assert ours.match(*names, trunk + grown) == plain.match(path)
        ours.insert(*names, trunk + grown)
        plain.insert(path)
        lengths[talk] = grown
        assert ours.size == len(plain.used) <= capacity


def run(policy, *changes: Change, plan: Plan = SMALL, capacity: int | None = 10_000) -> Result:
    slots = plan.slots // UPSTREAMS
    return Simulation(draw(plan, 5), UPSTREAMS, slots, capacity, policy, changes).run()


def test_ours_beats_random_and_round_robin() -> None:
    capacity = affinity.working_set(PLAN, 5)[0] // (2 * UPSTREAMS)
    ours = run(Ours(), plan=PLAN, capacity=capacity)
    assert ours.cached / ours.ideal > 0.9
    for other in (policies.Random(1), policies.RoundRobin()):
        told = run(other, plan=PLAN, capacity=capacity)
        assert told.ideal == ours.ideal  # asked the same
        assert told.cached / told.ideal < 0.6
        assert median(ours.first_token_s) < median(told.first_token_s) / 4


def test_without_bounds_and_alone_a_cache_has_all_that_can_be_had() -> None:
    alone = Simulation(draw(SMALL, 5), 1, 8, None, policies.RoundRobin()).run()
    assert 0.999 < alone.cached / alone.ideal <= 1
    assert sum(alone.missing.values()) == alone.ideal - alone.cached


def test_what_is_missing_is_told_apart() -> None:
    assert set(run(policies.RoundRobin(), capacity=None).missing) <= {
        "moved",
        "system prompt not there",
    }
    talks = draw(SMALL, 5)
    at_s = talks[35].start_s
    restarts = [Change(at_s + 60 * n, "restart", f"u{n}") for n in (0, 1, 3)]
    broken = run(Ours(), Change(at_s, "remove", "u2"), *restarts, capacity=None)
    assert {"its upstream had restarted", "its upstream was gone"} <= set(broken.missing)


def test_a_restart_breaks_requests_and_each_is_sent_again() -> None:
    talks = draw(SMALL, 5)
    at_s = talks[35].start_s
    asked: list[tuple[int, int, int, float]] = []

    class Watched(policies.RoundRobin):
        def choose(self, visit: Visit, live: dict[str, Upstream], now_s: float) -> str:
            asked.append((visit.talk.id, visit.turn, visit.attempt, now_s))
            down = at_s < now_s < at_s + DOWN_S
            assert ("u1" in live) != down
            return super().choose(visit, live, now_s)

    result = run(Watched(), Change(at_s, "restart", "u1"))
    again = [one for one in asked if one[2]]
    assert again
    assert {one[3] for one in again} == {at_s + AGAIN_S}
    assert len(asked) - len(again) == sum(len(talk.turns) for talk in talks)
    assert len(result.first_token_s) >= len(asked) - len(again)


def test_the_played_digests_have_the_products_boundaries() -> None:
    turns = [Turn(700, 1500, 1.0), Turn(9, 30, 1.0), Turn(2500, 80, 1.0), Turn(50, 50, 1.0)]
    talk = Conversation(1, 7, 3, 1800, 0.0, turns)
    script = Transcript(talk)

    def text(tokens: int) -> str:
        return "a" * (tokens * CHARS_PER_TOKEN)

    said = [Message("system", text(1800))]
    for at, turn in enumerate(turns):
        said.append(Message("user", text(turn.new)))
        real = prefix(b"s" * 32, "t7", Request(MODEL, tuple(said)))
        marks = script.upto(at)
        played = real.of("t7", marks, script.root, script.root + 1)
        assert played.lasting == real.lasting
        assert played.sizes == pytest.approx(real.sizes, abs=4 * len(said))
        assert played.digests.index(played.anchor) == real.digests.index(real.anchor)
        said.append(Message("assistant", text(turn.answer)))


def test_the_peer_moves_when_a_queue_is_64_longer_and_half_as_long_again() -> None:
    live = {name: Upstream(name, 8, None) for name in ("a", "b")}
    visit = Visit(draw(SMALL, 5)[0], 0, 0)
    peer = policies.CacheAware()
    home = peer.choose(visit, live, 0.0)
    live[home].waiting.extend([visit] * 64)
    assert peer.choose(visit, live, 1.0) == home
    live[home].waiting.append(visit)
    assert peer.choose(visit, live, 2.0) != home


def told(**more):
    good = {"policy": affinity.OWN, "upstreams": 4, "seed": 1, "share": 0.95}
    return {**good, "load": {"work": 1.2}, **more}


def test_each_bound_can_fail() -> None:
    assert affinity.failures([told(), told(recovery_s={"add": 0.0, "remove": 120.0})]) == []
    assert affinity.failures([told(policy="random", share=0.1)]) == []
    wrong = [
        told(share=0.949),
        told(load={"work": 1.21}),
        told(recovery_s={"restart": 130.0}),
    ]
    assert len(affinity.failures(wrong)) == 3


def test_recovery_is_the_end_of_the_last_low_half_minute() -> None:
    calm, result = Result(), Result()
    for window in range(200):
        calm.windows[window] = [100, 90, 100]
        result.windows[window] = [100, 50 if 100 <= window < 103 else 89, 100]
    change = Change(1000.0, "restart", "u1")
    assert affinity.recovery_s(result, calm, change, 900.0) == pytest.approx(50.0)
    assert affinity.recovery_s(result, calm, Change(300.0, "add", "u9"), 300.0) == 0.0


def test_the_working_set_is_more_than_what_lives() -> None:
    blocks, living = affinity.working_set(SMALL, 5)
    whole = sum(
        (talk.system_tokens + sum(t.new + t.answer for t in talk.turns)) // BLOCK
        for talk in draw(SMALL, 5)
    )
    assert 0 < living < blocks < whole
