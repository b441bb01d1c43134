"""The peers: how else one routes, each told what a router can know.

``CacheAware`` is the cache-aware policy of the SGLang router (SGLang Model Gateway), written anew
from its documentation, with the defaults that stand there.
"""

import random
from bisect import bisect
from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b

from fleet import Upstream, Visit

CHARS_PER_TOKEN = 4


class Fixed:
    """A policy that learns nothing from answers."""

    def answered(self, visit: Visit, name: str, cached: int, now_s: float) -> None:
        """Nothing is kept."""

    def left(self, name: str) -> None:
        """Nothing was kept."""


class Random(Fixed):
    """Any upstream."""

    def __init__(self, seed: int) -> None:
        self._dice = random.Random(seed)

    def choose(self, _visit: Visit, live: dict[str, Upstream], _now_s: float) -> str:
        return self._dice.choice(list(live))


class RoundRobin(Fixed):
    """Each in its turn."""

    def __init__(self) -> None:
        self._turn = 0

    def choose(self, _visit: Visit, live: dict[str, Upstream], _now_s: float) -> str:
        self._turn += 1
        return list(live)[self._turn % len(live)]


class ConsistentHash(Fixed):
    """The upstream whose place on a ring follows that of the request's key; 160 places each."""

    PLACES = 160

    def __init__(self, key: Callable[[Visit], str]) -> None:
        self._key = key
        self._names: tuple[str, ...] = ()
        self._ring: list[tuple[int, str]] = []

    def choose(self, visit: Visit, live: dict[str, Upstream], _now_s: float) -> str:
        names = tuple(live)
        if names != self._names:
            places = [(place(f"{n} {i}"), n) for n in names for i in range(self.PLACES)]
            self._names, self._ring = names, sorted(places)
        at = bisect(self._ring, (place(self._key(visit)), ""))
        return self._ring[at % len(self._ring)][1]


def place(text: str) -> int:
    """Where ``text`` stands on the ring."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest())


def first_message(visit: Visit) -> str:
    """The first message of the prompt, which is its system prompt."""
    return f"{visit.talk.tenant} {visit.talk.system}"


def first_words(visit: Visit) -> str:
    """The first message that is the user's own."""
    return f"{visit.talk.tenant} {visit.talk.id}"


class CacheAware:
    """The SGLang router's ``cache_aware``: the longest prefix in a tree of what it sent where.

    If the busiest upstream has more than 64 requests over the idlest and more than 1.5 times as
    many, the least loaded is taken. Else the one that was sent the longest prefix of this text, if
    that is more than 0.3 of it; else the least loaded. The tree of an upstream is cut down to
    67,108,864 characters every 120 seconds, the least recently used first. Source of all five
    figures: the table "Cache-Aware Policy Tuning" of docs/advanced_features/sgl_model_gateway.md in
    sgl-project/sglang; of the order of the steps: docs/concepts/routing/cache-aware.md in
    lightseekorg/smg, into which that router went. Where several hold the same longest prefix, the
    pages say nothing; here it is the least loaded of them, which is kind to it. The tree knows of
    no tenants, but no two tenants here share a text.
    """

    THRESHOLD = 0.3
    BALANCE_ABS = 64
    BALANCE_REL = 1.5
    EVICTION_S = 120
    TREE_CHARS = 67_108_864

    def __init__(self) -> None:
        self._trees: dict[str, OrderedDict[tuple[str, int], int]] = {}
        self._sizes: dict[str, int] = {}
        self._holders: dict[tuple[str, int], dict[str, int]] = {}
        self._next_s = 0.0

    def choose(self, visit: Visit, live: dict[str, Upstream], now_s: float) -> str:
        if now_s >= self._next_s:
            self._next_s = now_s + self.EVICTION_S
            self._evict()
        loads = {name: upstream.outstanding for name, upstream in live.items()}
        least, most = min(loads.values()), max(loads.values())
        name = ""
        if most - least <= self.BALANCE_ABS or most <= least * self.BALANCE_REL:
            name = self._match(visit, loads)
        name = name or min(loads, key=loads.__getitem__)
        self._insert(visit, name)
        return name

    def _match(self, visit: Visit, loads: dict[str, int]) -> str:
        """Who was sent the longest prefix, or "" where that is too short."""
        system = visit.talk.system_tokens
        held = {n: system + k for n, k in self._holders.get(visit.branch, {}).items() if n in loads}
        if not held:
            held = {n: k for n, k in self._holders.get(visit.trunk, {}).items() if n in loads}
        longest = max(held.values(), default=0)
        if longest <= self.THRESHOLD * visit.prompt:
            return ""
        return min((n for n in held if held[n] == longest), key=loads.__getitem__)

    def _insert(self, visit: Visit, name: str) -> None:
        tree = self._trees.setdefault(name, OrderedDict())
        system = visit.talk.system_tokens
        for key, tokens in ((visit.branch, visit.prompt - system), (visit.trunk, system)):
            self._sizes[name] = self._sizes.get(name, 0) + tokens - tree.get(key, 0)
            tree[key] = tokens
            tree.move_to_end(key)
            self._holders.setdefault(key, {})[name] = tokens

    def _evict(self) -> None:
        for name, tree in self._trees.items():
            while self._sizes[name] * CHARS_PER_TOKEN > self.TREE_CHARS:
                key, tokens = tree.popitem(last=False)
                self._sizes[name] -= tokens
                del self._holders[key][name]

    def answered(self, visit: Visit, name: str, cached: int, now_s: float) -> None:
        """It learns when it sends, not from answers."""

    def left(self, name: str) -> None:
        """What it sent to ``name`` is forgotten."""
        self._sizes.pop(name, None)
        for key in self._trees.pop(name, ()):
            del self._holders[key][name]
