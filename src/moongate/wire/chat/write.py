"""A :class:`Request` as a chat completion body; the twin of ``read`` and ``conversation``.

What was read is written: absent stays absent, ``extra`` goes back where it stood, and keys come
in a fixed order, so that equal prefixes of a conversation stay equal bytes for a prompt cache.
A ``developer`` message is written as ``system``, which every server of the family knows. Which
of these fields an upstream may see is not decided here.
"""

from typing import Any

from moongate.core.request import (
    Call,
    Format,
    ImagePart,
    Message,
    Part,
    Request,
    TextPart,
    Tool,
    ToolChoice,
)

Body = dict[str, Any]


def write_request(request: Request) -> Body:
    """The body, JSON-able, unknown fields included."""
    extra = dict(request.extra)
    options = extra.pop("stream_options", {})
    if request.include_usage:
        options = {"include_usage": True, **options}
    sampling = request.sampling
    thinking = request.thinking
    said: Body = {
        "tools": [_tool(tool) for tool in request.tools] or None,
        "tool_choice": _tool_choice(request.tool_choice),
        "response_format": _format(request.format),
        "thinking": None if thinking is None else {"type": "enabled" if thinking else "disabled"},
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "n": sampling.n,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "stop": list(sampling.stop) or None,
        "max_completion_tokens": request.output_tokens_max,
        "stream": request.stream or None,
        "stream_options": options or None,
        "prompt_cache_key": request.cache_key,
    }
    body: Body = {
        "model": request.model,
        "messages": [write_message(message) for message in request.messages],
    }
    body |= {key: value for key, value in said.items() if value is not None}
    return body | extra


def write_message(message: Message) -> Body:
    """One message. Content that is absent beside tool calls is written as null."""
    body: Body = {"role": "system" if message.role == "developer" else message.role}
    content = message.content
    body["content"] = [_part(part) for part in content] if isinstance(content, tuple) else content
    if message.name is not None:
        body["name"] = message.name
    if message.thinking is not None:
        body["reasoning_content"] = message.thinking
    if message.tool_calls:
        body["tool_calls"] = [write_call(call) for call in message.tool_calls]
    if message.tool_call_id is not None:
        body["tool_call_id"] = message.tool_call_id
    if message.partial:
        body["partial"] = True
    return body | message.extra


def write_call(call: Call) -> Body:
    """One finished tool call."""
    extra = dict(call.extra)
    function = {"name": call.name, "arguments": call.arguments, **extra.pop("function", {})}
    return {"id": call.id, "type": call.type, "function": function, **extra}


def _part(part: Part) -> Body:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text, **part.extra}
    kind = "image_url" if isinstance(part, ImagePart) else "video_url"
    if part.bare:
        return {"type": kind, kind: part.url, **part.extra}
    extra = dict(part.extra)
    return {"type": kind, kind: {"url": part.url, **extra.pop(kind, {})}, **extra}


def _tool(tool: Tool) -> Body:
    extra = dict(tool.extra)
    said = {
        "description": tool.description,
        "parameters": tool.parameters,
        "strict": tool.strict,
    }
    function: Body = {"name": tool.name}
    function |= {key: value for key, value in said.items() if value is not None}
    function |= extra.pop("function", {})
    return {"type": tool.type, "function": function, **extra}


def _tool_choice(choice: ToolChoice | None) -> str | Body | None:
    if choice is None or choice.name is None:
        return None if choice is None else choice.mode
    kind = "builtin_function" if choice.name.startswith("$") else "function"
    return {"type": kind, "function": {"name": choice.name}}


def _format(format: Format | None) -> Body | None:
    if format is None:
        return None
    if format.kind != "json_schema":
        return {"type": format.kind, **format.extra}
    extra = dict(format.extra)
    inner: Body = {"name": format.name, "schema": format.schema}
    if format.strict is not None:
        inner["strict"] = format.strict
    inner |= extra.pop("json_schema", {})
    return {"type": format.kind, "json_schema": inner, **extra}
