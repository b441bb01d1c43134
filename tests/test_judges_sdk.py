"""OpenAI's SDKs, their helpers included, against a live server."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

from judges_kit import Stage, run_node, stage
from live_kit import Live

OFF: dict[str, Any] = {"thinking": {"type": "disabled"}}
ASK: dict[str, Any] = {
    "model": "kimi-k2.5",
    "messages": [{"role": "user", "content": "Which moon is icy?"}],
}


class Moon(BaseModel):
    name: str
    icy: bool


class Look(BaseModel):
    """Looks at a moon."""

    moon: str


@pytest.fixture(scope="module")
def kimi() -> Iterator[Stage]:
    with stage() as made:
        yield made


def client(place: Stage | Live, **more: Any) -> OpenAI:
    return OpenAI(api_key=place.key, base_url=place.url, timeout=60, **more)


THOUGHT = """think Ice.
text {"name":"Europa",
text  "icy":true}
usage prompt=20 cached=4 completion=9 reasoning=1
finish stop"""
LOOK = """think I should look.
tool Look {"moon":"Europa"}
tool Look {"moon":"Io"}
finish tool_calls
---
text Europa is icy.
finish stop"""


def test_the_streaming_helper_gathers_content_reasoning_and_usage(kimi: Stage) -> None:
    kimi.says(THOUGHT)
    with client(kimi).chat.completions.stream(
        **ASK, stream_options={"include_usage": True}
    ) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    message = final.choices[0].message
    assert json.loads(message.content or "") == {"name": "Europa", "icy": True}
    assert message.model_extra["reasoning_content"] == "Ice."
    assert final.usage is not None
    assert (final.usage.prompt_tokens, final.usage.model_extra["cached_tokens"]) == (20, 4)
    assert final.usage.model_extra["cost_nanos"] == 16 * 480 + 4 * 100 + 9 * 2000


def test_the_parsing_helpers_make_the_model_of_the_caller(kimi: Stage) -> None:
    kimi.says(THOUGHT)
    parsed = client(kimi).chat.completions.parse(**ASK, response_format=Moon)
    assert parsed.choices[0].message.parsed == Moon(name="Europa", icy=True)
    form = kimi.sent[-1]["response_format"]["json_schema"]
    assert (form["name"], form["strict"]) == ("Moon", True)
    with client(kimi).chat.completions.stream(**ASK, response_format=Moon) as stream:
        partial = [event.parsed for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert {"name": "Europa"} in partial, "half an object is shown before it is whole"
    assert final.choices[0].message.parsed == Moon(name="Europa", icy=True)


def test_the_tool_helpers_parse_arguments_and_replay_the_message(kimi: Stage) -> None:
    kimi.says(LOOK)
    api, tools = client(kimi), [openai.pydantic_function_tool(Look)]
    messages: list[Any] = list(ASK["messages"])
    with api.chat.completions.stream(model="kimi-k2.5", messages=messages, tools=tools) as stream:
        done = [event for event in stream if event.type == "tool_calls.function.arguments.done"]
        message = stream.get_final_completion().choices[0].message
    assert [event.parsed_arguments for event in done] == [Look(moon="Europa"), Look(moon="Io")]
    calls = message.tool_calls or []
    assert [call.function.parsed_arguments for call in calls] == [
        Look(moon="Europa"),
        Look(moon="Io"),
    ]
    messages.append(message)
    messages += [{"role": "tool", "tool_call_id": call.id, "content": "ice"} for call in calls]
    last = api.chat.completions.parse(model="kimi-k2.5", messages=messages, tools=tools)
    assert last.choices[0].message.content == "Europa is icy."
    assert kimi.sent[-1]["messages"][1]["reasoning_content"] == "I should look."


async def test_the_asynchronous_client_streams_as_well(kimi: Stage) -> None:
    kimi.says(THOUGHT)
    async with AsyncOpenAI(api_key=kimi.key, base_url=kimi.url, timeout=60) as api:

        async def one() -> str:
            async with api.chat.completions.stream(**ASK) as stream:
                return (await stream.get_final_completion()).choices[0].message.content or ""

        said = await asyncio.gather(*(one() for _ in range(5)))
    assert {json.loads(text)["name"] for text in said} == {"Europa"}


def test_an_sdk_raises_what_each_error_is(kimi: Stage) -> None:
    api = client(kimi, max_retries=2)
    kimi.says("text Hello.")
    with pytest.raises(openai.BadRequestError, match="only 1 is allowed") as bad:
        api.chat.completions.create(**ASK, temperature=0.2)
    assert (bad.value.code, bad.value.param) == ("invalid_value", "temperature")
    with pytest.raises(openai.NotFoundError):
        api.chat.completions.create(**ASK | {"model": "kimi-k9"})
    with pytest.raises(openai.AuthenticationError):
        OpenAI(api_key="mg-no", base_url=kimi.url).chat.completions.create(**ASK)
    assert kimi.sent == []
    kimi.says("error 429 exceeded_current_quota_error Your account is suspended")
    with pytest.raises(openai.InternalServerError) as gone:
        client(kimi, max_retries=0).chat.completions.create(**ASK)
    assert (gone.value.status_code, gone.value.code) == (503, "overloaded")
    kimi.says("text Euro\nerror-in-stream server_error Oops")
    with pytest.raises(openai.APIError, match="interrupted"):
        list(api.chat.completions.create(**ASK, stream=True))
    kimi.says("think one\nfinish length")
    with pytest.raises(openai.LengthFinishReasonError) as cut:
        api.chat.completions.parse(**ASK, response_format=Moon, max_completion_tokens=1)
    assert "max_completion_tokens" in cut.value.completion.model_extra["hint"]


@pytest.mark.node
def test_the_streaming_helper_of_node(kimi: Stage) -> None:
    kimi.says(THOUGHT)
    told = run_node(
        """
        const deltas = [];
        const stream = client.chat.completions
          .stream({ model: "kimi-k2.5", stream_options: { include_usage: true },
                    messages: [{ role: "user", content: "Which moon is icy?" }] })
          .on("content", (delta) => deltas.push(delta));
        const final = await stream.finalChatCompletion();
        console.log(JSON.stringify({ deltas, message: final.choices[0].message,
                                     usage: await stream.totalUsage() }));
        """,
        kimi.url,
        kimi.key,
    )
    got = json.loads(told)
    assert "".join(got["deltas"]) == got["message"]["content"]
    assert json.loads(got["message"]["content"])["name"] == "Europa"
    assert got["usage"]["total_tokens"] == 29


@pytest.mark.node
def test_the_tool_runner_of_node(kimi: Stage) -> None:
    kimi.says(LOOK)
    told = run_node(
        """
        const looked = [];
        const runner = client.chat.completions.runTools({
          model: "kimi-k2.5", stream: true,
          messages: [{ role: "user", content: "Which moon is icy?" }],
          tools: [{ type: "function", function: {
            name: "Look", description: "Looks at a moon.", parse: JSON.parse,
            parameters: { type: "object", properties: { moon: { type: "string" } } },
            function: ({ moon }) => { looked.push(moon); return "ice"; } } }],
        });
        console.log(JSON.stringify({ content: await runner.finalContent(), looked }));
        """,
        kimi.url,
        kimi.key,
    )
    assert json.loads(told) == {"content": "Europa is icy.", "looked": ["Europa", "Io"]}


@pytest.mark.engine
def test_the_helpers_on_the_embedded_engine(live_server: Live) -> None:
    api = client(live_server)
    parsed = api.chat.completions.parse(**ASK, response_format=Moon, max_completion_tokens=96)
    assert isinstance(parsed.choices[0].message.parsed, Moon)
    called = api.chat.completions.parse(
        **ASK,
        tools=[openai.pydantic_function_tool(Look)],
        tool_choice="required",
        extra_body=OFF,
        max_completion_tokens=96,
    )
    (call,) = called.choices[0].message.tool_calls or []
    assert isinstance(call.function.parsed_arguments, Look)
    with api.chat.completions.stream(
        **ASK, response_format=Moon, max_completion_tokens=96
    ) as stream:
        final = stream.get_final_completion()
    assert isinstance(final.choices[0].message.parsed, Moon)
