"""Messages as the chat dialect spells them: roles, parts, tool calls, and who answers which call.

The rules are Moonshot's and OpenAI's chat completion references; where they differ, what either
accepts is accepted. A field that we do not read is kept in ``extra``; what is unknown inside a
known inner object (``function``, ``image_url``) is kept there under that object's name. Nulls
of unknown fields stay, because SDKs replay their own message objects with them. This module
refuses to know what a model can do with a message.
"""

from collections import Counter
from typing import Any, Final, cast

from moongate.core.errors import Refused
from moongate.core.request import (
    Call,
    CallType,
    ImagePart,
    Message,
    Part,
    Role,
    TextPart,
    VideoPart,
)
from moongate.wire import fields

ROLES: Final = ("system", "user", "assistant", "tool", "developer")
CALL_TYPES: Final = ("function", "builtin_function")
_PARTS: Final = ("text", "image_url", "video_url")
_MESSAGE: Final = frozenset(
    {"role", "content", "name", "reasoning_content", "tool_calls", "tool_call_id", "partial"}
)
_CALL: Final = frozenset({"id", "type", "function"})
_FUNCTION: Final = frozenset({"name", "arguments"})


def read_messages(body: dict[str, Any]) -> tuple[Message, ...]:
    """The conversation. Raises Refused naming the message and field."""
    rule = "messages must be a non-empty array."
    raw = body.get("messages")
    if raw is None or raw == []:
        raise fields.missing("messages", rule)
    if not isinstance(raw, list):
        raise fields.refusal("invalid_type", "messages", rule)
    messages = tuple(_message(value, f"messages[{i}]") for i, value in enumerate(raw))
    _check_order(messages)
    return messages


def inner_rest(obj: dict[str, Any], inner: str, known: frozenset[str]) -> dict[str, Any]:
    """The unknown fields of the object ``obj[inner]``, under its name; empty when none."""
    value = obj.get(inner)
    left = fields.rest(value, known) if isinstance(value, dict) else {}
    return {inner: left} if left else {}


def name_of(obj: dict[str, Any], key: str, at: str) -> str | None:
    """A name: a string without NUL, which no store and no template carries well."""
    value = fields.string(obj, key, at)
    if value is not None and "\0" in value:
        raise fields.wrong_value(fields.join(at, key), "text without NUL")
    return value


def _message(value: Any, at: str) -> Message:
    obj = fields.entry(value, at)
    role = cast("Role", fields.word(obj.get("role"), ROLES, f"{at}.role"))
    calls = _calls(obj, at)
    if calls and role != "assistant":
        raise fields.refusal(
            "invalid_value", f"{at}.tool_calls", "tool_calls belong to an assistant message."
        )
    return Message(
        role=role,
        content=_content(obj, at, may_lack=bool(calls)),
        name=name_of(obj, "name", at),
        thinking=fields.string(obj, "reasoning_content", at),
        tool_calls=calls,
        tool_call_id=fields.string(obj, "tool_call_id", at),
        partial=fields.flag(obj, "partial", at) or False,
        extra=fields.rest(obj, _MESSAGE),
    )


def _content(obj: dict[str, Any], at: str, *, may_lack: bool) -> str | tuple[Part, ...] | None:
    value = obj.get("content")
    if isinstance(value, str):
        return value
    path = f"{at}.content"
    if value is None:
        if may_lack:
            return None
        raise fields.missing(path)
    if not isinstance(value, list):
        raise fields.wrong_type(path, "a string or an array of parts")
    if not value and not may_lack:
        raise fields.wrong_value(path, "a string or a non-empty array of parts")
    return tuple(_part(part, f"{path}[{j}]") for j, part in enumerate(value))


def _part(value: Any, at: str) -> Part:
    obj = fields.entry(value, at)
    kind = fields.word(obj.get("type"), _PARTS, f"{at}.type")
    if kind == "text":
        text = fields.string(obj, "text", at)
        if text is None:
            raise fields.missing(f"{at}.text")
        if not text:
            raise fields.refusal("invalid_value", f"{at}.text", "text content is empty")
        return TextPart(text, fields.rest(obj, {"type", "text"}))
    extra = fields.rest(obj, {"type", kind})
    medium = obj.get(kind)
    bare = isinstance(medium, str)
    if isinstance(medium, str):
        url: str | None = medium
    elif medium is None or isinstance(medium, dict):
        url = fields.string(medium or {}, "url", f"{at}.{kind}")
        extra |= inner_rest(obj, kind, frozenset({"url"}))
    else:
        raise fields.wrong_type(f"{at}.{kind}", "a string or an object with url")
    if not url:
        raise fields.missing(f"{at}.{kind}", "url is required.")
    made = ImagePart if kind == "image_url" else VideoPart
    return made(url, bare, extra)


def _calls(obj: dict[str, Any], at: str) -> tuple[Call, ...]:
    values = fields.items(obj, "tool_calls", at) or ()
    return tuple(_call(value, f"{at}.tool_calls[{k}]") for k, value in enumerate(values))


def _call(value: Any, at: str) -> Call:
    obj = fields.entry(value, at)
    kind = obj.get("type")
    if kind is not None:
        fields.word(kind, CALL_TYPES, f"{at}.type")
    function = fields.table(obj, "function", at)
    if function is None:
        raise fields.missing(f"{at}.function")
    id = fields.string(obj, "id", at)
    name = name_of(function, "name", f"{at}.function")
    arguments = fields.string(function, "arguments", f"{at}.function")
    for path, text in (("id", id), ("function.name", name)):
        if not text:
            raise fields.missing(f"{at}.{path}")
    if arguments is None:
        raise fields.missing(f"{at}.function.arguments")
    return Call(
        id=id or "",
        name=name or "",
        arguments=arguments,
        type=cast("CallType", kind or "function"),
        extra=fields.rest(obj, _CALL) | inner_rest(obj, "function", _FUNCTION),
    )


def _check_order(messages: tuple[Message, ...]) -> None:
    """Each tool message answers one call of the assistant before it; each call is answered.

    ``partial`` stands on a last message of the assistant only.
    """
    waiting: Counter[str] = Counter()
    asked_at = 0
    for i, message in enumerate(messages):
        if message.partial and (message.role != "assistant" or i + 1 < len(messages)):
            raise fields.refusal(
                "invalid_value",
                f"messages[{i}].partial",
                "partial is for the last message, when it is the assistant's.",
            )
        if message.role == "tool":
            answered = message.tool_call_id or ""
            if not waiting[answered]:
                raise Refused("invalid_tool_call_id", f"messages[{i}].tool_call_id")
            waiting[answered] -= 1
        elif message.role == "assistant":
            _check_answered(waiting, asked_at)
            waiting, asked_at = Counter(call.id for call in message.tool_calls), i
    _check_answered(waiting, asked_at)


def _check_answered(waiting: Counter[str], asked_at: int) -> None:
    if waiting.total():
        raise fields.refusal(
            "invalid_value",
            f"messages[{asked_at}].tool_calls",
            "Every tool call needs one tool message with its id.",
        )
