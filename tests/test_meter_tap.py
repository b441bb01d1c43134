"""The tap: counts that contradict each other are read in the customer's favour, and told."""

import pytest

from moongate.core.events import Finished, Started, Text, Used
from moongate.core.money import Counts, Usage
from moongate.meter.tap import Tap
from moongate.meter.tokens import Count


@pytest.mark.parametrize(
    ("counts", "usage", "odd"),
    [
        (Counts(50, 3, 10), Usage(40, 10, 3), []),
        (Counts(50, 3), Usage(50, 0, 3), []),
        (Counts(50, 3, 60), Usage(0, 50, 3), ["cached_over_prompt"]),
        (Counts(500, 3, 10), Usage(90, 10, 3), ["prompt_over_bound"]),
        (Counts(500, 3, 400), Usage(0, 100, 3), ["prompt_over_bound", "cached_over_prompt"]),
        (Counts(50, 3, None, 9), Usage(50, 0, 3), ["reasoning_over_output"]),
        (Counts(50, 3, None, 3), Usage(50, 0, 3, reasoning=3), []),
        (Counts(50, 0), Usage(50, 0, 2, estimated=True), []),
        (Counts(None, 3), Usage(30, 0, 3, estimated=True), []),
        (Counts(), Usage(30, 0, 2, estimated=True), []),
    ],
)
def test_what_is_billed_of_what_an_upstream_says(
    counts: Counts, usage: Usage, odd: list[str]
) -> None:
    tap = Tap(Count(least=0, tokens=30, bound=100))
    tap.see([Started(), Text("a"), Text("b"), Finished("stop"), Used(counts)])
    assert (tap.usage(), tap.odd) == (usage, odd)


def test_empty_pieces_are_no_tokens() -> None:
    tap = Tap(Count(least=0, tokens=30, bound=100))
    tap.see([Started(), Text(""), Text("a")])
    assert (tap.count, tap.after([Text("")])) == (1, 2)  # after is an upper bound
