"""Moongate's own routing, as the gateway drives it: the product's code, in virtual time.

What a request begins with, who holds it, how busy everybody is and where it goes is the code of
``moongate.route``. One thing is played: a conversation's digests. The product hashes the text of a
whole prompt each time; here each conversation keeps its running hash and adds labels in the place
of new text, with the boundaries where the product sets them (``tests/test_bench_affinity.py``
compares the two).
"""

import time
from dataclasses import dataclass, field
from hashlib import blake2b

from conversations import Conversation
from fleet import Upstream, Visit
from moongate.core.ports import ManualClock
from moongate.route.affinity import Affinity
from moongate.route.choice import LIMITS, Limits, Place, choose
from moongate.route.loads import Berth, Loads
from moongate.route.prefix import BLOCK, Mark, Prefix

CHARS_PER_TOKEN = 4
MODEL = "kimi-k2.5"


@dataclass
class Transcript:
    """What was said in one conversation so far, as digests and sizes in characters."""

    talk: Conversation
    marks: list[Mark] = field(default_factory=list)
    size: int = len(MODEL) + 2
    told: int = 0
    """Turns whose new message is in."""

    def __post_init__(self) -> None:
        self._hash = blake2b(f"{self.talk.tenant}".encode(), digest_size=16)
        self._message("system", f"system {self.talk.system}", self.talk.system_tokens)
        self.root = len(self.marks) - 1

    def upto(self, turn: int) -> list[Mark]:
        """The boundaries of the prompt of ``turn``; turns come in order."""
        while self.told <= turn:
            at = self.told
            if at:
                self._message("assistant", "answer", self.talk.turns[at - 1].answer)
            self._message("user", f"{self.talk.id} {at}", self.talk.turns[at].new)
            self.told += 1
        return self.marks

    def _message(self, role: str, label: str, tokens: int) -> None:
        self.size += len(role) + 2
        self._hash.update(label.encode())
        for _ in range(tokens * CHARS_PER_TOKEN // BLOCK):
            self._hash.update(b"block")
            self.size += BLOCK
            self.marks.append((self._hash.copy().digest(), self.size))
        self._hash.update(b"end")
        self.size += tokens * CHARS_PER_TOKEN % BLOCK + 1
        self.marks.append((self._hash.copy().digest(), self.size))


class Ours:
    """Moongate's policy; ``spent_s`` is the real time that its decisions took."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self._clock = ManualClock()
        self.affinity = Affinity(self._clock)
        self._loads = Loads(self._clock)
        self._limits = limits
        self._transcripts: dict[int, Transcript] = {}
        self._open: dict[Visit, tuple[Prefix, Berth]] = {}
        self.spent_s = 0.0
        self.decisions = 0

    def choose(self, visit: Visit, live: dict[str, Upstream], now_s: float) -> str:
        talk = visit.talk
        script = self._transcripts.get(talk.id)
        if script is None:
            script = self._transcripts[talk.id] = Transcript(talk)
        marks = script.upto(visit.turn)
        if visit in self._open:  # it broke
            self._open.pop(visit)[1].leave()
        began_s = time.perf_counter()
        self._clock.advance(now_s - self._clock.monotonic_s())
        prefix = Prefix.of(f"t{talk.tenant}", marks, script.root, script.root + 1)
        loads = [(name, self._loads.load(name)) for name in live]
        places = [Place(name, running=load.running, work=load.work) for name, load in loads]
        breadth = self._loads.breadth(prefix.tenant, len(places))
        known = self.affinity.known(prefix)
        first = choose(places, prefix, known, breadth, self._limits)[0]
        berth = self._loads.take(first.place, prefix.tenant, prefix.size, first.matched)
        self.spent_s += time.perf_counter() - began_s
        self.decisions += 1
        self._open[visit] = prefix, berth
        return first.place

    def answered(self, visit: Visit, name: str, _cached: int, now_s: float) -> None:
        """The gateway remembers who has answered, and lets go of the place."""
        self._clock.advance(now_s - self._clock.monotonic_s())
        prefix, berth = self._open.pop(visit)
        self.affinity.remember(prefix, name)
        berth.leave()
        if visit.turn + 1 == len(visit.talk.turns):
            del self._transcripts[visit.talk.id]

    def left(self, name: str) -> None:
        """Nothing is told: a place that is not among the places is not chosen."""
