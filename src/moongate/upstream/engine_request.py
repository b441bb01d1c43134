"""What the embedded engine is asked for one answer: the completion call and its sampling."""

from typing import Any, Final

from moongate.core.request import Request
from moongate.core.sealed import Sealed
from moongate.upstream.engine_eyes import Sight
from moongate.upstream.engine_goal import Goal

TEMPERATURE: Final = 0.2
"""The engine's own: Kimi's fixed values are checked where requests come in, and are far too hot
for a model of this size."""
_FREE_TEXT: Final = {
    # A model of this size falls into loops and lists without end; llama.cpp's DRY sampler makes a
    # sequence that repeats ever less likely. Structured output must be free to repeat itself.
    "repeat_penalty": 1.1,
    "repeat_last_n": 512,
    "dry_multiplier": 0.8,
    "dry_allowed_length": 2,
    "dry_penalty_last_n": 1024,
    "dry_sequence_breakers": ["<none>"],
}
_SEED_MAX: Final = 2**32 - 2


class Plan(Sealed, frozen=True):
    """What a request comes down to: its prompt's tokens, its goal, its output cap (tokens).

    ``sight`` is the prompt where it shows pictures.
    """

    tokens: tuple[int, ...]
    sight: Sight | None
    goal: Goal
    output_tokens_max: int


def completion(request: Request, plan: Plan) -> dict[str, Any]:
    """The body of the call, without what holds the answer to a form and without its slot."""
    text = plan.goal.kind == "text"
    body: dict[str, Any] = {
        "prompt": plan.sight.prompt() if plan.sight else plan.tokens,
        "n_predict": plan.output_tokens_max,
        "stream": True,
        "return_progress": True,
        "stream_options": {"include_usage": True},
        "cache_prompt": True,
        **(_FREE_TEXT if text else {"repeat_penalty": 1.0}),
        "temperature": TEMPERATURE,
    }
    if text and request.sampling.stop:
        body["stop"] = list(request.sampling.stop)
    seed = request.extra.get("seed")
    if isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed <= _SEED_MAX:
        body["seed"] = seed
    return body
