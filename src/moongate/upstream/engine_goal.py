"""What an answer of the engine must be: text, JSON, or the arguments of one tool call.

The decision is pure. Constrained answers take no ``stop`` strings: one inside the JSON would
break what was promised. After ``required`` without a telling word the first tool is called.
"""

from typing import Any, Final, Literal

from moongate.core.errors import UpstreamRefused, safe_name
from moongate.core.request import Request, Tool
from moongate.core.sealed import Sealed
from moongate.upstream import engine_grammar, engine_prompt, engine_tools
from moongate.wire.ids import calls_in

FORWARD: Final = frozenset({"seed"})
"""Unknown fields that the engine takes."""

_NO_ARGUMENTS: Final[dict[str, Any]] = {"type": "object", "properties": {}}


class Goal(Sealed, frozen=True):
    """``opening`` is what the assistant's turn starts with; the answer goes on from there.

    ``speaker`` replaces the assistant's role word. ``schema`` rules a ``schema`` and a ``call``
    goal, where it is ``loose`` only as far as it can be held; ``prefix`` is JSON that stands
    already. ``tool`` is the called tool's name and ``index`` its number in the conversation.
    """

    kind: Literal["text", "object", "schema", "call"] = "text"
    opening: str = ""
    speaker: str = ""
    schema: dict[str, Any] | None = None
    loose: bool = False
    prefix: str = ""
    tool: str = ""
    index: int = 0


def decide(request: Request) -> Goal:
    """The goal of ``request``. Raises UpstreamRefused for what cannot be promised together."""
    prefix = engine_prompt.prefill(request)
    text, speaker = ("", "") if prefix is None else prefix
    tool = _tool(request, partial=prefix is not None)
    if tool is not None:
        opening = engine_prompt.named_opening(tool.name)
        return Goal(
            kind="call",
            opening=f"{text}\n{opening}" if text else opening,
            speaker=speaker,
            schema=_parameters(tool),
            loose=tool.strict is not True,
            tool=tool.name,
            index=calls_in(request.messages),
        )
    format = request.format
    if format is None or format.kind == "text":
        return Goal(opening=text, speaker=speaker)
    if format.kind == "json_object":
        return Goal(kind="object", opening=text, speaker=speaker, prefix=text)
    return Goal(
        kind="schema",
        opening=text,
        speaker=speaker,
        schema=format.schema or {},
        loose=format.strict is False,
        prefix=text,
    )


def constraint(goal: Goal, tokens: int) -> dict[str, Any]:
    """The fields of the engine's request that hold an answer of ``tokens`` tokens to its goal.

    Raises UpstreamRefused for a schema that the engine could not hold, and for a prefix that
    begins no such answer.
    """
    if goal.kind == "text":
        return {}
    if goal.kind == "object":
        return engine_grammar.constrain(engine_grammar.OBJECT, tokens, goal.prefix)
    try:
        return engine_grammar.constrain(goal.schema or {}, tokens, goal.prefix)
    except UpstreamRefused as refused:
        if not goal.loose or refused.row != "unsupported_schema":
            raise
        return engine_grammar.constrain(engine_grammar.OBJECT, tokens, goal.prefix)


def dropped(request: Request) -> tuple[str, ...]:
    """Names of unknown fields that the engine does not take; no name that is not plain."""
    names = [name for name in request.extra if name not in FORWARD]
    for where, items in (("messages", request.messages), ("tools", request.tools)):
        held = sorted({name for item in items for name in item.extra})
        names += [f"{where}.{name}" for name in held if safe_name(name) == name]
    return tuple(name for name in names if safe_name(name) == name)


def _parameters(tool: Tool) -> dict[str, Any]:
    schema = tool.parameters or _NO_ARGUMENTS
    return schema if "type" in schema else {**schema, "type": "object"}


def _tool(request: Request, *, partial: bool) -> Tool | None:
    choice = request.tool_choice
    on_offer = engine_tools.functions(request)
    if not on_offer or (choice is not None and choice.mode == "none"):
        return None
    if choice is None or choice.mode == "auto":
        return None if partial else engine_tools.pick(request)  # a begun text goes on as text
    if choice.mode == "named":
        for tool in on_offer:
            if tool.name == choice.name:
                return tool
        raise UpstreamRefused("rejected_by_model")
    return engine_tools.best(request) or on_offer[0]
