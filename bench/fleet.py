"""Upstreams in virtual time: each batches a bounded number of requests and keeps a prefix cache.

The cache is a radix tree of blocks under LRU, leaves first, as engines keep it. Prompts here are
one system prompt and one conversation, so the tree has two levels: a trunk for each system prompt
and a branch for each conversation. Every request reads its trunk and branch from the root on, so
within either a later block is never fresher than an earlier one, and the tree is told by how many
blocks of each trunk and branch are held, in the order of their last use.
"""

from collections import OrderedDict, deque
from dataclasses import dataclass, field

from conversations import DECODE_PER_S, PREFILL_PER_S, Conversation

BLOCK = 16
"""Tokens of a block: what is cached is cached in whole blocks."""


class PrefixCache:
    """A prefix cache of ``capacity`` blocks; None is without bound."""

    def __init__(self, capacity: int | None) -> None:
        self.capacity = capacity
        self.size = 0
        self._held: OrderedDict[tuple[str, int], int] = OrderedDict()

    def blocks(self, key: tuple[str, int]) -> int:
        """How many blocks of a trunk or branch are held."""
        return self._held.get(key, 0)

    def match(self, trunk: tuple[str, int], blocks: int, branch: tuple[str, int], of: int) -> int:
        """Blocks of a prompt of ``of`` blocks that are held, of which ``blocks`` are its trunk's.

        What is found has been used just now.
        """
        held = self._held
        found = held.get(trunk, 0)
        more = held.get(branch, 0)
        if more:
            held.move_to_end(branch)
        if found:
            held.move_to_end(trunk)
        if found < blocks:
            return min(found, of)
        return min(blocks + more, of)

    def insert(self, trunk: tuple[str, int], blocks: int, branch: tuple[str, int], of: int) -> None:
        """Hold ``of`` blocks of a prompt; the least recently used make room, last blocks first."""
        held = self._held
        mine = max(of - blocks, held.get(branch, 0))
        self.size += mine - held.get(branch, 0)
        if mine:
            held[branch] = mine
            held.move_to_end(branch)
        first = min(blocks, of)
        self.size += max(first - held.get(trunk, 0), 0)
        held[trunk] = max(first, held.get(trunk, 0))
        held.move_to_end(trunk)
        if self.capacity is not None:
            self._shrink(self.size - self.capacity)

    def _shrink(self, over: int) -> None:
        """Give ``over`` blocks back."""
        held = self._held
        while over > 0:
            key = next(iter(held))
            count = held[key]
            if count <= over:
                del held[key]
            else:
                held[key] = count - over
            self.size -= min(count, over)
            over -= count

    def clear(self) -> None:
        """Lose everything."""
        self._held.clear()
        self.size = 0


@dataclass(slots=True, eq=False)
class Visit:
    """One request: a turn of a conversation with all that was said before it."""

    talk: Conversation
    turn: int
    history: int
    """Tokens of the conversation before this turn, without the system prompt."""
    asked_s: float = 0.0
    attempt: int = 0
    ideal: int = 0
    """Tokens that one cache without bounds would have had."""
    trunk: tuple[str, int] = field(init=False)
    branch: tuple[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self.trunk = ("system", self.talk.system)
        self.branch = ("talk", self.talk.id)

    @property
    def prompt(self) -> int:
        """Tokens of the prompt."""
        return self.talk.system_tokens + self.history + self.talk.turns[self.turn].new

    @property
    def answer(self) -> int:
        """Tokens of the answer."""
        return self.talk.turns[self.turn].answer


class Upstream:
    """A server of ``slots`` requests at once with a cache; the others wait their turn.

    A request takes its slot for the prefill of what is not cached and for the decoding of its
    answer. Its prompt is cached once computed, its answer when it ends.
    """

    def __init__(self, name: str, slots: int, capacity_blocks: int | None) -> None:
        self.name = name
        self.slots = slots
        self.cache = PrefixCache(capacity_blocks)
        self.running: set[Visit] = set()
        self.waiting: deque[Visit] = deque()
        self.served = 0
        self.busy_s = 0.0
        """Seconds of slots taken, up to the last change."""
        self._changed_s = 0.0

    @property
    def outstanding(self) -> int:
        """Requests that were sent and are not answered: what a router can know of the load."""
        return len(self.running) + len(self.waiting)

    def settle(self, now_s: float) -> None:
        """Add up the time of the slots until now."""
        self.busy_s += len(self.running) * (now_s - self._changed_s)
        self._changed_s = now_s

    def start(self, visit: Visit, now_s: float) -> tuple[int, float, float]:
        """Give ``visit`` a slot: tokens cached, and when the prompt and the answer are done."""
        self.settle(now_s)
        self.running.add(visit)
        prompt = visit.prompt
        trunk = visit.talk.system_tokens // BLOCK
        cached = BLOCK * self.cache.match(visit.trunk, trunk, visit.branch, (prompt - 1) // BLOCK)
        prefilled_s = now_s + (prompt - cached) / PREFILL_PER_S
        return cached, prefilled_s, prefilled_s + visit.answer / DECODE_PER_S

    def keep(self, visit: Visit, tokens: int) -> None:
        """Cache the first ``tokens`` of what was said."""
        trunk = visit.talk.system_tokens // BLOCK
        self.cache.insert(visit.trunk, trunk, visit.branch, tokens // BLOCK)

    def end(self, visit: Visit, now_s: float) -> None:
        """Take the slot back."""
        self.settle(now_s)
        self.running.discard(visit)
        self.served += 1

    def crash(self, now_s: float) -> list[Visit]:
        """Lose the cache and every request; these were lost."""
        self.settle(now_s)
        lost = [*self.running, *self.waiting]
        self.running.clear()
        self.waiting.clear()
        self.cache.clear()
        return sorted(lost, key=lambda visit: visit.talk.id)
