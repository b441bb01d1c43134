"""Agents' tool loops through the whole gateway, by the Python SDK, as people write them."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from openai import APIError, AsyncOpenAI

from moongate.upstream.frames import Look
from moongate.upstream.prompts import rounds
from moongate.upstream.scripted import ScriptedServer
from serving_kit import ONE_UPSTREAM, Served, ask, serve
from test_examples import THREE_ROUNDS, TOOLS
from wire_kit import check_stream

KIMI = ("moonshot", "vllm", "sglang", "openai")
CALLED = ["search_codebase", "read_file", "read_file", "write_file"]
IDS = [
    "functions.search_codebase:0",
    "functions.read_file:1",
    "functions.read_file:2",
    "functions.write_file:3",
]
THOUGHTS = ["Search first.", "Now read both.", "Write it."]
BEGIN, END = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"


def leaked(*calls: tuple[str, str]) -> str:
    made = [
        f"<|tool_call_begin|>{i}<|tool_call_argument_begin|>{a}<|tool_call_end|>" for i, a in calls
    ]
    return f"{BEGIN}{''.join(made)}{END}"


@asynccontextmanager
async def standing(
    tmp_path: Path,
    script: Any,
    kind: str = "moonshot",
    look: Look | None = None,
    family: str = "",
) -> AsyncIterator[tuple[ScriptedServer, Served, AsyncOpenAI]]:
    """A scripted upstream that refuses what Moonshot would, Moongate before it, and an SDK."""
    strict = kind == "moonshot"
    async with (
        ScriptedServer(script, look=look, rules=strict, refuse=strict) as scripted,
        serve(
            tmp_path,
            ONE_UPSTREAM.format(kind=kind, base_url=scripted.base_url) + f'family = "{family}"\n',
        ) as served,
        AsyncOpenAI(base_url=served.url, api_key=served.key, max_retries=0) as api,
    ):
        yield scripted, served, api


async def agent_loop(
    api: AsyncOpenAI, *, strip: bool = False, rename: bool = False
) -> tuple[list[Any], list[dict[str, str]]]:
    """The brief's loop. Returns its messages, and the headers of each answer.

    ``strip``: the client drops the reasoning; ``rename``: it makes ids of its own.
    """
    messages: list[Any] = [{"role": "user", "content": "Add rate limiting to each login endpoint."}]
    headers: list[dict[str, str]] = []
    while True:
        raw = await api.chat.completions.with_raw_response.create(
            model="kimi-k2.5", messages=messages, tools=TOOLS, tool_choice="auto"
        )
        headers.append(dict(raw.headers))
        response = raw.parse()
        message: Any = response.choices[0].message
        if strip:
            message = message.model_dump(exclude={"reasoning_content"}, exclude_none=True)
        messages.append(message)
        calls = response.choices[0].message.tool_calls
        if not calls:
            return messages, headers
        for number, call in enumerate(calls):
            id = f"call_{number}" if rename else call.id
            if rename:
                message["tool_calls"][number]["id"] = id
            messages.append({"role": "tool", "tool_call_id": id, "content": f"done {number}"})


def bodies(scripted: ScriptedServer) -> list[dict[str, Any]]:
    return [seen.body for seen in scripted.requests if seen.body]


def read_by_the_model(body: dict[str, Any]) -> tuple[list[str], list[str], list[str | None]]:
    """Ids of calls, ids of results, and the reasoning of each message that calls."""
    calls = [m for m in body["messages"] if m.get("tool_calls")]
    return (
        [call["id"] for message in calls for call in message["tool_calls"]],
        [m["tool_call_id"] for m in body["messages"] if m["role"] == "tool"],
        [message.get("reasoning_content") for message in calls],
    )


@pytest.mark.parametrize("kind", KIMI)
@pytest.mark.parametrize("client", ["plain", "strips", "strips and renames"])
async def test_three_rounds_by_the_sdk_break_no_rule(
    tmp_path: Path, kind: str, client: str
) -> None:
    strip, rename = client != "plain", "renames" in client
    look = Look(ids="short", reasoning="reasoning" if kind == "vllm" else "reasoning_content")
    async with standing(tmp_path, rounds(THREE_ROUNDS), kind, look) as (scripted, served, api):
        messages, headers = await agent_loop(api, strip=strip, rename=rename)
        assert scripted.violations == []
        assert read_by_the_model(bodies(scripted)[-1]) == (IDS, IDS, THOUGHTS)
        sent = [json.dumps(body["messages"]).encode() for body in bodies(scripted)]
        for shorter, longer in pairwise(sent):
            assert longer.startswith(shorter[:-1])
        if client == "plain":
            seen = [
                call.id
                for m in messages[1:]
                if not isinstance(m, dict)
                for call in m.tool_calls or ()
            ]
            assert seen == IDS
        named = [head.get("x-moongate-repaired", "") for head in headers]
        first, second, third = (f"messages[{at}].reasoning_content" for at in (1, 3, 6))
        repaired = ["", first, f"{first},{second}", f"{first},{second},{third}"]
        assert named == (repaired if strip else [""] * 4)
        assert [row.outcome for row in await served.usage()] == ["done"] * 4
        await served.sound()


async def test_a_restart_forgets_and_the_loop_goes_on(tmp_path: Path) -> None:
    async with standing(tmp_path, rounds(THREE_ROUNDS)) as (scripted, served, api):
        messages, _ = await agent_loop(api, strip=True)
        served.app.gateway.replay._entries.clear()
        await api.chat.completions.create(model="kimi-k2.5", messages=messages[:-1], tools=TOOLS)  # type: ignore[arg-type]  # as dicts
        assert scripted.violations == []
        assert read_by_the_model(bodies(scripted)[-1])[2] == ["", "", ""]


async def test_a_zero_retention_key_leaves_no_reasoning_behind(tmp_path: Path) -> None:
    config = ONE_UPSTREAM.replace('kind = "{kind}"', 'kind = "{kind}"\ndata_policy = "self-hosted"')
    async with (
        ScriptedServer(rounds(THREE_ROUNDS)) as scripted,
        serve(tmp_path, config.format(kind="vllm", base_url=scripted.base_url)) as served,
    ):
        _, secret = await served.app.keys.create(
            account="default", name="zero", zero_retention=True
        )
        async with AsyncOpenAI(base_url=served.url, api_key=secret, max_retries=0) as api:
            await agent_loop(api, strip=True)
        assert read_by_the_model(bodies(scripted)[-1]) == (IDS, IDS, ["", "", ""])
        assert repr(served.app.gateway.replay) == "Replay(0 entries, 0 bytes)"


@pytest.mark.parametrize("kind", ["openai", "vllm"])
async def test_another_model_is_sent_what_the_client_sent(tmp_path: Path, kind: str) -> None:
    look = Look(ids="call")
    async with standing(tmp_path, rounds(THREE_ROUNDS), kind, look, "other") as (
        scripted,
        served,
        api,
    ):
        messages, headers = await agent_loop(api, strip=True)
        calls, results, reasoning = read_by_the_model(bodies(scripted)[-1])
        assert calls == results
        assert all(id.startswith("call_") for id in calls)
        assert calls == [c["id"] for m in messages[1:] for c in m.get("tool_calls", ())]
        assert reasoning == [None] * 3
        assert not any("x-moongate-repaired" in head for head in headers)
        assert repr(served.app.gateway.replay) == "Replay(0 entries, 0 bytes)"


SECTION = leaked(
    ("functions.search_codebase:9", '{"pattern":"login","file_type":"py"}'),
    ("functions.read_file:0", '{"path":"a.py"}'),
)
NUMBERED = leaked(("0", '{"pattern":"login"}'), ("1", '{"path":"a.py"}'))


def pieces(word: str, text: str, size: int) -> str:
    cut = [text[at : at + size] for at in range(0, len(text), size)]
    return "\n".join(f"{word} {json.dumps(piece)}" for piece in cut)


@pytest.mark.parametrize("kind", KIMI)
@pytest.mark.parametrize("size", [1, 5, 1000])
@pytest.mark.parametrize("where", ["text", "think"])
@pytest.mark.parametrize("section", [SECTION, NUMBERED], ids=["named", "numbered"])
async def test_leaked_markers_become_calls_streamed_and_whole(
    tmp_path: Path, kind: str, size: int, where: str, section: str
) -> None:
    script = f"think I must look.\n{pieces(where, section, size)}\nusage prompt=9 completion=9\n"
    async with standing(tmp_path, script + "finish stop", kind) as (_, served, _api):
        whole = await (await served.post(ask(tools=TOOLS))).json()
        stream = await (await served.post(ask(tools=TOOLS, stream=True))).read()
        assert b"<|" not in stream
        (folded,) = check_stream(stream, include_usage=False)["choices"]
        (choice,) = whole["choices"]
        message = choice["message"]
        assert message["content"] == folded["content"] == ""
        assert message["reasoning_content"] == folded["reasoning_content"] == "I must look."
        assert choice["finish_reason"] == folded["finish_reason"] == "tool_calls"
        made = [(c["id"], c["function"]["name"]) for c in message["tool_calls"]]
        assert made == [(c["id"], c["name"]) for c in folded["tool_calls"].values()]
        assert made == [
            ("functions.search_codebase:0", "search_codebase"),
            ("functions.read_file:1", "read_file"),
        ]
        arguments = [json.loads(c["function"]["arguments"]) for c in message["tool_calls"]]
        assert arguments[1] == {"path": "a.py"}
        assert [json.loads(c["arguments"]) for c in folded["tool_calls"].values()] == arguments
        await served.sound()


async def test_a_section_that_breaks_off_costs_nothing_and_shows_nothing(tmp_path: Path) -> None:
    script = f"text Let me look.\n{pieces('text', SECTION[:-60], 7)}\nfinish stop"
    async with standing(tmp_path, script, "vllm") as (_, served, api):
        whole = await served.post(ask(tools=TOOLS))
        assert whole.status == 502
        assert (await whole.json())["error"]["code"] == "upstream_error"
        stream = await (await served.post(ask(tools=TOOLS, stream=True))).read()
        assert b"Let me look." in stream
        assert b"<|" not in stream
        assert b"[DONE]" not in stream
        with pytest.raises(APIError):
            async for _chunk in await api.chat.completions.create(
                model="kimi-k2.5",
                messages=[{"role": "user", "content": "x"}],
                tools=TOOLS,  # type: ignore[arg-type]  # as dicts
                stream=True,
            ):
                pass
        rows = await served.rows(3)
        assert {(row.outcome, row.charge_nanos) for row in rows} == {("upstream_error", 0)}
        for _ in range(6):  # a model's nonsense does not have its upstream left alone
            assert (await served.post(ask(tools=TOOLS))).status == 502
        await served.sound()


@pytest.mark.parametrize("size", [1, 9, 1000])
async def test_prose_about_markers_reaches_the_client_as_it_is(tmp_path: Path, size: int) -> None:
    prose = f"Kimi opens with {BEGIN}, then <|tool_call_begin|>functions.NAME:IDX; <think> too."
    async with standing(tmp_path, pieces("text", prose, size)) as (_, served, _api):
        whole = await (await served.post(ask(tools=TOOLS))).json()
        assert whole["choices"][0]["message"]["content"] == prose
        stream = await (await served.post(ask(tools=TOOLS, stream=True))).read()
        (folded,) = check_stream(stream, include_usage=False)["choices"]
        assert (folded["content"], folded["finish_reason"]) == (prose, "stop")


PARALLEL = """
tool read_file
tool search_codebase
args#0 {"path":
args#1 {"pattern":"x",
args#0 "a.py"}
args#1 "file_type":"py"}
"""


async def test_parallel_calls_keep_their_index_and_their_arguments(tmp_path: Path) -> None:
    async with standing(tmp_path, PARALLEL) as (_, served, api):
        stream = await (await served.post(ask(tools=TOOLS, stream=True))).read()
        (folded,) = check_stream(stream, include_usage=False)["choices"]
        assert {i: (c["id"], c["arguments"]) for i, c in folded["tool_calls"].items()} == {
            0: ("functions.read_file:0", '{"path":"a.py"}'),
            1: ("functions.search_codebase:1", '{"pattern":"x","file_type":"py"}'),
        }
        message = (await (await served.post(ask(tools=TOOLS))).json())["choices"][0]["message"]
        whole = [(c["id"], c["function"]["arguments"]) for c in message["tool_calls"]]
        assert whole == [(c["id"], c["arguments"]) for c in folded["tool_calls"].values()]
        async with api.chat.completions.stream(
            model="kimi-k2.5",
            messages=[{"role": "user", "content": "x"}],
            tools=TOOLS,  # type: ignore[arg-type]  # as dicts
        ) as events:
            final = await events.get_final_completion()
        calls = final.choices[0].message.tool_calls or []
        assert [(call.id, call.function.arguments) for call in calls] == whole


async def test_two_conversations_at_once_keep_their_reasoning_apart(tmp_path: Path) -> None:
    """Ids repeat across conversations; what each thought does not."""

    def script(body: dict[str, Any]) -> str:
        name = body["messages"][0]["content"]
        if len(body["messages"]) > 1:
            return "text Done."
        return f'think I am {name}.\ntool read_file {{"path":"a.py"}}'

    async with standing(tmp_path, script) as (scripted, _, api):

        async def one(name: str) -> None:
            messages: list[Any] = [{"role": "user", "content": name}]
            for _ in range(2):
                answer = await api.chat.completions.create(
                    model="kimi-k2.5",
                    messages=messages,
                    tools=TOOLS,  # type: ignore[arg-type]  # as dicts
                )
                said = answer.choices[0].message
                messages.append(said.model_dump(exclude={"reasoning_content"}, exclude_none=True))
                messages += [
                    {"role": "tool", "tool_call_id": call.id, "content": "x"}
                    for call in said.tool_calls or ()
                ]

        names = [f"agent {at}" for at in range(20)]
        await asyncio.gather(*(one(name) for name in names))
        later = [body for body in bodies(scripted) if len(body["messages"]) > 1]
        assert sorted(
            (body["messages"][0]["content"], body["messages"][1]["reasoning_content"])
            for body in later
        ) == sorted((name, f"I am {name}.") for name in names)
        assert scripted.violations == []
