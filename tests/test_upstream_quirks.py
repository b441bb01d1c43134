"""The exact body that each kind of upstream is sent."""

import json
from typing import Any

import pytest

from moongate.core.errors import ROWS, Refused, UpstreamRefused
from moongate.core.ports import Ask
from moongate.core.request import (
    Call,
    Format,
    ImagePart,
    Message,
    Request,
    Sampling,
    TextPart,
    Tool,
    ToolChoice,
)
from moongate.upstream.kimi_rules import complaints
from moongate.upstream.quirks import OWNED, QUIRKS, dropped_names, shape
from moongate.wire.chat import ChatCodec
from upstream_kit import an_ask

KINDS = ("moonshot", "vllm", "sglang", "openai")
PNG = "data:image/png;base64,iVBORw0KGgo="
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}


def body_of(ask: Ask, kind: Any, forward: tuple[str, ...] = ()) -> dict[str, Any]:
    body = ChatCodec().write_request(ask.request)
    before = json.dumps(body)
    out = shape(body, ask, kind, forward)
    assert json.dumps(body) == before
    return out


def rich_ask() -> Ask:
    return an_ask(
        Message(role="developer", content="Be brief.", extra={"cache_control": {"type": "x"}}),
        Message(
            role="user",
            content=(
                TextPart("Weather?", extra={"cache_control": {}}),
                ImagePart(PNG, extra={"image_url": {"detail": "low", "sneaky": 1}}),
                ImagePart(PNG, bare=True),
            ),
        ),
        Message(
            role="assistant",
            content="",
            thinking="I need the weather.",
            tool_calls=(
                Call("functions.weather:0", "weather", '{"city":"Oslo"}', extra={"index": 0}),
            ),
            extra={"refusal": None, "annotations": [], "audio": None, "function_call": None},
        ),
        Message(role="tool", content="4°C", tool_call_id="functions.weather:0", name="weather"),
        tools=(Tool("weather", "Tells it.", PARAMETERS, strict=True, extra={"cache_control": {}}),),
        tool_choice=ToolChoice("auto"),
        format=Format("json_schema", "answer", {"type": "object"}, strict=True),
        sampling=Sampling(stop=("END",)),
        cache_key="session-1",
        include_usage=True,
        stream=True,
        output_tokens_max=50_000,
        extra={
            "seed": 7,
            "user": "someone",
            "store": True,
            "safety_identifier": "hash",
            "cache_salt": "mine",
            "chat_template": "{{evil}}",
            "chat_template_kwargs": {"thinking": False},
            "logprobs": True,
            "guided_grammar": "root ::= x",
        },
    )


SCHEMA = {
    "type": "json_schema",
    "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": True},
}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Tells it.",
            "parameters": PARAMETERS,
            "strict": True,
        },
    }
]


def messages(media: dict[str, Any], second: Any, **reasoning: str) -> list[dict[str, Any]]:
    return [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Weather?"},
                {"type": "image_url", "image_url": media},
                {"type": "image_url", "image_url": second},
            ],
        },
        {
            "role": "assistant",
            "content": "",
            **reasoning,
            "tool_calls": [
                {
                    "id": "functions.weather:0",
                    "type": "function",
                    "function": {"name": "weather", "arguments": '{"city":"Oslo"}'},
                }
            ],
        },
        {
            "role": "tool",
            "content": "4°C",
            "name": "weather",
            "tool_call_id": "functions.weather:0",
        },
    ]


WHY = "I need the weather."
ENGINE = {
    "seed": 7,
    "model": "kimi-k2.5",
    "messages": messages(
        {"url": PNG, "detail": "low"}, {"url": PNG}, reasoning_content=WHY, reasoning=WHY
    ),
    "tools": TOOLS,
    "tool_choice": "auto",
    "response_format": SCHEMA,
    "stop": ["END"],
    "max_completion_tokens": 1000,
    "chat_template_kwargs": {"thinking": True},
    "temperature": 1.0,
    "top_p": 0.95,
    "cache_salt": "tenant-a",
    "stream": True,
    "stream_options": {"include_usage": True, "continuous_usage_stats": True},
}
SNAPSHOTS: dict[str, dict[str, Any]] = {
    "moonshot": {
        "safety_identifier": "hash",
        "model": "kimi-k2.5",
        "messages": messages({"url": PNG}, {"url": PNG}, reasoning_content=WHY),
        "tools": TOOLS,
        "tool_choice": "auto",
        "response_format": SCHEMA,
        "stop": ["END"],
        "max_completion_tokens": 1000,
        "prompt_cache_key": "b3b86e71bdc19dc91ee5b947c9302437",
        "stream": True,
        "stream_options": {"include_usage": True},
    },
    "vllm": ENGINE,
    "sglang": ENGINE
    | {"messages": messages({"url": PNG, "detail": "low"}, {"url": PNG}, reasoning_content=WHY)},
    "openai": {
        "seed": 7,
        "user": "someone",
        "safety_identifier": "hash",
        "model": "kimi-k2.5",
        "messages": messages({"url": PNG, "detail": "low"}, {"url": PNG}, reasoning_content=WHY),
        "tools": TOOLS,
        "tool_choice": "auto",
        "response_format": SCHEMA,
        "stop": ["END"],
        "max_tokens": 1000,
        "prompt_cache_key": "b3b86e71bdc19dc91ee5b947c9302437",
        "stream": True,
        "stream_options": {"include_usage": True},
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_body_is_this(kind: Any) -> None:
    assert body_of(rich_ask(), kind) == SNAPSHOTS[kind]


def test_what_moonshot_is_sent_is_what_moonshot_allows() -> None:
    assert complaints(body_of(rich_ask(), "moonshot")) == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_smallest_body_is_this(kind: Any) -> None:
    ask = an_ask(Message(role="user", content="hi"))
    hi = [{"role": "user", "content": "hi"}]
    common = {"model": "kimi-k2.5", "messages": hi, "stream": True}
    engine = {
        **common,
        "max_completion_tokens": 1000,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "chat_template_kwargs": {"thinking": True},
        "temperature": 1.0,
        "top_p": 0.95,
        "cache_salt": "tenant-a",
    }
    usage = {"stream_options": {"include_usage": True}}
    assert (
        body_of(ask, kind)
        == {
            "moonshot": {**common, **usage, "max_completion_tokens": 1000},
            "vllm": engine,
            "sglang": engine,
            "openai": {**common, **usage, "max_tokens": 1000},
        }[kind]
    )


@pytest.mark.parametrize(
    ("kind", "thinking", "said"),
    [
        ("moonshot", True, {"thinking": {"type": "enabled"}}),
        ("moonshot", False, {"thinking": {"type": "disabled"}}),
        ("vllm", False, {"chat_template_kwargs": {"thinking": False}, "temperature": 0.6}),
        ("sglang", False, {"chat_template_kwargs": {"thinking": False}, "temperature": 0.6}),
        ("vllm", True, {"chat_template_kwargs": {"thinking": True}, "temperature": 1.0}),
        ("openai", False, {}),
    ],
)
def test_the_thinking_switch(kind: Any, thinking: bool, said: dict[str, Any]) -> None:
    body = body_of(an_ask(thinking=thinking), kind)
    switches = {"thinking", "chat_template_kwargs", "temperature"}
    assert {name: body[name] for name in switches & set(body)} == said


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_client_said_of_sampling_stands(kind: Any) -> None:
    body = body_of(an_ask(sampling=Sampling(temperature=0.25, top_p=0.5, n=2)), kind)
    assert (body["temperature"], body["top_p"], body["n"]) == (0.25, 0.5, 2)


def test_partial_mode_by_kind() -> None:
    prefix = Message(role="assistant", content="{", partial=True, name="Kimi")
    ask = an_ask(Message(role="user", content="JSON, please"), prefix)
    moonshot = body_of(ask, "moonshot")
    assert moonshot["messages"][-1] == {
        "role": "assistant",
        "content": "{",
        "name": "Kimi",
        "partial": True,
    }
    assert "continue_final_message" not in moonshot
    for kind in ("vllm", "sglang"):
        body = body_of(ask, kind)
        assert body["messages"][-1] == {"role": "assistant", "content": "{", "name": "Kimi"}
        assert body["continue_final_message"] is True
        assert body["add_generation_prompt"] is False
        assert body["chat_template_kwargs"] == {"thinking": False}
        assert body["temperature"] == 1.0  # the client's mode, all the same
    with pytest.raises(UpstreamRefused) as refused:
        body_of(ask, "openai")
    assert Refused(refused.value.row, **refused.value.facts).status == 400


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("url", ["http://169.254.169.254/x.png", "https://a/b.png", "file:///etc"])
def test_no_upstream_is_sent_an_address_to_fetch(kind: Any, url: str) -> None:
    ask = an_ask(Message(role="user", content=(ImagePart(url),)))
    with pytest.raises(UpstreamRefused) as refused:
        body_of(ask, kind)
    assert refused.value.row == "image_url_not_allowed"
    assert url not in repr(refused.value)


def test_uploaded_media_exist_at_moonshot_only() -> None:
    ask = an_ask(Message(role="user", content=(ImagePart("ms://file-1"),)))
    assert (
        body_of(ask, "moonshot")["messages"][0]["content"][0]["image_url"]["url"] == "ms://file-1"
    )
    for kind in ("vllm", "sglang", "openai"):
        with pytest.raises(UpstreamRefused):
            body_of(ask, kind)


def test_built_in_functions_exist_at_moonshot_only() -> None:
    ask = an_ask(tools=(Tool("$web_search", type="builtin_function"),))
    assert body_of(ask, "moonshot")["tools"] == [
        {"type": "builtin_function", "function": {"name": "$web_search"}}
    ]
    for kind in ("vllm", "sglang", "openai"):
        with pytest.raises(UpstreamRefused):
            body_of(ask, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_no_list_can_forward_a_field_of_ours(kind: Any) -> None:
    extra = dict.fromkeys(sorted(OWNED), "smuggled") | {"mine": 1}
    request = Request(
        model="kimi-k2.5", messages=(Message(role="user", content="hi"),), extra={"mine": 1}
    )
    ask = Ask("req_1", request, "kimi-k2.5", 10, "tenant-a")
    clean = body_of(ask, kind, ("mine",))
    smuggling = Ask(
        "req_1", Request("kimi-k2.5", request.messages, extra=extra), "kimi-k2.5", 10, "tenant-a"
    )
    body = ChatCodec().write_request(request)
    assert shape(body, smuggling, kind, ("mine", *OWNED)) == clean
    assert clean["mine"] == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_dropped_field_is_named_and_a_forwarded_one_is_not(kind: Any) -> None:
    ask = rich_ask()
    body = body_of(ask, kind)
    dropped = dropped_names(ask.request, kind)
    for name in ask.request.extra:
        forwarded = name in body and name not in OWNED
        assert forwarded != (name in dropped)
    assert "messages.cache_control" in dropped
    assert "tools.cache_control" not in dropped  # it was empty
    assert "messages.refusal" not in dropped


def test_only_plain_names_are_named() -> None:
    request = Request("kimi-k2.5", (), extra={"a\r\nx: y": 1, "ok_1": 2, "ü": 3})
    assert dropped_names(request, "openai") == ("ok_1",)
    assert dropped_names(request, "openai", ("ok_1",)) == ()


def test_each_kind_fills_each_cell() -> None:
    assert set(QUIRKS) == set(KINDS)
    for quirks in QUIRKS.values():
        assert quirks.reasoning
        assert not quirks.forward & OWNED
        assert not quirks.forward & {"logprobs", "store", "metadata", "service_tier", "functions"}
    assert "unsupported_ability" in ROWS


@pytest.mark.parametrize("kind", ["moonshot", "openai"])
def test_a_cache_key_meets_only_its_own_tenants(kind: Any) -> None:
    def key(tenant: str, said: str | None) -> Any:
        request = Request("kimi-k2.5", (Message(role="user", content="x"),), cache_key=said)
        ask = Ask("req_1", request, "kimi-k2.5", 10, tenant)
        return shape(ChatCodec().write_request(request), ask, kind).get("prompt_cache_key")

    assert key("a", "one") == key("a", "one")
    assert len({key("a", "one"), key("b", "one"), key("a", "two"), "one"}) == 4
    assert len(key("a", "one")) == 32
    assert key("a", None) is None
