"""The scripted upstream: its language, its frames, its rules; and it shares nothing with us."""

import asyncio
import json
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moongate.core.errors import UpstreamError, UpstreamRefused
from moongate.core.request import Call, Message, Tool
from moongate.upstream.frames import Chaos, Frames, Look, shreds
from moongate.upstream.kimi_rules import complaints
from moongate.upstream.prompts import PrefixCache, echo, rounds, story
from moongate.upstream.scripted import ScriptedServer
from moongate.upstream.transcript import Open, Say, Think, Tokens, TranscriptError, Turn, parse
from upstream_kit import KEY, an_ask, events_of, running, told

HEAD = (
    'data: {"id":"chatcmpl-67a1f3c2b4d5e6f708192a3b","object":"chat.completion.chunk",'
    '"created":1769472000,"model":"kimi-k2.5","system_fingerprint":"fpv0_ff52a3ef","choices":['
)


def test_the_language_reads_like_a_transcript() -> None:
    turns = parse(
        """
        # a weather call
        think Hm, "quoted".
        text "a\\nb"
        tool weather {"c":1}
        usage prompt=12 cached=4 completion=9
        ---
        text  two spaces
        """
    )
    assert turns[0].steps[:3] == (Think('Hm, "quoted".'), Say("a\nb"), Open("weather"))
    assert turns[0].steps[-1] == Tokens(12, 4, 9)
    assert turns[1].steps == (Say(" two spaces"),) or turns[1].steps == (
        Say(" two spaces        "),
    )


@pytest.mark.parametrize(
    "line",
    [
        *("tolk a", "delay", "delay soon", "status x", "usage prompt", "usage at=here", "tool"),
        *("usage promt=1", "finish", "reply 200", "error 429", "args#x a", 'text "\\x"', "hold x"),
    ],
)
def test_a_line_that_is_not_of_the_language_is_named(line: str) -> None:
    with pytest.raises(TranscriptError, match="line 2"):
        parse(f"text fine\n{line}")


def test_the_frames_are_these_bytes() -> None:
    frames = Frames(Look(), include_usage=True)
    steps = parse('think Hm.\ntext Io "🌙"\ntool get_w {}\nusage prompt=12 cached=4 completion=9')
    wire = b"".join(item for item in frames.write(steps[0].steps) if isinstance(item, bytes))
    usage = (
        '{"prompt_tokens": 12, "completion_tokens": 9, "total_tokens": 21, "cached_tokens": 4, '
        '"prompt_tokens_details": {"cached_tokens": 4}, '
        '"completion_tokens_details": {"reasoning_tokens": 1}}'
    )
    rest = '"finish_reason":null}],"usage":null}\n\n'
    assert wire.decode() == (
        f'{HEAD}{{"index":0,"delta":{{"role":"assistant","content":""}},{rest}'
        f'{HEAD}{{"index":0,"delta":{{"reasoning_content":"Hm."}},{rest}'
        f'{HEAD}{{"index":0,"delta":{{"content":"Io \\"🌙\\""}},{rest}'
        f'{HEAD}{{"index":0,"delta":{{"tool_calls":[{{"index":0,"id":"functions.get_w:0",'
        f'"type":"function","function":{{"name":"get_w","arguments":""}}}}]}},{rest}'
        f'{HEAD}{{"index":0,"delta":{{"tool_calls":[{{"index":0,"function":'
        f'{{"arguments":"{{}}"}}}}]}},{rest}'
        f'{HEAD}{{"index":0,"delta":{{}},"finish_reason":"tool_calls","usage":{usage}}}],'
        f'"usage":null}}\n\n'
        f'{HEAD}],"usage":{usage}}}\n\n'
        "data: [DONE]\n\n"
    )


@pytest.mark.parametrize(
    ("ids", "pattern"),
    [
        ("functions", r"functions\.get_w:2"),
        ("short", r"get_w:2"),
        ("call", r"call_[0-9a-f]{16}"),
    ],
)
def test_ids_count_over_the_conversation(ids: Any, pattern: str) -> None:
    frames = Frames(Look(ids=ids), calls_before=2)
    wire = b"".join(
        item for item in frames.write(parse("tool get_w {}")[0].steps) if isinstance(item, bytes)
    )
    assert re.search(f'"id":"{pattern}"', wire.decode())


@given(st.binary(max_size=200), st.integers())
def test_shreds_are_the_whole_and_the_same_for_a_seed(data: bytes, seed: int) -> None:
    pieces = shreds(data, random.Random(seed))
    assert b"".join(pieces) == data
    assert all(pieces)
    assert pieces == shreds(data, random.Random(seed))


def test_it_shares_nothing_with_our_codecs() -> None:
    code = (
        "import sys, moongate.upstream.scripted, moongate.upstream.scripted_main;"
        "print([name for name in sys.modules if name.startswith(('moongate.wire',"
        "'moongate.upstream.http', 'moongate.upstream.quirks'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    for name in ("scripted", "scripted_main", "frames", "transcript", "prompts", "kimi_rules"):
        path = Path(__file__).parents[1] / "src" / "moongate" / "upstream" / f"{name}.py"
        assert "moongate.wire" not in path.read_text(encoding="utf-8")


async def test_turns_come_in_order_and_the_last_repeats() -> None:
    async with ScriptedServer("text a\n---\ntext b") as server, running(server.base_url) as there:
        said = [told(await events_of(there))[0].choices[0].text for _ in range(3)]
        assert said == ["a", "b", "b"]


async def test_a_function_of_the_request_chooses() -> None:
    def choose(body: dict[str, Any]) -> str | Turn:
        return f"text {len(body['messages'])} messages"

    async with ScriptedServer(choose) as server, running(server.base_url) as upstream:
        assert told(await events_of(upstream))[0].choices[0].text == "1 messages"


async def test_a_tool_loop_by_rounds() -> None:
    script = 'think One.\ntool look {"a":1}\n---\nthink Two.\ntool look {"a":2}\n---\ntext done'
    async with (
        ScriptedServer(rounds(script), refuse=True) as server,
        running(server.base_url) as upstream,
    ):
        messages = [Message(role="user", content="go")]
        tools = (Tool("look", parameters={"type": "object"}),)
        ids = []
        while True:
            answer = told(await events_of(upstream, an_ask(*messages, tools=tools)))[0]
            choice = answer.choices[0]
            if not choice.calls:
                break
            messages.append(Message("assistant", choice.text, None, choice.thinking, choice.calls))
            ids.extend(call.id for call in choice.calls)
            messages.extend(Message("tool", "found", tool_call_id=call.id) for call in choice.calls)
        assert choice.text == "done"
        assert ids == ["functions.look:0", "functions.look:1"]
        assert server.violations == []


async def test_it_refuses_what_moonshot_refuses() -> None:
    async with ScriptedServer(refuse=True) as server, running(server.base_url) as upstream:
        call = Call("functions.a:0", "abc", "{}")
        ask = an_ask(
            Message(role="user", content="go"),
            Message(role="assistant", content="", tool_calls=(call,)),
            Message(role="tool", content="x", tool_call_id="functions.a:0"),
        )
        with pytest.raises(UpstreamRefused):
            await events_of(upstream, ask)
        assert "reasoning_content is missing" in server.violations[0]
        assert len(server.violations) == 1


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "kimi-k2.5", "messages": [{"role": "user", "content": "hi"}], **fields}


def said(*messages: dict[str, Any]) -> dict[str, Any]:
    return body(messages=[{"role": "user", "content": "hi"}, *messages])


CALL = {"id": "a:0", "type": "function", "function": {"name": "abc", "arguments": "{}"}}
LOOP = {"role": "assistant", "content": None, "reasoning_content": "", "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "a:0", "content": ""}
FUNCTION = {"type": "function", "function": {"name": "abc", "parameters": {"type": "object"}}}
IMAGE = "data:image/png;base64,AAAA"


def parts(*content: Any) -> dict[str, Any]:
    return body(messages=[{"role": "user", "content": list(content)}])


@pytest.mark.parametrize(
    "allowed",
    [
        body(),
        body(temperature=1.0, top_p=0.95, n=1, presence_penalty=0, frequency_penalty=0.0),
        body(thinking={"type": "disabled"}, temperature=0.6),
        body(stop=["a", "b"], max_tokens=5, max_completion_tokens=6, prompt_cache_key="k"),
        body(response_format={"type": "json_object"}),
        body(tools=[FUNCTION], tool_choice="auto", seed=3),
        body(tools=[{"type": "builtin_function", "function": {"name": "$web_search"}}]),
        body(tools=[FUNCTION], tool_choice="required", thinking={"type": "disabled"}),
        said(LOOP, RESULT),
        said(
            LOOP, RESULT, {"role": "assistant", "content": "done"}, {"role": "user", "content": "x"}
        ),
        said({"role": "assistant", "content": "{", "partial": True}),
        parts({"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": IMAGE}}),
        parts({"type": "image_url", "image_url": "ms://file-1"}),
    ],
)
def test_what_the_rules_allow(allowed: dict[str, Any]) -> None:
    assert complaints(allowed) == []


@pytest.mark.parametrize(
    ("refused", "why"),
    [
        ([], "not an object"),
        ({"model": "m"}, "messages is required"),
        (body(model=""), "model is required"),
        (body(temperature=0.5), "invalid temperature: only 1 is"),
        (body(temperature=1.0, thinking={"type": "disabled"}), "only 0.6 is"),
        (body(top_p=0.8), "invalid top_p"),
        (body(n=2), "invalid n"),
        (body(presence_penalty=0.5), "invalid presence_penalty"),
        (body(thinking={"type": "enabled", "keep": "all"}), "unknown keys"),
        (body(thinking=True), "invalid thinking"),
        (body(stop=["x" * 33]), "invalid stop"),
        (body(stop=list("abcdef")), "invalid stop"),
        (body(max_tokens=0), "invalid max_tokens"),
        (body(stream="yes"), "invalid stream"),
        (body(stream_options=3), "invalid stream_options"),
        (body(prompt_cache_key=4), "invalid prompt_cache_key"),
        (body(functions=[]), "not supported"),
        (body(response_format={"type": "xml"}), "invalid response_format"),
        (body(response_format={"type": "json_schema"}), "json_schema"),
        (body(response_format={"type": "json_schema", "json_schema": {"name": "a"}}), "schema"),
        (body(tools=[FUNCTION, FUNCTION]), "function name abc is duplicated"),
        (body(tools=[FUNCTION] * 129), "at most 128"),
        (body(tools=[{"type": "function", "function": {"name": "1 a", "parameters": {}}}]), "name"),
        (body(tools=[{"type": "function", "function": {"name": "abc"}}]), "parameters"),
        (body(tools=[{"type": "builtin_function", "function": {"name": "$x"}}]), "built-in"),
        (body(tools=[FUNCTION], tool_choice="required"), "incompatible with thinking"),
        (body(tools=[FUNCTION], tool_choice="maybe"), "invalid tool_choice"),
        (
            body(tools=[FUNCTION], tool_choice={"type": "function", "function": {"name": "abc"}}),
            "'specified' is incompatible",
        ),
        (body(tool_choice="required", thinking={"type": "disabled"}), "needs tools"),
        (said({"role": "developer", "content": "a"}), "unknown role"),
        (said({"role": "user", "content": ""}), "must not be empty"),
        (said({"role": "user", "content": []}), "must not be empty"),
        (said({"role": "user", "content": 3}), "text or parts"),
        (said({"role": "tool", "content": "x", "tool_call_id": "b"}), "tool_call_id not found"),
        (said(LOOP), "without their tool messages"),
        (said(LOOP, {"role": "user", "content": "x"}), "without their tool messages"),
        (said(LOOP, RESULT, RESULT), "tool_call_id not found"),
        (said(LOOP, RESULT | {"content": None}), "must not be empty"),
        (said({**LOOP, "tool_calls": [{**CALL, "id": ""}]}), "invalid tool call"),
        (said({**LOOP, "reasoning_content": None}, RESULT), "invalid reasoning_content"),
        (said({"role": "user", "content": "a", "partial": True}), "partial is for"),
        (parts({"type": "text", "text": ""}), "text content is empty"),
        (parts({"type": "image_url", "image_url": "https://a/b.png"}), "unsupported image url"),
        (parts({"type": "input_audio"}), "unknown part"),
    ],
)
def test_what_the_rules_refuse(refused: Any, why: str) -> None:
    assert any(why in complaint for complaint in complaints(refused))


async def test_unknown_fields_are_ignored_and_named() -> None:
    async with ScriptedServer(rules=True) as server, aiohttp.ClientSession() as session:
        async with session.post(f"{server.base_url}/chat/completions", json=body(seed=1)) as reply:
            assert (await reply.text()).endswith("data: [DONE]\n\n")
        assert server.ignored == {"seed"}
        assert server.violations == []
        async with session.post(f"{server.base_url}/chat/completions", data=b"{") as reply:
            assert reply.status == 400


async def test_a_key_may_be_demanded() -> None:
    async with ScriptedServer(api_key="sk-right") as server, aiohttp.ClientSession() as session:
        async with session.get(f"{server.base_url}/models") as reply:
            assert reply.status == 401
        headers = {"authorization": "Bearer sk-right"}
        async with session.get(f"{server.base_url}/models", headers=headers) as reply:
            listed = await reply.json()
            assert listed["data"][0]["id"] == "kimi-k2.5"
            assert listed["data"][0]["context_length"] == 262_144


async def test_a_repeated_prefix_is_cached_above_256_tokens() -> None:
    async with (
        ScriptedServer("text a", cache=True) as server,
        running(server.base_url) as upstream,
    ):
        long = Message(role="system", content="moon " * 600)

        async def cached(*messages: Message, **fields: Any) -> int:
            return told(await events_of(upstream, an_ask(*messages, **fields)))[1].cached

        assert await cached(long, Message(role="user", content="one")) == 0
        assert await cached(long, Message(role="user", content="two")) > 700
        assert await cached(long, Message(role="user", content="two"), cache_key="other") == 0
        short = Message(role="system", content="moon " * 50)
        assert await cached(short) == 0
        assert await cached(short) == 0


def test_scopes_share_nothing() -> None:
    cache = PrefixCache()
    prompt = "x" * 4000
    assert cache.look(("a",), prompt) == 0
    assert cache.look(("b",), prompt) == 0
    assert cache.look(("a",), prompt + "y") == 1000


async def test_echo_and_story() -> None:
    async with ScriptedServer(echo) as server, running(server.base_url) as upstream:
        answer, counts = told(await events_of(upstream))
        assert answer.choices[0].text == "Name three moons"
        assert counts.completion == 4  # a thought and three words
    async with ScriptedServer(story(50, 0.002)) as server, running(server.base_url) as upstream:
        answer, counts = told(await events_of(upstream))
        assert counts.completion == 50
        assert len(answer.choices[0].text.split()) == 50


async def test_chaos_is_seeded() -> None:
    async def outcome(seed: int) -> list[str]:
        chaos = Chaos(seed, delay=0.05, delay_s=0.002, cut=0.02, garbage=0.02)
        found = []
        async with (
            ScriptedServer(story(20), chaos=chaos) as server,
            running(server.base_url) as upstream,
        ):
            for _ in range(12):
                try:
                    found.append(f"{len(await events_of(upstream))}")
                except UpstreamError as error:
                    found.append(error.kind)
        # How many reads an answer took is the network's; what came of it is the seed's.
        return ["fine" if word.isdigit() else word for word in found]

    first = await outcome(7)
    assert {"fine", "chunk"} <= set(first)
    assert [word == "fine" for word in first] == [word == "fine" for word in await outcome(7)]


async def test_leaving_and_open_streams_are_counted() -> None:
    async with ScriptedServer("text a\nsilence") as server, running(server.base_url) as upstream:
        streams = [upstream.stream(an_ask()) for _ in range(3)]
        for stream in streams:
            await anext(stream)
        assert server.streams_open == 3
        for stream in streams:
            await stream.aclose()
        await server.until(lambda: server.streams_open == 0)
        assert len(server.disconnects) == 3


async def test_content_does_not_show_in_what_it_remembers() -> None:
    async with ScriptedServer() as server, running(server.base_url) as upstream:
        await events_of(upstream, an_ask(Message(role="user", content="CANARY")))
        assert "CANARY" not in repr(server.requests)
        assert KEY not in repr(server.requests)


async def test_it_runs_as_a_command(tmp_path: Path) -> None:
    script = tmp_path / "moons.txt"
    script.write_text("think Hm.\ntext Io\n", encoding="utf-8")
    command = [sys.executable, "-m", "moongate.upstream.scripted", str(script), "--port", "0"]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), 20)
        async with running(line.decode().strip()) as upstream:
            assert told(await events_of(upstream))[0].choices[0].text == "Io"
    finally:
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 20) == 0


@pytest.mark.parametrize("text", ["tolk a", None])
def test_the_command_says_what_is_wrong_with_a_file(tmp_path: Path, text: str | None) -> None:
    script = tmp_path / "moons.txt"
    if text is not None:
        script.write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "moongate.upstream.scripted", str(script)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "moons.txt" in done.stderr
    assert "Traceback" not in done.stderr
    assert json.dumps("line 1")[1:-1] in done.stderr or text is None
