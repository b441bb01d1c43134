"""What an answer of the engine must be: text, JSON, or the arguments of one tool call.

The decision is pure. Constrained answers take no ``stop`` strings: one inside the JSON would
break what was promised. After ``required`` without a telling word the first tool is called.
"""

from typing import Any, Final, Literal

from moongate.core.errors import UpstreamRefused, safe_name
from moongate.core.request import Request, Tool
from moongate.core.sealed import Sealed
from moongate.upstream import engine_grammar, engine_prompt, engine_tools

FORWARD: Final = frozenset({"seed"})
"""Unknown fields that the engine takes."""

_NO_ARGUMENTS: Final[dict[str, Any]] = {"type": "object", "properties": {}}


class Goal(Sealed, frozen=True):
    """``opening`` is what the assistant's turn starts with; the answer goes on from there.

    ``schema`` rules a ``schema`` and a ``call`` goal, ``tool`` is the called tool's name and
    ``index`` its number in the conversation.
    """

    kind: Literal["text", "object", "schema", "call"] = "text"
    opening: str = ""
    schema: dict[str, Any] | None = None
    tool: str = ""
    index: int = 0


def decide(request: Request) -> Goal:
    """The goal of ``request``. Raises UpstreamRefused for what cannot be promised together."""
    constrained = request.format is not None and request.format.kind != "text"
    opening = engine_prompt.prefill(request)
    if opening is not None:
        if constrained:
            raise UpstreamRefused("unsupported_ability", ability="partial")
        return Goal(opening=opening)
    tool = _tool(request)
    if tool is not None:
        return Goal(
            kind="call",
            opening=engine_prompt.named_opening(tool.name),
            schema=_parameters(tool),
            tool=tool.name,
            index=engine_tools.next_index(request),
        )
    if request.format is not None and constrained:
        if request.format.kind == "json_schema":
            return Goal(kind="schema", schema=request.format.schema or {})
        return Goal(kind="object")
    return Goal()


def constraint(goal: Goal, tokens: int) -> dict[str, Any]:
    """The fields of the engine's request that hold an answer of ``tokens`` tokens to its goal.

    Raises UpstreamRefused for a schema that the engine could not hold.
    """
    if goal.kind == "text":
        return {}
    if goal.kind == "object":
        return {"grammar": engine_grammar.object_grammar(tokens)}
    return {"json_schema": engine_grammar.constrain(goal.schema or {}, tokens)}


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


def _tool(request: Request) -> Tool | None:
    choice = request.tool_choice
    on_offer = engine_tools.functions(request)
    if not on_offer or (choice is not None and choice.mode == "none"):
        return None
    if choice is None or choice.mode == "auto":
        return engine_tools.pick(request)
    if choice.mode == "named":
        for tool in on_offer:
            if tool.name == choice.name:
                return tool
        raise UpstreamRefused("rejected_by_model")
    return engine_tools.best(request) or on_offer[0]
