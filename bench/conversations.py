"""Conversations for the routing benchmark: who talks, how much, and when.

Tenants follow Zipf's law, each has a few system prompts of its own, and nothing is shared between
tenants. A conversation is a system prompt and turns; each turn adds what is new (a user's words, a
tool's result) and the answer. Six in ten are agents, whose next turn comes within seconds; the rest
are people, who think for a minute and sometimes for twenty. Starts are a Poisson process. All of it
is drawn once from a seed, so that every policy is asked the same.
"""

import random
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

PREFILL_PER_S = 8_000
"""Prompt tokens a second that an upstream computes for one request."""
DECODE_PER_S = 40
"""Answer tokens a second of one request."""
AGENTS_IN_TEN = 6
THINK_MAX_S = 1200.0
"""The longest pause after which a conversation goes on."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What one turn adds, in tokens, and how long the client takes until the next one."""

    new: int
    answer: int
    think_s: float


@dataclass(frozen=True, slots=True)
class Conversation:
    """One conversation; ``system`` names its system prompt, which only its tenant has."""

    id: int
    tenant: int
    system: int
    system_tokens: int
    start_s: float
    turns: Sequence[Turn]


@dataclass(frozen=True, slots=True)
class Plan:
    """How many conversations of how many tenants, and how busy ``slots`` shall be with them."""

    conversations: int = 10_000
    tenants: int = 200
    prompts: int = 4
    """System prompts of a tenant at most; the first is used most."""
    slots: int = 512
    utilisation: float = 0.65
    """Share of the slots that is busy at full load where every prompt is cached."""


def draw(plan: Plan, seed: int) -> list[Conversation]:
    """The conversations of one seed, by their start."""
    dice = random.Random(seed)
    tenant_of = zipf(plan.tenants)
    prompt_of = zipf(plan.prompts)
    lengths = [
        [round(capped(dice, 1500, 0.7, 200, 12_000)) for _ in range(plan.prompts)]
        for _ in range(plan.tenants)
    ]
    dialogues = [dialogue(dice) for _ in range(plan.conversations)]
    busy_s = sum(t.new / PREFILL_PER_S + t.answer / DECODE_PER_S for d in dialogues for t in d)
    gap_s = busy_s / (plan.utilisation * plan.slots) / plan.conversations
    found = []
    now_s = 0.0
    for id, turns in enumerate(dialogues):
        now_s += dice.expovariate(1 / gap_s)
        tenant = bisect_right(tenant_of, dice.random())
        prompt = bisect_right(prompt_of, dice.random())
        tokens = lengths[tenant][prompt]
        found.append(
            Conversation(id, tenant, tenant * plan.prompts + prompt, tokens, now_s, turns)
        )  # fmt: skip
    return found


def dialogue(dice: random.Random) -> list[Turn]:
    """5 to 50 turns of an agent or of a person."""
    agent = dice.randrange(10) < AGENTS_IN_TEN
    turns = []
    for _ in range(dice.randint(5, 50)):
        think_s = dice.expovariate(1 / 6) if agent else capped(dice, 40, 1.0, 2, THINK_MAX_S)
        new = round(capped(dice, 120, 1.0, 8, 8000))
        turns.append(Turn(new, round(capped(dice, 150, 0.8, 4, 2000)), think_s))
    return turns


def capped(dice: random.Random, middle: float, sigma: float, low: float, high: float) -> float:
    """A draw of a lognormal distribution with median ``middle``, kept within bounds."""
    return min(max(middle * dice.lognormvariate(0, sigma), low), high)


def zipf(count: int) -> list[float]:
    """Cumulated shares of ``count`` ranks where rank k weighs 1/k; the last is 1 or more."""
    weights = [1 / (rank + 1) for rank in range(count)]
    total = sum(weights)
    shares = list(accumulate(weight / total for weight in weights))
    shares[-1] = 1.0
    return shares
