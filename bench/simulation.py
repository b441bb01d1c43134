"""A fleet under one routing policy in virtual time, and what came of it.

The clock jumps from event to event. A client sends its next turn when the last was answered and it
has thought; a request that a crash broke is sent again a moment later. Everything is decided by the
conversations and the policy, so the same two give the same run.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from conversations import Conversation
from fleet import BLOCK, Upstream, Visit

WINDOW_S = 10
"""Cached shares are kept for windows of this length, to see how soon one recovers."""
LOAD_WINDOW_S = 300
"""Loads are compared over windows of this length as well as over the run."""
DOWN_S = 20
"""How long a restart takes."""
AGAIN_S = 0.2


class Policy(Protocol):
    """Where a request goes. It is told what a router can know, and no more."""

    def choose(self, visit: Visit, live: dict[str, Upstream], now_s: float) -> str:
        """The name of one of ``live``; of an upstream it may look at ``outstanding`` alone."""

    def answered(self, visit: Visit, name: str, cached: int, now_s: float) -> None:
        """``visit`` was answered by ``name``, which said that ``cached`` tokens were cached."""

    def left(self, name: str) -> None:
        """The operator took an upstream away for good."""


@dataclass(frozen=True, slots=True)
class Change:
    """Something that happens to the fleet: ``add``, ``remove`` or ``restart``."""

    at_s: float
    kind: str
    name: str


@dataclass
class Result:
    """What a run showed. Tokens are tokens of prompts."""

    prompt: int = 0
    cached: int = 0
    ideal: int = 0
    """What one cache without bounds, shared by all but not between tenants, would have had."""
    missing: Counter[str] = field(default_factory=Counter)
    """Tokens short of ``ideal``, by why."""
    windows: dict[int, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0, 0]))
    """Window number to prompt, cached and ideal tokens of the requests that began in it."""
    first_token_s: list[float] = field(default_factory=list)
    loads: list[tuple[float, dict[str, tuple[float, int]]]] = field(default_factory=list)
    """At each mark in time, upstream to seconds of slots taken and requests served so far."""
    visits: list[tuple[float, int, int, int, int]] = field(default_factory=list)
    """Where wanted: time, conversation, blocks by its end, system prompt, blocks of that."""


class Simulation:
    """One run. ``slots`` and ``capacity_blocks`` are of one upstream."""

    def __init__(
        self,
        talks: Sequence[Conversation],
        upstreams: int,
        slots: int,
        capacity_blocks: int | None,
        policy: Policy,
        changes: Sequence[Change] = (),
        *,
        traced: bool = False,
    ) -> None:
        self.talks = talks
        self.policy = policy
        self.result = Result()
        self.now_s = 0.0
        self._make = lambda name: Upstream(name, slots, capacity_blocks)
        self.all = {f"u{n}": self._make(f"u{n}") for n in range(upstreams)}
        self.live = dict(self.all)
        self._events: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._count = 0
        self._seen: set[int] = set()
        self._where: dict[int, tuple[str, int]] = {}
        self._crashes: Counter[str] = Counter()
        self._traced = traced
        self._left = sum(len(talk.turns) for talk in talks)
        for talk in talks:
            self._at(talk.start_s, self._ask, Visit(talk, 0, 0))
        for change in changes:
            self._at(change.at_s, self._change, change)
        self._at(LOAD_WINDOW_S, self._mark, None)

    def run(self) -> Result:
        """Play until the last answer."""
        events = self._events
        while self._left:
            self.now_s, _, act, about = heapq.heappop(events)
            act(about)
        return self.result

    def _at(self, when_s: float, act: Callable[[Any], None], about: Any) -> None:
        self._count += 1
        heapq.heappush(self._events, (when_s, self._count, act, about))

    def _ask(self, visit: Visit) -> None:
        """A client sends a request: a new one, or again one that broke."""
        if not visit.attempt:
            visit.asked_s = self.now_s
            talk = visit.talk
            known = talk.system_tokens if visit.turn or talk.system in self._seen else 0
            self._seen.add(talk.system)
            blocks = min((known + visit.history) // BLOCK, (visit.prompt - 1) // BLOCK)
            visit.ideal = blocks * BLOCK
        name = self.policy.choose(visit, self.live, self.now_s)
        upstream = self.live[name]
        if len(upstream.running) < upstream.slots:
            self._start(upstream, visit)
        else:
            upstream.waiting.append(visit)

    def _start(self, upstream: Upstream, visit: Visit) -> None:
        cached, prefilled_s, done_s = upstream.start(visit, self.now_s)
        self._count_tokens(upstream, visit, cached)
        self.result.first_token_s.append(prefilled_s - visit.asked_s)
        ticket = (upstream, visit, visit.attempt, cached)
        self._at(prefilled_s, self._prefilled, ticket)
        self._at(done_s, self._done, ticket)

    def _prefilled(self, ticket: tuple[Upstream, Visit, int, int]) -> None:
        upstream, visit, attempt, _ = ticket
        if visit.attempt == attempt:
            upstream.keep(visit, visit.prompt)

    def _done(self, ticket: tuple[Upstream, Visit, int, int]) -> None:
        upstream, visit, attempt, cached = ticket
        if visit.attempt != attempt:
            return
        upstream.keep(visit, visit.prompt + visit.answer)
        upstream.end(visit, self.now_s)
        self._left -= 1
        self.policy.answered(visit, upstream.name, cached, self.now_s)
        talk, turn = visit.talk, visit.talk.turns[visit.turn]
        if visit.turn + 1 < len(talk.turns):
            said = visit.history + turn.new + turn.answer
            self._at(self.now_s + turn.think_s, self._ask, Visit(talk, visit.turn + 1, said))
        if upstream.waiting:
            self._start(upstream, upstream.waiting.popleft())

    def _count_tokens(self, upstream: Upstream, visit: Visit, cached: int) -> None:
        result, talk, name = self.result, visit.talk, upstream.name
        prompt = visit.prompt
        result.prompt += prompt
        result.cached += cached
        result.ideal += visit.ideal
        window = result.windows[int(self.now_s // WINDOW_S)]
        window[0] += prompt
        window[1] += cached
        window[2] += visit.ideal
        before = self._where.get(talk.id)
        if cached < visit.ideal:
            if before is None:
                why = "system prompt not there"
            elif before[0] != name:
                why = "moved" if before[0] in self.live else "its upstream was gone"
            elif before[1] != self._crashes[name]:
                why = "its upstream had restarted"
            else:
                why = "evicted"
            result.missing[why] += visit.ideal - cached
        self._where[talk.id] = (name, self._crashes[name])
        if self._traced:
            trunk = talk.system_tokens // BLOCK
            own = (prompt + visit.answer) // BLOCK - trunk
            result.visits.append((self.now_s, talk.id, own, talk.system, trunk))

    def _change(self, change: Change) -> None:
        name = change.name
        if change.kind == "add":
            self.all[name] = self.live[name] = self._make(name)
        elif change.kind == "remove":
            del self.live[name]
            self.policy.left(name)
        else:
            upstream = self.live.pop(name)
            self._crashes[name] += 1
            for visit in upstream.crash(self.now_s):
                visit.attempt += 1
                self._at(self.now_s + AGAIN_S, self._ask, visit)
            self._at(self.now_s + DOWN_S, self._back, name)

    def _back(self, name: str) -> None:
        self.live[name] = self.all[name]

    def _mark(self, _: None) -> None:
        for upstream in self.all.values():
            upstream.settle(self.now_s)
        loads = {name: (u.busy_s, u.served) for name, u in self.all.items()}
        self.result.loads.append((self.now_s, loads))
        self._at(self.now_s + LOAD_WINDOW_S, self._mark, None)
