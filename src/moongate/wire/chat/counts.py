"""Token counts in every place and spelling where an upstream of this dialect puts them.

Moonshot: ``choices[0].usage`` on the finishing chunk, with a flat ``cached_tokens``. OpenAI, vLLM
and SGLang: a top-level ``usage`` with ``prompt_tokens_details.cached_tokens`` and
``completion_tokens_details.reasoning_tokens``. llama.cpp's server: the same, and ``timings``
(``cache_n`` reused, ``prompt_n`` evaluated, ``predicted_n`` generated). What cannot be a count is
*not said*; nothing is guessed here and nothing is added up. Counts that contradict each other are
passed on as they were said: the meter judges them.
"""

from typing import Any, Final

from moongate.core.money import Counts

_COUNT_MAX: Final = 1 << 40


def read_counts(usage: Any, timings: Any = None) -> Counts | None:
    """The counts in a usage object, filled up from llama.cpp's timings; ``None``: nothing said."""
    if type(usage) is not dict:
        return _from_timings(timings) if type(timings) is dict else None
    prompt = _count(usage.get("prompt_tokens"))
    completion = _count(usage.get("completion_tokens"))
    cached = _count(usage.get("cached_tokens"))
    details = usage.get("prompt_tokens_details")
    if type(details) is dict:
        nested = _count(details.get("cached_tokens"))
        # Where two places differ, the reading that charges less holds.
        if nested is not None and (cached is None or nested > cached):
            cached = nested
    if cached is None and type(timings) is dict:
        cached = _count(timings.get("cache_n"))
    details = usage.get("completion_tokens_details")
    reasoning = None
    if type(details) is dict:
        reasoning = _count(details.get("reasoning_tokens"))
    if prompt is None and completion is None and cached is None and reasoning is None:
        return None
    return Counts(prompt, completion, cached, reasoning)


def merge(first: Counts, second: Counts) -> Counts:
    """``second``, and ``first`` where it is silent."""
    prompt = first.prompt if second.prompt is None else second.prompt
    completion = first.completion if second.completion is None else second.completion
    cached = first.cached if second.cached is None else second.cached
    reasoning = first.reasoning if second.reasoning is None else second.reasoning
    return Counts(prompt, completion, cached, reasoning)


def _from_timings(timings: dict[str, Any]) -> Counts | None:
    cached = _count(timings.get("cache_n"))
    fresh = _count(timings.get("prompt_n"))
    completion = _count(timings.get("predicted_n"))
    if fresh is None and completion is None:
        return None
    prompt = None if fresh is None else fresh + (cached or 0)
    return Counts(prompt, completion, cached if prompt is not None else None)


def _count(value: Any) -> int | None:
    """``value`` when it can be a count: an integer, not a bool, not negative, not absurd."""
    return value if type(value) is int and 0 <= value < _COUNT_MAX else None
