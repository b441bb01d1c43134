"""What Moonshot would refuse in a chat request to Kimi K2.5: the fake's own reading of the rules.

Written from Moonshot's API documentation (chat, tool use, thinking, vision, partial mode) and its
published error messages, and sharing nothing with our codec or quirks: it exists to catch them.
Pure; it refuses to know HTTP.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

_ROLES: Final = ("system", "user", "assistant", "tool")
_TOOL_NAME: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_-]{0,127}")
_MEDIA: Final = re.compile(r"data:(?:image|video)/\.?[a-z0-9.+-]+;base64,|ms://.")
_BUILTINS: Final = frozenset({"$web_search"})
KNOWN: Final = frozenset(
    {"model", "messages", "max_tokens", "max_completion_tokens", "thinking", "temperature"}
    | {"top_p", "n", "presence_penalty", "frequency_penalty", "stop", "stream", "stream_options"}
    | {"response_format", "tools", "tool_choice", "prompt_cache_key", "safety_identifier"}
)
"""Documented top-level fields; others are silently ignored there."""


def complaints(body: Any) -> list[str]:
    """Every reason to refuse ``body``, in the order of its fields; empty when it is accepted."""
    if not isinstance(body, dict):
        return ["the body is not an object"]
    return [*_top(body), *_tools(body), *_choice(body), *_messages(body)]


def thinks(body: dict[str, Any]) -> bool:
    """Whether thinking is on: the default, unless it is disabled."""
    thinking = body.get("thinking")
    return not (isinstance(thinking, dict) and thinking.get("type") == "disabled")


def _top(body: dict[str, Any]) -> Iterator[str]:
    if not isinstance(body.get("model"), str) or not body["model"]:
        yield "model is required"
    for name in ("functions", "function_call"):
        if name in body:
            yield f"{name} is not supported"
    thinking = body.get("thinking", {"type": "enabled"})
    if not isinstance(thinking, dict) or thinking.get("type") not in ("enabled", "disabled"):
        yield "invalid thinking: type must be enabled or disabled"
    elif set(thinking) != {"type"}:
        yield "invalid thinking: unknown keys"
    fixed = {"temperature": 1.0 if thinks(body) else 0.6, "top_p": 0.95, "n": 1}
    fixed |= {"presence_penalty": 0, "frequency_penalty": 0}
    for name, value in fixed.items():
        if name in body and body[name] != value:
            yield f"invalid {name}: only {value:g} is allowed for this model"
    for name in ("max_tokens", "max_completion_tokens"):
        if name in body and (type(body[name]) is not int or body[name] < 1):
            yield f"invalid {name}"
    if "stream" in body and not isinstance(body["stream"], bool):
        yield "invalid stream"
    options = body.get("stream_options", {})
    if not isinstance(options, dict) or not isinstance(options.get("include_usage", True), bool):
        yield "invalid stream_options"
    for name in ("prompt_cache_key", "safety_identifier"):
        if body.get(name) is not None and not isinstance(body[name], str):
            yield f"invalid {name}"
    yield from _stop(body.get("stop"))
    yield from _format(body.get("response_format"))


def _stop(stop: Any) -> Iterator[str]:
    stops = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(stops, list) or not all(isinstance(text, str) for text in stops):
        yield "invalid stop"
    elif len(stops) > 5 or any(len(text.encode()) > 32 for text in stops):
        yield "invalid stop: at most 5 of at most 32 bytes"


def _format(form: Any) -> Iterator[str]:
    if form is None:
        return
    if not isinstance(form, dict) or form.get("type") not in ("text", "json_object", "json_schema"):
        yield "invalid response_format"
    elif form["type"] == "json_schema":
        schema = form.get("json_schema")
        if not isinstance(schema, dict) or not isinstance(schema.get("name"), str):
            yield "invalid response_format.json_schema"
        elif not isinstance(schema.get("schema"), dict):
            yield "invalid response_format.json_schema.schema"
        elif not isinstance(schema.get("strict", True), bool):
            yield "invalid response_format.json_schema.strict"


def _tools(body: dict[str, Any]) -> Iterator[str]:
    tools = body.get("tools", [])
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        yield "invalid tools"
        return
    if len(tools) > 128:
        yield "invalid tools: at most 128"
    seen: set[str] = set()
    for tool in tools:
        function = tool.get("function")
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(name, str):
            yield "invalid tool: a function name is required"
            continue
        if name in seen:
            yield f"function name {name} is duplicated"
        seen.add(name)
        if tool.get("type") == "builtin_function":
            if name not in _BUILTINS:
                yield "invalid tool: unknown built-in function"
        elif tool.get("type") != "function":
            yield "invalid tool: unknown type"
        elif _TOOL_NAME.fullmatch(name) is None:
            yield "invalid tool: function name"
        elif not isinstance(function.get("parameters"), dict):
            yield "invalid tool: parameters are required"


def _choice(body: dict[str, Any]) -> Iterator[str]:
    match body.get("tool_choice"):
        case None | "auto" | "none":
            return
        case "required":
            if not body.get("tools"):
                yield "tool_choice 'required' needs tools"
            if thinks(body):
                yield "tool_choice 'required' is incompatible with thinking enabled"
        case {"type": "function", "function": {"name": str()}}:
            if thinks(body):
                yield "tool_choice 'specified' is incompatible with thinking enabled"
        case _:
            yield "invalid tool_choice"


def _messages(body: dict[str, Any]) -> Iterator[str]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        yield "messages is required and not empty"
        return
    if not all(isinstance(message, dict) for message in messages):
        yield "invalid messages"
        return
    for index, message in enumerate(messages):
        role = message.get("role")
        if role not in _ROLES:
            yield f"messages[{index}]: unknown role"
            continue
        yield from _content(message, index)
        if "name" in message and not isinstance(message["name"], str):
            yield f"messages[{index}]: invalid name"
        if message.get("partial") and (role != "assistant" or index != len(messages) - 1):
            yield f"messages[{index}]: partial is for the last assistant message"
        if "reasoning_content" in message and not isinstance(message["reasoning_content"], str):
            yield f"messages[{index}]: invalid reasoning_content"
        yield from _calls(message, index)
    yield from _answers(messages)
    if thinks(body):
        yield from _replay(messages)


def _content(message: dict[str, Any], index: int) -> Iterator[str]:
    where = f"messages[{index}].content"
    content = message.get("content")
    calls = bool(message.get("tool_calls"))
    if isinstance(content, list):
        for part in content:
            yield from _part(part, where)
        if not content:
            yield f"{where}: must not be empty"
    elif content is None or content == "":
        # A tool may have nothing to say, but it has to say so; a call or a persona stands alone.
        silent = calls or message.get("partial") or (message["role"] == "tool" and content == "")
        if not silent:
            yield f"{where}: must not be empty"
    elif not isinstance(content, str):
        yield f"{where}: must be text or parts"


def _part(part: Any, where: str) -> Iterator[str]:
    match part:
        case {"type": "text", "text": str(text)}:
            if not text:
                yield "text content is empty"
        case {"type": ("image_url" | "video_url") as kind}:
            given = part.get(kind)
            url = given.get("url") if isinstance(given, dict) else given
            if not isinstance(url, str) or _MEDIA.match(url) is None:
                yield "unsupported image url"
        case _:
            yield f"{where}: unknown part"


def _calls(message: dict[str, Any], index: int) -> Iterator[str]:
    calls = message.get("tool_calls", [])
    if calls and message["role"] != "assistant":
        yield f"messages[{index}]: tool_calls are for assistants"
    for call in calls if isinstance(calls, list) else [None]:
        match call:
            case {
                "id": str(id),
                "type": "function" | "builtin_function",
                "function": {"name": str(), "arguments": str()},
            } if id:
                continue
            case _:
                yield f"messages[{index}]: invalid tool call"


def _answers(messages: list[dict[str, Any]]) -> Iterator[str]:
    """Each call is answered by exactly one tool message before anything else is said."""
    open_ids: list[str] = []
    for message in messages:
        if message.get("role") == "tool":
            id = message.get("tool_call_id")
            if not isinstance(id, str) or id not in open_ids:
                yield "tool_call_id not found"
            else:
                open_ids.remove(id)
            continue
        if open_ids:
            yield "tool calls without their tool messages"
        calls = message.get("tool_calls")
        found = calls if isinstance(calls, list) else []
        open_ids = [str(call.get("id")) for call in found if isinstance(call, dict)]
    if open_ids:
        yield "tool calls without their tool messages"


def _replay(messages: list[dict[str, Any]]) -> Iterator[str]:
    """Calls of the current loop carry their reasoning: those after the last plain assistant."""
    start = 0
    for index, message in enumerate(messages):
        if message.get("role") == "assistant" and not message.get("tool_calls"):
            start = index + 1
    for index, message in enumerate(messages[start:], start):
        if message.get("tool_calls") and not isinstance(message.get("reasoning_content"), str):
            yield (
                "thinking is enabled but reasoning_content is missing in assistant tool call "
                f"message at index {index}"
            )
