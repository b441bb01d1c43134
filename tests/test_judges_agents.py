"""An agent framework's structured output, in each of its ways, against a live server."""

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel
from pydantic_ai import Agent, ModelHTTPError, NativeOutput, PromptedOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from judges_kit import Stage, stage
from live_kit import Live

OFF: Any = {"extra_body": {"thinking": {"type": "disabled"}}}


class Moon(BaseModel):
    """A moon of Jupiter."""

    name: str
    icy: bool


@pytest.fixture(scope="module")
def kimi() -> Iterator[Stage]:
    with stage() as made:
        yield made


@contextlib.asynccontextmanager
async def agent_of(place: Stage | Live, form: Any, **more: Any) -> AsyncIterator[Agent[None, Any]]:
    async with AsyncOpenAI(base_url=place.url, api_key=place.key, timeout=60) as api:
        model = OpenAIChatModel("kimi-k2.5", provider=OpenAIProvider(openai_client=api))
        yield Agent(model, output_type=form, **more)


QUESTION = "Which moon is icy?"


EUROPA = 'text {"name":"Europa","icy":true}\nfinish stop'


@pytest.mark.parametrize("form", [NativeOutput, PromptedOutput])
async def test_json_becomes_the_type(kimi: Stage, form: Any) -> None:
    kimi.says(f"think Ice.\n{EUROPA}")
    async with agent_of(kimi, form(Moon)) as agent:
        assert (await agent.run(QUESTION)).output == Moon(name="Europa", icy=True)
    named = {NativeOutput: "json_schema", PromptedOutput: "json_object"}[form]
    assert kimi.sent[-1]["response_format"]["type"] == named


async def test_a_forced_tool_becomes_the_type_with_thinking_off(kimi: Stage) -> None:
    kimi.says('tool final_result {"name":"Europa","icy":true}\nfinish tool_calls')
    async with agent_of(kimi, ToolOutput(Moon), model_settings=OFF) as agent:
        assert (await agent.run(QUESTION)).output == Moon(name="Europa", icy=True)
    assert kimi.sent[-1]["tool_choice"] == "required"


async def test_a_forced_tool_with_thinking_on_says_what_is_wrong(kimi: Stage) -> None:
    async with agent_of(kimi, ToolOutput(Moon)) as agent:
        with pytest.raises(ModelHTTPError, match="incompatible with thinking enabled") as refused:
            await agent.run(QUESTION)
    assert refused.value.status_code == 400


async def test_a_tool_of_the_agent_is_called_in_a_loop(kimi: Stage) -> None:
    kimi.says(f'think Look.\ntool look {{"moon":"Europa"}}\nfinish tool_calls\n---\n{EUROPA}')
    looked = []
    async with agent_of(kimi, NativeOutput(Moon)) as agent:

        @agent.tool_plain
        def look(moon: str) -> str:
            """Looks at a moon."""
            looked.append(moon)
            return "ice"

        assert (await agent.run(QUESTION)).output.icy
    assert looked == ["Europa"]
    assert len(kimi.sent) == 2


async def test_a_streamed_run_ends_in_the_type(kimi: Stage) -> None:
    kimi.says('think Ice.\ntext {"name":"Eur\ntext opa","icy":true}\nfinish stop')
    async with (
        agent_of(kimi, NativeOutput(Moon)) as agent,
        agent.run_stream(QUESTION) as run,
    ):
        assert await run.get_output() == Moon(name="Europa", icy=True)


@pytest.mark.engine
async def test_the_embedded_engine_fills_the_type(live_server: Live) -> None:
    async with agent_of(live_server, NativeOutput(Moon)) as agent:
        done = await agent.run(QUESTION, model_settings={"max_tokens": 96})
    assert isinstance(done.output, Moon)
