"""What one model forbids beyond the dialect: its fixed sampling, and forced tools with thinking.

A pure policy over a request that has been read: it returns what may go on, or refuses in the
wording that clients of Moonshot's API already match on. It refuses to know which model it is;
the card's values arrive as arguments.
"""

from typing import Final, Literal

import msgspec

from moongate.core.cards import Fixed
from moongate.core.errors import Refused, safe_name
from moongate.core.request import Request

Policy = Literal["standard", "strict", "lenient"]

_DOCUMENTED: Final = frozenset({"safety_identifier", "web_search_options"})
"""Fields of the dialect that we keep without reading: no strict key refuses them."""


def check(
    request: Request,
    *,
    sampling: Fixed | None,
    thinking_default: bool = True,
    policy: Policy = "standard",
) -> tuple[Request, tuple[str, ...]]:
    """Hold ``request`` against a model's rules and a key's policy.

    ``sampling`` is ``None`` for a model that leaves sampling and tool choice free. Returns the
    request to go on with and the names of the fields that a ``lenient`` key had dropped from
    it. Raises Refused: ``unknown_parameter`` (``strict`` keys, top level), or ``invalid_value``
    for a value other than the fixed one and for a forced tool while thinking.
    """
    if policy == "strict":
        for name in request.extra:
            if name not in _DOCUMENTED:
                raise Refused("unknown_parameter", safe_name(name))
    if sampling is None:
        return request, ()
    thinking = thinking_default if request.thinking is None else request.thinking
    _check_choice(request, thinking=thinking)
    wrong = _wrong_values(request, sampling, thinking=thinking)
    if not wrong:
        return request, ()
    if policy != "lenient":
        name, value = next(iter(wrong.items()))
        sentence = f"invalid {name}: only {value:g} is allowed for this model"
        raise Refused("invalid_value", name, what=sentence)
    kept = msgspec.structs.replace(request.sampling, **dict.fromkeys(wrong))
    return msgspec.structs.replace(request, sampling=kept), tuple(wrong)


def _wrong_values(request: Request, fixed: Fixed, *, thinking: bool) -> dict[str, float]:
    """Field -> the only value allowed, for each field that says another."""
    allowed = {
        "temperature": fixed.temperature_thinking if thinking else fixed.temperature_instant,
        "top_p": fixed.top_p,
        "n": fixed.n,
        "presence_penalty": fixed.presence_penalty,
        "frequency_penalty": fixed.frequency_penalty,
    }
    said = {name: getattr(request.sampling, name) for name in allowed}
    return {
        name: value
        for name, value in allowed.items()
        if said[name] is not None and said[name] != value
    }


def _check_choice(request: Request, *, thinking: bool) -> None:
    choice = request.tool_choice
    if choice is None or not thinking or choice.mode in {"auto", "none"}:
        return
    word = "required" if choice.mode == "required" else "specified"
    sentence = f"tool_choice '{word}' is incompatible with thinking enabled"
    raise Refused("invalid_value", "tool_choice", what=sentence)
