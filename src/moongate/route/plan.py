"""The plan of a request: its targets in order, each with the reason, and when to try the next.

Pure functions. The data policy fails closed: a target below what is demanded is never in the
plan, and an empty plan is a refusal, not a weaker route.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from moongate.core.cards import DataPolicy, Facts, Order, Target
from moongate.core.errors import Refused, UpstreamDown, UpstreamError, UpstreamOverloaded
from moongate.route.choice import Reason

_RANK: Final[dict[DataPolicy, int]] = {"none": 0, "contract": 1, "self-hosted": 2}
"""How much a data policy promises; more is better."""
SAME_AGAIN_S: Final = 0.2
"""How long to wait before asking the same target a second time."""
NEAR: Final = 1.25
"""First-token times within this ratio of the best count as equal."""


class Step(msgspec.Struct, frozen=True):
    """One target to try; ``reason`` says why it stands where it stands.

    ``matched``: how many characters of the prompt were seen there before.
    """

    target: Target
    reason: Reason
    matched: int = 0


def meets(policy: DataPolicy, least: DataPolicy) -> bool:
    """Whether ``policy`` promises no less than ``least`` does."""
    return _RANK[policy] >= _RANK[least]


def fit(
    targets: Sequence[Target], facts: Callable[[str], Facts], require: DataPolicy
) -> list[Target]:
    """Targets that meet ``require``. Raises Refused ``no_zdr_route`` (403) when none does."""
    found = [t for t in targets if meets(facts(t.upstream).data_policy, require)]
    if not found:
        raise Refused("no_zdr_route")
    return found


def tiers(
    order: Order, targets: Sequence[Target], first_token_s: Callable[[str], float | None]
) -> Mapping[str, int]:
    """By place, its rank: equals share one, and within it cache, load and weight decide.

    A target that a client wished for has a tier below zero, which stands. ``latency``: who was
    not asked yet counts as the quickest, so that it will be.
    """
    if order == "listed":
        return {target.upstream: target.tier for target in targets}
    ranks = dict.fromkeys((target.upstream for target in targets), 0)
    if order == "cost":
        costs = sorted({target.cost for target in targets})
        ranks = {target.upstream: costs.index(target.cost) for target in targets}
    if order == "latency":
        times = {name: time for name in ranks if (time := first_token_s(name)) is not None}
        best = min(times.values(), default=0.0)
        slow = sorted({time for time in times.values() if time > best * NEAR})
        ranks = {name: slow.index(t) + 1 if (t := times.get(name)) in slow else 0 for name in ranks}
    return ranks | {target.upstream: target.tier for target in targets if target.tier < 0}


def after(error: UpstreamError, steps: Sequence[Step], tried: int) -> tuple[Step, float] | None:
    """What to try after ``error`` before any byte was forwarded: a step and a wait in seconds.

    One retry in all: the next target when there is one, else the same one, but only where asking
    again can help (no connection, or overloaded with no long wait demanded).
    """
    if tried != 1 or not error.retriable:
        return None
    if len(steps) > 1:
        return steps[1], 0.0
    wait_s = error.retry_after_s or SAME_AGAIN_S
    lost = isinstance(error, UpstreamDown) and error.kind == "connect"
    if lost or (isinstance(error, UpstreamOverloaded) and wait_s <= 1.0):
        return steps[0], wait_s
    return None
