"""The plan of a request: its targets in order, each with the reason, and when to try the next.

Pure functions. The data policy fails closed: a target below what is demanded is never in the
plan, and an empty plan is a refusal, not a weaker route.
"""

from collections.abc import Callable, Sequence
from typing import Final, Literal

import msgspec

from moongate.core.cards import DataPolicy, Facts, Target
from moongate.core.errors import Refused, UpstreamDown, UpstreamError, UpstreamOverloaded

_RANK: Final[dict[DataPolicy, int]] = {"none": 0, "contract": 1, "self-hosted": 2}
SAME_AGAIN_S: Final = 0.2
"""How long to wait before asking the same target a second time."""


class Step(msgspec.Struct, frozen=True):
    """One target to try; ``reason`` says why it stands where it stands."""

    target: Target
    reason: Literal["first", "next", "ejected"]


def order(
    targets: Sequence[Target],
    facts: Callable[[str], Facts],
    alive: Callable[[str], bool],
    require: DataPolicy,
) -> tuple[Step, ...]:
    """Targets that meet ``require``: those alive first, in the card's order, the rest behind.

    Raises Refused ``no_zdr_route`` (403) when none meets it.
    """
    fit = [t for t in targets if _RANK[facts(t.upstream).data_policy] >= _RANK[require]]
    if not fit:
        raise Refused("no_zdr_route")
    live = [target for target in fit if alive(target.upstream)]
    steps = [Step(target, "first" if i == 0 else "next") for i, target in enumerate(live)]
    steps += [Step(target, "ejected") for target in fit if not alive(target.upstream)]
    return tuple(steps)


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
