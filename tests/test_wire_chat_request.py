"""Chat requests: what is read is written again, and nothing is lost on the way."""

import json

import msgspec
from hypothesis import given

from moongate.core.request import ImagePart, Request, TextPart, ToolChoice, VideoPart
from moongate.wire.chat import ChatCodec
from wire_kit import requests

CODEC = ChatCodec()

RICH = {
    "model": "kimi-k2.5",
    "messages": [
        {"role": "system", "content": "You are terse.", "name": "setup", "x_m": [1, None]},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is this?", "cache_control": {"type": "ephemeral"}},
                {"type": "image_url", "image_url": {"url": "ms://f1", "detail": "high"}, "x": 1},
                {"type": "image_url", "image_url": "data:image/png;base64, AAAA"},
                {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}},
            ],
        },
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": "",
            "tool_calls": [
                {
                    "id": "functions.look:0",
                    "type": "function",
                    "function": {"name": "look", "arguments": '{"a": 1}', "x_f": 2},
                    "x_c": {"y": []},
                },
                {
                    "id": "s1",
                    "type": "builtin_function",
                    "function": {"name": "$web_search", "arguments": "{}"},
                },
            ],
            "refusal": None,
        },
        {"role": "tool", "content": "{}", "name": "$web_search", "tool_call_id": "s1"},
        {
            "role": "tool",
            "content": [{"type": "text", "text": "a moon"}],
            "tool_call_id": "functions.look:0",
        },
        {"role": "assistant", "content": "{", "name": "Luna", "partial": True},
    ],
    "tools": [
        {
            "type": "function",
            "function": {
                "name": "look",
                "description": "Look at it.",
                "parameters": {"type": "object", "properties": {"a": {"const": 2**70}}},
                "strict": False,
                "x_f": 1,
            },
            "x_t": None,
        },
        {"type": "builtin_function", "function": {"name": "$web_search"}},
    ],
    "tool_choice": {"type": "function", "function": {"name": "look"}},
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "n", "schema": {}, "strict": True, "description": "d"},
        "x_r": 0,
    },
    "thinking": {"type": "disabled"},
    "temperature": 0.6,
    "top_p": 0.95,
    "n": 1,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "stop": ["END", "\u6708"],
    "max_completion_tokens": 262144,
    "stream": True,
    "stream_options": {"include_usage": True, "x_s": 1},
    "prompt_cache_key": "session-1",
    "safety_identifier": "u1",
    "logprobs": None,
    "x_new": {"deep": [{"er": 10**30}]},
}


def read(body: object) -> Request:
    return CODEC.read_request(json.dumps(body).encode())


def ask(**fields: object) -> Request:
    return read({"model": "m", "messages": [{"role": "user", "content": "hi"}]} | fields)


def test_a_rich_body_loses_nothing():
    assert CODEC.write_request(read(RICH)) == RICH


def test_the_rich_body_is_understood():
    request = read(RICH)
    text, image, bare, video = request.messages[1].content or ()
    assert text == TextPart("What is this?", {"cache_control": {"type": "ephemeral"}})
    assert image == ImagePart("ms://f1", extra={"image_url": {"detail": "high"}, "x": 1})
    assert bare == ImagePart("data:image/png;base64, AAAA", bare=True)
    assert video == VideoPart("data:video/mp4;base64,AAAA")
    assert request.messages[2].thinking == ""
    assert request.messages[5].partial
    assert request.tool_choice == ToolChoice("named", "look")
    assert request.thinking is False
    assert (request.stream, request.include_usage) == (True, True)
    assert list(request.extra) == ["safety_identifier", "logprobs", "x_new", "stream_options"]


@given(requests())
def test_any_request_comes_back(request_):
    body = CODEC.write_request(request_)
    again = CODEC.read_request(msgspec.json.encode(body))
    assert again == request_
    assert CODEC.write_request(again) == body


def test_the_smallest_body_stays_small():
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    assert CODEC.write_request(read(body)) == body


def test_a_null_is_as_good_as_absence():
    names = [*(set(RICH) - {"model", "messages", "x_new", "logprobs", "safety_identifier"})]
    assert ask(**dict.fromkeys([*names, "max_tokens"])) == ask()


def test_a_developer_is_written_as_the_system():
    messages = [{"role": "developer", "content": "x"}, {"role": "user", "content": "y"}]
    request = ask(messages=messages)
    assert request.messages[0].role == "developer"
    assert CODEC.write_request(request)["messages"][0] == {"role": "system", "content": "x"}


def test_the_newer_cap_wins():
    assert ask(max_tokens=5).output_tokens_max == 5
    assert ask(max_tokens=5, max_completion_tokens=7).output_tokens_max == 7


def test_one_stop_is_a_list_of_one():
    assert ask(stop="END").sampling.stop == ("END",)
    assert ask(stop=[]).sampling.stop == ()


def test_an_sdk_replays_its_own_message():
    """What openai-python makes of our answer goes back in, nulls of unknown fields included."""
    from openai.types.chat import ChatCompletionMessage

    answer = {
        "role": "assistant",
        "content": "",
        "reasoning_content": "let me see",
        "tool_calls": [
            {
                "id": "functions.look:0",
                "type": "function",
                "function": {"name": "look", "arguments": "{}"},
            }
        ],
    }
    message = ChatCompletionMessage.model_validate(answer)
    for replayed in (message.model_dump(), message.model_dump(exclude_unset=True)):
        tool = {"role": "tool", "tool_call_id": "functions.look:0", "content": ""}
        request = ask(messages=[{"role": "user", "content": "x"}, replayed, tool])
        assert request.messages[1].content == ""
        assert request.messages[1].thinking == "let me see"
        assert CODEC.write_request(request)["messages"][1] == replayed
    assert "refusal" in message.model_dump()


def test_content_may_lack_beside_tool_calls():
    call = {"id": "c", "function": {"name": "f", "arguments": ""}}
    tool = {"role": "tool", "tool_call_id": "c", "content": "done"}
    for content in ({}, {"content": None}, {"content": ""}, {"content": []}):
        asked = {"role": "assistant", "tool_calls": [call]} | content
        request = ask(messages=[{"role": "user", "content": "x"}, asked, tool])
        written = CODEC.write_request(request)["messages"][1]
        assert written["content"] == content.get("content")
        assert written["tool_calls"][0]["type"] == "function"


def test_ids_may_return_in_later_rounds():
    call = {"id": "look:0", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    round_ = [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "look:0", "content": "x"},
    ]
    messages = [{"role": "user", "content": "x"}, *round_, *round_]
    assert len(ask(messages=messages).messages) == 5


def test_equal_prefixes_are_equal_bytes():
    """An upstream's prompt cache lives on it: order and spelling never change between turns."""
    messages = RICH["messages"][:5]
    short = msgspec.json.encode(CODEC.write_request(read(RICH | {"messages": messages})))
    longer = [*messages, {"role": "user", "content": "and?"}]
    long = msgspec.json.encode(CODEC.write_request(read(RICH | {"messages": longer})))
    shared = short[: short.index(b'}],"tools"') + 1]
    assert long.startswith(shared)


def test_content_never_shows_in_a_repr():
    request = read(json.loads(json.dumps(RICH).replace("moon", "c4n4ry").replace("look", "c4n4ry")))
    assert "c4n4ry" not in repr(request)
    assert "c4n4ry" not in repr(request.messages)
