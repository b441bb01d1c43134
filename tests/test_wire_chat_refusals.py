"""Bad chat requests: the exact row, the field's path, and not one word of the input."""

import copy
import json

import pytest

from moongate.core.errors import Refused
from moongate.wire.chat import ChatCodec

CODEC = ChatCodec()
NO = "c4n4ry"
USER = {"role": "user", "content": "hi"}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
ASKED = {"role": "assistant", "content": "", "tool_calls": [CALL]}
TOOL = {"role": "tool", "tool_call_id": "c1", "content": "x"}
EMPTY = "messages must be a non-empty array."
RANGE = "must be a number in range."
CAP = "must be an integer from 1 to 2147483647."
STOP = "stop must be a string or at most 5 strings of 1 to 32 bytes."
ROLES = "role must be one of system, user, assistant, tool, developer."
MISSING = "missing_required_parameter"
TYPE = "invalid_type"
VALUE = "invalid_value"


def body(**fields: object) -> bytes:
    return json.dumps({"model": "m", "messages": [USER]} | fields).encode()


def said(*messages: object) -> dict[str, object]:
    return {"messages": list(messages)}


def content(part: object) -> dict[str, object]:
    return said({"role": "user", "content": [part]})


def tool(**function: object) -> dict[str, object]:
    return {"tools": [{"type": "function", "function": {"name": "f", **function}}]}


def schema(**inner: object) -> dict[str, object]:
    return {"response_format": {"type": "json_schema", "json_schema": inner}}


def edited(base: dict[str, object], **changes: object) -> dict[str, object]:
    out = copy.deepcopy(base) | changes
    return {key: value for key, value in out.items() if value is not ...}


TABLE = [
    ({"model": None}, MISSING, "model", "model is required."),
    ({"model": ""}, MISSING, "model", "model is required."),
    ({"model": 3}, TYPE, "model", "model must be a string."),
    ({"messages": None}, MISSING, "messages", EMPTY),
    ({"messages": []}, MISSING, "messages", EMPTY),
    ({"messages": NO}, TYPE, "messages", EMPTY),
    ({"messages": {}}, TYPE, "messages", EMPTY),
    (said(NO), TYPE, "messages[0]", "messages[0] must be an object."),
    (said({"role": NO, "content": "x"}), VALUE, "messages[0].role", ROLES),
    (said({"content": "x"}), VALUE, "messages[0].role", ROLES),
    (said({"role": ["user"], "content": "x"}), VALUE, "messages[0].role", ROLES),
    (said({"role": "user"}), MISSING, "messages[0].content", "content is required."),
    (said(USER, {"role": "assistant"}), MISSING, "messages[1].content", None),
    (said({"role": "user", "content": []}), VALUE, "messages[0].content", None),
    (said({"role": "user", "content": 5}), TYPE, "messages[0].content", None),
    (content(NO), TYPE, "messages[0].content[0]", None),
    (content({"type": NO}), VALUE, "messages[0].content[0].type", None),
    (content({"type": "text"}), MISSING, "messages[0].content[0].text", None),
    (
        content({"type": "text", "text": ""}),
        VALUE,
        "messages[0].content[0].text",
        "text content is empty",
    ),
    (content({"type": "image_url"}), MISSING, "messages[0].content[0].image_url", None),
    (
        content({"type": "image_url", "image_url": {"url": 5}}),
        TYPE,
        "messages[0].content[0].image_url.url",
        None,
    ),
    (
        content({"type": "video_url", "video_url": [NO]}),
        TYPE,
        "messages[0].content[0].video_url",
        None,
    ),
    (said(edited(USER, name=f"{NO}\0")), VALUE, "messages[0].name", None),
    (said(edited(USER, name=1)), TYPE, "messages[0].name", None),
    (said(edited(USER, partial=1)), TYPE, "messages[0].partial", None),
    (said(edited(USER, partial=True)), VALUE, "messages[0].partial", None),
    (
        said({"role": "assistant", "content": "x", "partial": True}, USER),
        VALUE,
        "messages[0].partial",
        None,
    ),
    (said(edited(USER, tool_calls=[CALL])), VALUE, "messages[0].tool_calls", None),
    (said(edited(ASKED, tool_calls=NO)), TYPE, "messages[0].tool_calls", None),
    (said(edited(ASKED, tool_calls=[1])), TYPE, "messages[0].tool_calls[0]", None),
    (said(edited(ASKED, tool_calls=[{}])), MISSING, "messages[0].tool_calls[0].function", None),
    (
        said(edited(ASKED, tool_calls=[edited(CALL, id=...)])),
        MISSING,
        "messages[0].tool_calls[0].id",
        None,
    ),
    (
        said(edited(ASKED, tool_calls=[edited(CALL, type=NO)])),
        VALUE,
        "messages[0].tool_calls[0].type",
        None,
    ),
    (
        said(edited(ASKED, tool_calls=[edited(CALL, function={"name": "f", "arguments": {}})])),
        TYPE,
        "messages[0].tool_calls[0].function.arguments",
        None,
    ),
    (said(ASKED), VALUE, "messages[0].tool_calls", None),
    (said(ASKED, ASKED, TOOL), VALUE, "messages[0].tool_calls", None),
    (said(edited(USER, reasoning_content=[])), TYPE, "messages[0].reasoning_content", None),
    *(
        (said(*messages), "invalid_tool_call_id", path, "No tool call with this id precedes it.")
        for messages, path in (
            ([TOOL], "messages[0].tool_call_id"),
            ([USER, ASKED, edited(TOOL, tool_call_id=NO)], "messages[2].tool_call_id"),
            ([USER, ASKED, edited(TOOL, tool_call_id=...)], "messages[2].tool_call_id"),
            ([USER, ASKED, TOOL, TOOL], "messages[3].tool_call_id"),
        )
    ),
    *(({"temperature": bad}, TYPE, "temperature", f"temperature {RANGE}") for bad in ("hot", True)),
    *(({"temperature": bad}, VALUE, "temperature", f"temperature {RANGE}") for bad in (3, -0.1)),
    ({"temperature": 10**400}, VALUE, "temperature", f"temperature {RANGE}"),
    ({"top_p": 1.1}, VALUE, "top_p", f"top_p {RANGE}"),
    ({"presence_penalty": "0"}, TYPE, "presence_penalty", f"presence_penalty {RANGE}"),
    ({"frequency_penalty": -2.5}, VALUE, "frequency_penalty", f"frequency_penalty {RANGE}"),
    *(({"n": bad}, VALUE, "n", "n must be an integer from 1 to 8.") for bad in (0, 9, 1.5)),
    ({"n": True}, TYPE, "n", "n must be an integer from 1 to 8."),
    *(
        ({field: bad}, VALUE, field, f"{field} {CAP}")
        for field in ("max_tokens", "max_completion_tokens")
        for bad in (0, -1, 1.5, 10**30)
    ),
    ({"max_tokens": "9"}, TYPE, "max_tokens", f"max_tokens {CAP}"),
    ({"stop": ["a"] * 6}, VALUE, "stop", STOP),
    ({"stop": "\u6708" * 11}, VALUE, "stop", STOP),
    ({"stop": ""}, VALUE, "stop", STOP),
    ({"stop": [1]}, TYPE, "stop", STOP),
    ({"stop": {}}, TYPE, "stop", STOP),
    ({"stream": "true"}, TYPE, "stream", "stream must be true or false."),
    ({"stream_options": []}, TYPE, "stream_options", None),
    ({"stream_options": {"include_usage": 1}}, TYPE, "stream_options.include_usage", None),
    ({"thinking": True}, TYPE, "thinking", "thinking must be an object."),
    ({"thinking": {}}, MISSING, "thinking.type", "type is required."),
    ({"thinking": {"type": NO}}, VALUE, "thinking.type", "type must be one of enabled, disabled."),
    ({"thinking": {"type": "enabled", NO: 1}}, VALUE, "thinking", None),
    ({"prompt_cache_key": 1}, TYPE, "prompt_cache_key", None),
    ({"response_format": NO}, TYPE, "response_format", None),
    ({"response_format": {}}, MISSING, "response_format.type", None),
    ({"response_format": {"type": NO}}, VALUE, "response_format.type", None),
    ({"response_format": {"type": "json_schema"}}, MISSING, "response_format.json_schema", None),
    (schema(schema={}), MISSING, "response_format.json_schema.name", None),
    (schema(name="n"), MISSING, "response_format.json_schema.schema", None),
    (schema(name="n", schema=[]), TYPE, "response_format.json_schema.schema", None),
    (schema(name="n", schema={}, strict=1), TYPE, "response_format.json_schema.strict", None),
    ({"tools": NO}, TYPE, "tools", "tools must be an array."),
    ({"tools": [NO]}, TYPE, "tools[0]", "tools[0] must be an object."),
    ({"tools": [{"type": NO}]}, VALUE, "tools[0].type", None),
    ({"tools": [{"type": "function"}]}, MISSING, "tools[0].function", None),
    (tool(name=None), MISSING, "tools[0].function.name", "name is required."),
    *(
        (tool(name=bad), VALUE, "tools[0].function.name", "name is not valid.")
        for bad in ("", "1a", "a b", "\u00e9", "$search", "a" * 129, "a\n", 5)
    ),
    (
        tool(name="$web_search"),
        VALUE,
        "tools[0].function.name",
        'name is not valid: $web_search needs the type "builtin_function".',
    ),
    (tool(parameters=[]), VALUE, "tools[0].function.parameters", "parameters is not valid."),
    (tool(parameters=NO), VALUE, "tools[0].function.parameters", "parameters is not valid."),
    (tool(description=5), TYPE, "tools[0].function.description", None),
    (tool(strict=NO), TYPE, "tools[0].function.strict", None),
    (
        {"tools": [{"type": "builtin_function", "function": {"name": f"${NO}"}}]},
        VALUE,
        "tools[0].function.name",
        'name must be "$web_search".',
    ),
    (
        {"tools": tool()["tools"] * 2},
        VALUE,
        "tools[1].function.name",
        "function name is duplicated",
    ),
    ({"tools": tool()["tools"] * 129}, VALUE, "tools", None),
    ({"tool_choice": NO}, VALUE, "tool_choice", None),
    ({"tool_choice": 5}, TYPE, "tool_choice", None),
    ({"tool_choice": "required"}, VALUE, "tool_choice", None),
    ({"tool_choice": {}}, VALUE, "tool_choice.type", None),
    ({"tool_choice": {"type": "function"}}, MISSING, "tool_choice.function.name", None),
    (
        tool() | {"tool_choice": {"type": "function", "function": {"name": NO}}},
        VALUE,
        "tool_choice.function.name",
        None,
    ),
]


@pytest.mark.parametrize(("fields", "code", "param", "message"), TABLE)
def test_the_exact_refusal(fields, code, param, message):
    with pytest.raises(Refused) as caught:
        CODEC.read_request(body(**fields))
    error = caught.value
    assert (error.status, error.code, error.param) == (400, code, param)
    assert error.row.type == "invalid_request_error"
    if message is not None:
        assert error.message == message
    assert error.message[-1] == "." or message is not None
    told = CODEC.write_error(error)
    assert NO not in told.decode()
    assert json.loads(told)["error"].keys() == {"message", "type", "param", "code"}
