"""A chat completion request: JSON bytes to a :class:`Request`, or a refusal naming the field.

Field names and limits are those of Moonshot's chat completion reference, with OpenAI's as the
superset. Unknown top-level fields are kept verbatim in ``extra``, and so is what is unknown in
``stream_options``. What only one model forbids is not known here: see ``rules``.
"""

import re
from typing import Any, Final, Literal, cast

from moongate.core.request import CallType, Format, Request, Sampling, Tool, ToolChoice
from moongate.wire import fields
from moongate.wire.chat.conversation import CALL_TYPES, inner_rest, name_of, read_messages
from moongate.wire.schema.gate import Gate

OUTPUT_TOKENS_MAX: Final = 2**31 - 1
"""The largest cap that is a number for every engine; what fits in the window is decided later."""

TOOLS_MAX: Final = 128
STOPS_MAX: Final = 5
STOP_BYTES_MAX: Final = 32
CHOICES_MAX: Final = 8
WEB_SEARCH: Final = "$web_search"
"""The one built-in function; ``$`` is reserved for such names."""

_TOOL_NAME: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9-_]{0,127}")
_FORMATS: Final = ("text", "json_object", "json_schema")
_CHOICES: Final = ("auto", "none", "required")
_KNOWN: Final = frozenset(
    {
        "model",
        "messages",
        "max_completion_tokens",
        "max_tokens",
        "thinking",
        "temperature",
        "top_p",
        "n",
        "presence_penalty",
        "frequency_penalty",
        "stop",
        "stream",
        "stream_options",
        "response_format",
        "tools",
        "tool_choice",
        "prompt_cache_key",
    }
)


def read_request(body: bytes) -> Request:
    """Decode a client's body. Raises Refused naming the field path."""
    obj = fields.parse(body)
    model = name_of(obj, "model", "")
    if not model:
        raise fields.missing("model")
    newer = fields.whole(obj, "max_completion_tokens", OUTPUT_TOKENS_MAX)
    older = fields.whole(obj, "max_tokens", OUTPUT_TOKENS_MAX)
    options = fields.table(obj, "stream_options") or {}
    gate = Gate()
    tools = _tools(obj, gate)
    return Request(
        model=model,
        messages=read_messages(obj),
        tools=tools,
        tool_choice=_tool_choice(obj, tools),
        format=_format(obj, gate),
        thinking=_thinking(obj),
        sampling=_sampling(obj),
        output_tokens_max=older if newer is None else newer,
        stream=fields.flag(obj, "stream") or False,
        include_usage=fields.flag(options, "include_usage", "stream_options") or False,
        cache_key=fields.string(obj, "prompt_cache_key"),
        extra=fields.rest(obj, _KNOWN)
        | inner_rest(obj, "stream_options", frozenset({"include_usage"})),
    )


def _thinking(obj: dict[str, Any]) -> bool | None:
    value = fields.table(obj, "thinking")
    if value is None:
        return None
    kind = value.get("type")
    if kind is None:
        raise fields.missing("thinking.type")
    if len(value) > 1:
        raise fields.refusal("invalid_value", "thinking", "thinking holds type and nothing else.")
    return fields.word(kind, ("enabled", "disabled"), "thinking.type") == "enabled"


def _sampling(obj: dict[str, Any]) -> Sampling:
    return Sampling(
        temperature=fields.number(obj, "temperature", 0, 2),
        top_p=fields.number(obj, "top_p", 0, 1),
        n=fields.whole(obj, "n", CHOICES_MAX),
        presence_penalty=fields.number(obj, "presence_penalty", -2, 2),
        frequency_penalty=fields.number(obj, "frequency_penalty", -2, 2),
        stop=_stop(obj),
    )


def _stop(obj: dict[str, Any]) -> tuple[str, ...]:
    value = obj.get("stop")
    if value is None:
        return ()
    values = [value] if isinstance(value, str) else value
    rule = f"a string or at most {STOPS_MAX} strings of 1 to {STOP_BYTES_MAX} bytes"
    if not isinstance(values, list) or not all(isinstance(stop, str) for stop in values):
        raise fields.wrong_type("stop", rule)
    if len(values) > STOPS_MAX:
        raise fields.wrong_value("stop", rule)
    for stop in values:
        if not 0 < len(stop.encode()) <= STOP_BYTES_MAX:
            raise fields.wrong_value("stop", rule)
    return tuple(values)


def _format(obj: dict[str, Any], gate: Gate) -> Format | None:
    value = fields.table(obj, "response_format")
    if value is None:
        return None
    at = "response_format"
    if value.get("type") is None:
        raise fields.missing(f"{at}.type")
    kind = fields.word(value["type"], _FORMATS, f"{at}.type")
    if kind != "json_schema":
        plain = cast('Literal["text", "json_object"]', kind)
        return Format(plain, extra=fields.rest(value, {"type"}))
    inner = fields.table(value, "json_schema", at)
    if inner is None:
        raise fields.missing(f"{at}.json_schema")
    at = f"{at}.json_schema"
    name = name_of(inner, "name", at)
    if not name:
        raise fields.missing(f"{at}.name")
    schema = fields.table(inner, "schema", at)
    if schema is None:
        raise fields.missing(f"{at}.schema")
    strict = fields.flag(inner, "strict", at)
    gate.format(schema, f"{at}.schema", strict=strict)
    return Format(
        "json_schema",
        name=name,
        schema=schema,
        strict=strict,
        extra=fields.rest(value, {"type", "json_schema"})
        | inner_rest(value, "json_schema", frozenset({"name", "schema", "strict"})),
    )


def _tools(obj: dict[str, Any], gate: Gate) -> tuple[Tool, ...]:
    values = fields.items(obj, "tools") or ()
    if len(values) > TOOLS_MAX:
        rule = f"tools is not valid: at most {TOOLS_MAX} are taken."
        raise fields.refusal("invalid_value", "tools", rule)
    tools = tuple(_tool(value, f"tools[{i}]", gate) for i, value in enumerate(values))
    seen: set[str] = set()
    for i, tool in enumerate(tools):
        if tool.name in seen:
            path = f"tools[{i}].function.name"
            raise fields.refusal("invalid_value", path, "function name is duplicated")
        seen.add(tool.name)
    return tools


def _tool(value: Any, at: str, gate: Gate) -> Tool:
    obj = fields.entry(value, at)
    kind = fields.word(obj.get("type", "function"), CALL_TYPES, f"{at}.type")
    function = fields.table(obj, "function", at)
    if function is None:
        raise fields.missing(f"{at}.function")
    at = f"{at}.function"
    name = function.get("name")
    if name is None:
        raise fields.missing(f"{at}.name")
    if not isinstance(name, str) or not _may_be_named(name, kind):
        raise fields.refusal("invalid_value", f"{at}.name", _misnamed(name, kind))
    parameters = function.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        raise fields.refusal("invalid_value", f"{at}.parameters", "parameters is not valid.")
    strict = fields.flag(function, "strict", at)
    gate.tool(parameters or {}, f"{at}.parameters", strict=strict)
    return Tool(
        name=name,
        description=fields.string(function, "description", at),
        parameters=parameters,
        strict=strict,
        type=cast("CallType", kind),
        extra=fields.rest(obj, {"type", "function"})
        | inner_rest(obj, "function", frozenset({"name", "description", "parameters", "strict"})),
    )


def _may_be_named(name: str, kind: str) -> bool:
    if kind == "builtin_function":
        return name == WEB_SEARCH
    return _TOOL_NAME.fullmatch(name) is not None


def _misnamed(name: Any, kind: str) -> str:
    if kind == "builtin_function":
        return f'name must be "{WEB_SEARCH}".'
    if name == WEB_SEARCH:
        return f'name is not valid: {WEB_SEARCH} needs the type "builtin_function".'
    return "name is not valid."


def _tool_choice(obj: dict[str, Any], tools: tuple[Tool, ...]) -> ToolChoice | None:
    value = obj.get("tool_choice")
    if value is None:
        return None
    at = "tool_choice"
    if isinstance(value, str):
        mode = fields.word(value, _CHOICES, at)
        if mode == "required" and not tools:
            raise fields.refusal("invalid_value", at, "tool_choice 'required' needs tools.")
        return ToolChoice(cast('Literal["auto", "none", "required"]', mode))
    if not isinstance(value, dict):
        raise fields.wrong_type(at, "a string or an object")
    fields.word(value.get("type"), CALL_TYPES, f"{at}.type")
    function = fields.table(value, "function", at)
    name = fields.string(function or {}, "name", f"{at}.function")
    if not name:
        raise fields.missing(f"{at}.function.name")
    if all(tool.name != name for tool in tools):
        raise fields.wrong_value(f"{at}.function.name", "the name of a tool in tools")
    return ToolChoice("named", name)
