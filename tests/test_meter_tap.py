"""The tap: counts that contradict each other are read in the customer's favour, and told."""

from pathlib import Path

import pytest

from moongate.core.events import Aside, Finished, Started, Text, ToolArgs, ToolCall, Used
from moongate.core.money import Counts, Usage
from moongate.meter.tap import Tap
from moongate.meter.tokens import Count
from vocabulary_kit import small_tokenizer


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


def test_what_we_wrote_is_no_output(tmp_path: Path) -> None:
    """A call of ours in place of the model's: it is neither counted in pieces nor in tokens."""
    ours = [
        ToolCall(0, "a", "the moon", "builtin_function", ours=True),
        ToolArgs(0, "the moon " * 99, ours=True),
    ]
    for tokenizer in (None, small_tokenizer(tmp_path)):
        tap = Tap(Count(least=0, tokens=30, bound=100), 1, tokenizer)
        tap.see([Started(), Aside("the moon")])
        before = tap.count, tap.usage(), tap.pieces
        assert tap.after(ours) == tap.count
        tap.see(ours)
        assert (tap.count, tap.usage(), tap.pieces) == before
        theirs = [ToolCall(1, "b", "the moon"), ToolArgs(1, "the moon")]
        assert tap.after(theirs) == 3
        tap.see(theirs)
        assert tap.count == 3
