"""Where a request goes: one pure function over what is held where and how busy everybody is.

A conversation that is running stays where its cache is, and at its home rather than where it was a
guest, unless that place is loaded beyond both an absolute and a relative threshold, or cannot be
used; when that is over, it comes back. A new conversation goes by rendezvous hashing: its tools
and system messages order all places, the first few of which its organisation uses, and its own
first words choose among them; who is loaded beyond its share is passed over. So replicas that
know nothing of each other agree, and what is shared lives on as few places as its load needs.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Final, Literal

import msgspec

from moongate.route.affinity import Known
from moongate.route.prefix import Prefix

State = Literal["up", "full", "draining", "ejected"]
Reason = Literal["prefix", "key", "new", "spread", "next", "full", "draining", "ejected"]
BEHIND: Final[tuple[Literal["full", "draining", "ejected"], ...]] = ("full", "draining", "ejected")


class Place(msgspec.Struct, frozen=True):
    """A place that may answer. Lower tiers come first; ``weight`` is its share within one.

    ``running`` and ``work`` are its load (:mod:`moongate.route.loads`).
    """

    name: str
    tier: int = 0
    weight: float = 1.0
    state: State = "up"
    running: int = 0
    work: float = 0.0


class Limits(msgspec.Struct, frozen=True):
    """When a place counts as loaded: beyond its peers both by ``_abs`` and by ``_rel``.

    ``own``: for a conversation that it holds, in requests running beyond the mean of the others;
    ``new``: for another one, beyond the mean of all; ``work``: as well, in characters of recent
    work, where at least ``work_running`` requests run. A home is gone back to when it holds the
    share ``home_rel`` of the longest prefix held anywhere, or lacks ``home_abs`` of it.
    """

    own_abs: float = 16.0
    own_rel: float = 1.5
    new_abs: float = 8.0
    new_rel: float = 1.5
    work_abs: float = 4_096.0
    work_rel: float = 1.1
    work_running: int = 2
    home_abs: int = 4_096
    home_rel: float = 0.5


class Choice(msgspec.Struct, frozen=True):
    """A place to try, why it stands where it stands, and the characters that it may hold."""

    place: str
    reason: Reason
    matched: int = 0


LIMITS: Final = Limits()
_WORD: Final = (1 << 64) - 1


def choose(
    places: Sequence[Place],
    prefix: Prefix,
    known: Known,
    breadth: int = 1,
    limits: Limits = LIMITS,
) -> tuple[Choice, ...]:
    """Every one of ``places``, best first. ``breadth``: over how many a new conversation spreads.

    Places that cannot be used now stand behind all others.
    """
    up = [place for place in places if place.state == "up"]
    stays = _calm(up, limits)
    order: dict[str, Reason] = {}
    for name in _homes(known, stays, limits):
        order[name] = "next" if order else "prefix"
    for name in known.hinted:
        if name in stays:
            order.setdefault(name, "next" if order else "key")
    for at, (name, passed) in enumerate(_fresh(up, prefix, breadth, limits)):
        first: Reason = "spread" if passed else "new"
        order.setdefault(name, first if at == 0 and not order else "next")
    for state in BEHIND:
        for name in _behind(places, state, prefix, known):
            order[name] = state
    return tuple(Choice(name, why, known.sizes.get(name, 0)) for name, why in order.items())


def rendezvous(digest: bytes, places: Sequence[Place]) -> list[Place]:
    """``places`` in the order of ``digest``: each is first as often as its weight says.

    (Highest random weight, by Thaler and Ravishankar; the weights by the method of exponentials.)
    """
    key = int.from_bytes(digest[:8])
    if len({place.weight for place in places}) <= 1:
        return sorted(places, key=lambda place: _mixed(key ^ _station(place.name)), reverse=True)

    def score(place: Place) -> float:
        return -place.weight / math.log((_mixed(key ^ _station(place.name)) + 1) / (2**64 + 1))

    return sorted(places, key=score, reverse=True)


@lru_cache(maxsize=4096)
def _station(name: str) -> int:
    """A place's own 64 bits."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest())


def _mixed(bits: int) -> int:
    """64 bits, each of which hangs on all of ``bits``.

    (The finalizer of SplitMix64, by Steele, Lea and Flood. It hides nothing: the digest is keyed.)
    """
    bits = (bits ^ bits >> 30) * 0xBF58476D1CE4E5B9 & _WORD
    bits = (bits ^ bits >> 27) * 0x94D049BB133111EB & _WORD
    return bits ^ bits >> 31


def _calm(up: Sequence[Place], limits: Limits) -> set[str]:
    """The places that a conversation does not leave: not loaded beyond the mean of the others."""
    parts, running = sum(place.weight for place in up), sum(place.running for place in up)
    found = set()
    for place in up:
        others = parts - place.weight
        mean = (running - place.running) / others if others > 0 else math.inf
        if place.running <= _bar(mean, limits.own_abs, limits.own_rel) * place.weight:
            found.add(place.name)
    return found


def _homes(known: Known, usable: set[str], limits: Limits) -> list[str]:
    """Who holds this conversation, first its home where that holds enough of it."""
    found = [name for name in known.homes if name in usable]
    most = max((known.sizes[name] for name in found), default=0)
    least = min(most * limits.home_rel, most - limits.home_abs)
    near = [name for name in found if known.sizes[name] >= least]
    rest = [name for name in found if name not in near]
    return near + sorted(rest, key=lambda name: -known.sizes[name])


def _fresh(
    up: Sequence[Place], prefix: Prefix, breadth: int, limits: Limits
) -> list[tuple[str, bool]]:
    """Every place as a new conversation has it, and whether one before it was passed over."""
    light: list[tuple[str, bool]] = []
    heavy: list[Place] = []
    for tier in sorted({place.tier for place in up}):
        peers = [place for place in up if place.tier == tier]
        work = _bar(_mean([p.work for p in peers], peers), limits.work_abs, limits.work_rel)
        running = _bar(_mean([p.running for p in peers], peers), limits.new_abs, limits.new_rel)
        ordered = rendezvous(prefix.root, peers)
        if breadth > 1:
            ordered = rendezvous(prefix.anchor, ordered[:breadth]) + ordered[breadth:]
        passed = bool(heavy)
        for place in ordered:
            worked = place.running >= limits.work_running and place.work > work * place.weight
            if worked or place.running > running * place.weight:
                heavy.append(place)
                passed = True
            else:
                light.append((place.name, passed))
    heavy.sort(key=lambda place: (place.tier, place.running / place.weight, place.work))
    return light + [(place.name, True) for place in heavy]


def _behind(places: Sequence[Place], state: State, prefix: Prefix, known: Known) -> list[str]:
    """The places in ``state``: those that hold the most first."""
    found = [place for place in places if place.state == state]
    if len(found) > 1:
        found = rendezvous(prefix.anchor, found)
    found.sort(key=lambda place: (place.tier, -known.sizes.get(place.name, 0)))
    return [place.name for place in found]


def _mean(loads: Sequence[float], places: Sequence[Place]) -> float:
    """The load of each part of weight 1."""
    return sum(loads) / sum(place.weight for place in places) if places else 0.0


def _bar(mean: float, more: float, times: float) -> float:
    """What a load must be over to be both ``more`` above ``mean`` and ``times`` as much."""
    return max(mean + more, mean * times)
