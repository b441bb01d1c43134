"""256K of context: a real source tree in one prompt, billed to the token, and the window's edges.

The tree is Python's own library, packed as the product's page shows it. The vocabulary is a
stand-in in the form of the one that comes with the weights: each piece of the tree's text is one
token.
"""

import asyncio
import base64
import os
import sysconfig
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import regex
from openai import APIStatusError, AsyncOpenAI, BadRequestError

from moongate.core.request import Message, Request
from moongate.meter import tokenizer, tokens
from moongate.upstream.scripted import ScriptedServer
from serving_kit import Served, serve
from vocabulary_kit import vocabulary

WINDOW = 262_144
CHARS = 1_100_000
REVIEWER = "You are a code reviewer. Analyse the entire codebase provided."
CONFIG = """
[server]
port = 0
drain_s = 2

[[upstreams]]
name = "there"
kind = "vllm"
cache_probe = false
base_url = "{base_url}"

[[models]]
id = "kimi"
window = {window}
abilities = ["tools", "json", "partial", "thinking"]
tokenizer = "{file}"
targets = [{{ upstream = "there", model = "kimi" }}]
price = {{ input = "0.48", cached = "0.10", output = "2.00" }}
"""
SILENT = "text It looks fine.\nusage at=none\nfinish stop"


def source_tree(folder: Path) -> Path:
    """Copy so many of Python's own files to a project of their own."""
    left = CHARS
    stdlib = Path(sysconfig.get_path("stdlib"))
    for file in sorted(stdlib.glob("*.py")) + sorted(stdlib.glob("[a-z]*/*.py")):
        if left <= 0 or "site-packages" in file.parts:
            continue
        text = file.read_text("utf-8", "replace")
        left -= len(text)
        place = folder / "my-project" / file.relative_to(stdlib)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, "utf-8")
    (folder / "my-project" / "node_modules").mkdir()
    (folder / "my-project" / "node_modules" / "large.js").write_text("never read")
    return folder / "my-project"


def packed(project: Path) -> str:
    """The tree as one text, as the product's page packs it."""
    codebase_contents = ""
    for root, dirs, files in os.walk(project):
        dirs[:] = [d for d in dirs if d not in {".git", "node_modules", "__pycache__"}]
        for file in sorted(files):
            if file.endswith((".py", ".ts", ".js")):
                path = Path(root) / file
                codebase_contents += f"\n\n--- {path} ---\n{path.read_text('utf-8')}"
    return codebase_contents


def tree_vocabulary(folder: Path, text: str) -> Path:
    """The small vocabulary, and behind it each piece of ``text`` that it lacks."""
    file = vocabulary(folder)
    lines = file.read_text().splitlines()
    known = {base64.b64decode(line.split()[0]) for line in lines}
    pieces = regex.findall(tokenizer.PATTERN, text, regex.V1)
    more = [piece for piece in dict.fromkeys(p.encode() for p in pieces) if piece not in known]
    for rank, piece in enumerate(more, len(lines)):
        lines.append(f"{base64.b64encode(piece).decode()} {rank}")
    file.write_text("\n".join(lines) + "\n")
    return file


@pytest.fixture(scope="module")
def codebase(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The packed tree, and the vocabulary's file."""
    folder = tmp_path_factory.mktemp("context")
    text = packed(source_tree(folder))
    assert len(text) > 1_000_000
    assert "never read" not in text
    return text, tree_vocabulary(folder, text)


@pytest.fixture
async def scripted() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer(SILENT, rules=False) as server:
        yield server


@pytest.fixture
async def served(
    tmp_path: Path, codebase: tuple[str, Path], scripted: ScriptedServer
) -> AsyncIterator[Served]:
    config = CONFIG.format(base_url=scripted.base_url, window=WINDOW, file=codebase[1])
    async with serve(tmp_path, config) as running:
        yield running


def conversation(text: str) -> list[Any]:
    question = "Identify all security vulnerabilities and provide remediation steps."
    return [
        {"role": "system", "content": REVIEWER},
        {"role": "user", "content": f"Here is the codebase:\n{text}\n\n{question}"},
    ]


def filled(text: str, file: Path, size: int) -> list[Any]:
    """A conversation about ``text`` whose prompt has exactly ``size`` tokens."""
    counter = tokenizer.load(str(file), "models[0].tokenizer")

    def count(messages: list[Any]) -> int:
        asked = Request("kimi", tuple(Message(m["role"], m["content"]) for m in messages))
        found = tokens.count(asked, 2 * WINDOW, counter)
        assert found.exact
        return found.tokens

    messages = conversation(text)
    more = size - count(messages)
    assert 0 < more < 50_000, "the tree fills most of the window"
    content = messages[1]["content"]
    for _ in range(9):  # where the tokenizer cuts long text, a word may take two tokens
        messages[1]["content"] = content + " moon" * more
        found = count(messages)
        if found == size:
            return messages
        more += size - found
    raise AssertionError("no such size")


async def test_a_codebase_is_billed_to_the_token_and_one_token_too_many_is_told(
    served: Served, scripted: ScriptedServer, codebase: tuple[str, Path]
) -> None:
    text, file = codebase
    messages = await asyncio.to_thread(filled, text, file, WINDOW - 1)
    client = AsyncOpenAI(api_key=served.key, base_url=served.url, max_retries=0, timeout=60)
    async with client:
        before, _ = await served.wallet()
        raw = await client.chat.completions.with_raw_response.create(
            model="kimi", messages=messages, max_completion_tokens=16_000
        )
        assert raw.headers["x-moongate-clamped"] == "max_completion_tokens"
        usage = raw.parse().usage
        assert usage is not None
        assert usage.prompt_tokens == WINDOW - 1
        (sent,) = [seen.body for seen in scripted.requests if seen.method == "POST"]
        assert sent["max_completion_tokens"] == 1, "the window less one leaves room for one"
        assert sent["messages"] == messages
        (row,) = await served.usage()
        assert row.usage.prompt == WINDOW - 1
        cost = (WINDOW - 1) * 480 + usage.completion_tokens * 2_000
        after, _ = await served.wallet()
        paid = before - after
        assert paid == row.charge_nanos == min(cost, (WINDOW - 1) * 480 + 2_000)

        for size in (WINDOW, WINDOW + 1):  # exactly full, and one over
            messages = await asyncio.to_thread(filled, text, file, size)
            with pytest.raises(BadRequestError) as caught:
                await client.chat.completions.create(model="kimi", messages=messages)
            told = caught.value.body
            assert isinstance(told, dict)
            assert (told["code"], told["param"]) == ("context_length_exceeded", "messages")
            # The prompt, and one token of answer.
            assert f"needs {size + 1} tokens; the limit is {WINDOW}." in told["message"]
            assert f"exceeded model token limit : {WINDOW}" in told["message"]
    assert len(await served.usage()) == 1
    assert (await served.wallet())[0] == after
    await served.sound()


async def test_the_cap_is_lowered_at_the_edge_and_not_before(
    served: Served, scripted: ScriptedServer, codebase: tuple[str, Path]
) -> None:
    messages = await asyncio.to_thread(filled, *codebase, WINDOW - 2_000)
    client = AsyncOpenAI(api_key=served.key, base_url=served.url, max_retries=0, timeout=60)
    async with client:
        for asked, cap, named in (
            (1_999, 1_999, None),
            (2_000, 2_000, None),
            (2_001, 2_000, "max_completion_tokens"),
            (None, 2_000, "max_completion_tokens"),  # the model's own default is larger
        ):
            more: dict[str, Any] = {} if asked is None else {"max_tokens": asked}
            raw = await client.chat.completions.with_raw_response.create(
                model="kimi", messages=messages, **more
            )
            assert raw.headers.get("x-moongate-clamped") == named
            assert scripted.requests[-1].body["max_completion_tokens"] == cap


async def test_what_the_upstream_counted_is_what_a_large_prompt_costs(
    tmp_path: Path, codebase: tuple[str, Path]
) -> None:
    text, file = codebase
    said = "text Fine.\nusage prompt=250000 cached=200000 completion=3"
    async with ScriptedServer(said, rules=False) as counting:
        config = CONFIG.format(base_url=counting.base_url, window=WINDOW, file=file)
        async with serve(tmp_path, config) as served:
            messages = await asyncio.to_thread(filled, text, file, 255_000)
            client = AsyncOpenAI(api_key=served.key, base_url=served.url, max_retries=0)
            async with client:
                answer = await client.chat.completions.create(model="kimi", messages=messages)
            assert answer.usage is not None
            extra = answer.usage.model_extra or {}
            assert extra["cost_nanos"] == 50_000 * 480 + 200_000 * 100 + 3 * 2_000
            assert extra["saved_nanos"] == 200_000 * 380


async def test_a_body_beyond_the_bound_is_told_to_the_sdk(
    tmp_path: Path, scripted: ScriptedServer, codebase: tuple[str, Path]
) -> None:
    config = CONFIG.format(base_url=scripted.base_url, window=WINDOW, file=codebase[1])
    small = config.replace("port = 0", "port = 0\nbody_bytes_max = 1000000")
    async with serve(tmp_path, small) as served:
        client = AsyncOpenAI(api_key=served.key, base_url=served.url, max_retries=0)
        async with client:
            with pytest.raises(APIStatusError) as caught:
                await client.chat.completions.create(
                    model="kimi", messages=conversation(codebase[0])
                )
        assert (caught.value.status_code, caught.value.code) == (413, "request_too_large")
        assert "exceeds 1000000 bytes" in str(caught.value)
