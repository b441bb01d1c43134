"""An upstream that counts more than we thought: the cap is lowered by its numbers, once."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moongate.upstream.scripted import ScriptedServer
from moongate.upstream.transcript import Reply, Turn, parse
from serving_kit import ONE_UPSTREAM, Served, ask, serve
from wire_kit import check_stream

LIMIT = 32_768
OK = "text Io.\nusage prompt={} completion=2\nfinish stop"
CLASSIC = (
    "This model's maximum context length is {limit} tokens. However, you requested {total} tokens "
    "({prompt} in the messages, {cap} in the completion). Please reduce the length."
)
SGLANG = (
    "Requested token count exceeds the model's maximum context length of {limit} tokens. You "
    "requested a total of {total} tokens: {prompt} tokens from the input messages and {cap} tokens "
    "for the completion."
)
AT_LEAST = (
    "This model's maximum context length is {limit} tokens. However, you requested {cap} output "
    "tokens and your prompt contains at least {least} input tokens, for a total of at least "
    "{more} tokens."
)
KIMI = "Invalid request: Your request exceeded model token limit : {limit}"
REQUESTED = KIMI + " (requested: {total})"
WORDS = {"vllm": CLASSIC, "vllm newer": AT_LEAST, "sglang": SGLANG, "kimi": KIMI,
         "kimi newer": REQUESTED}  # fmt: skip


def strict(words: str, prompt: int, limit: int = LIMIT) -> Callable[[dict[str, Any]], Turn]:
    """A server whose window is ``limit`` and that lowers nothing by itself."""

    def answer(body: dict[str, Any]) -> Turn:
        cap = body.get("max_completion_tokens", body.get("max_tokens"))
        if prompt + cap <= limit:
            return parse(OK.format(prompt))[0]
        facts = {"least": limit - cap + 1, "more": limit + 1, "total": prompt + cap, "cap": cap}
        error = {"message": words.format(prompt=prompt, limit=limit, **facts), "type": "x"}
        return Turn(reply=Reply(400, "application/json", json.dumps({"error": error})))

    return answer


def caps(scripted: ScriptedServer) -> list[int]:
    bodies = [seen.body for seen in scripted.requests if seen.body]
    return [body.get("max_completion_tokens", body.get("max_tokens")) for body in bodies]


async def served_ok(
    served: Served, stream: bool, text: str = "Moons?", **more: Any
) -> tuple[Any, dict[str, str]]:
    reply = await served.post(ask(text, stream=stream, **more))
    raw = await reply.read()
    assert reply.status == 200, raw
    if stream:
        check_stream(raw, include_usage=False)
    return reply, dict(reply.headers)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", WORDS)
async def test_the_cap_is_lowered_by_what_the_upstream_told(
    tmp_path: Path, name: str, stream: bool
) -> None:
    kind = "openai" if name == "vllm" else "vllm"
    async with (
        ScriptedServer(strict(WORDS[name], 100), rules=False) as scripted,
        serve(tmp_path, ONE_UPSTREAM.format(kind=kind, base_url=scripted.base_url)) as served,
    ):
        _, headers = await served_ok(served, stream, max_completion_tokens=LIMIT)
        assert headers["x-moongate-clamped"] == "max_completion_tokens"
        first, second = caps(scripted)
        assert first == LIMIT  # it fits in the window that the model's card tells of
        assert 1 < second <= LIMIT - 100
        if name not in ("vllm newer", "kimi"):  # these told what the prompt is
            assert second == LIMIT - 100
        row = (await served.rows(1))[-1]
        assert (row.outcome, row.attempts, row.usage.prompt, row.usage.output) == (
            "done",
            1,
            100,
            2,
        )
        assert row.spoiled_nanos == row.forgiven_nanos == 0
        await served.sound()


async def test_a_prompt_that_cannot_fit_there_is_told_with_the_numbers(tmp_path: Path) -> None:
    async with (
        ScriptedServer(strict(SGLANG, LIMIT + 7), rules=False) as scripted,
        serve(tmp_path, ONE_UPSTREAM.format(kind="sglang", base_url=scripted.base_url)) as served,
    ):
        reply = await served.post(ask("moon " * 9000, max_completion_tokens=100))
        error = (await reply.json())["error"]
        assert (reply.status, error["code"]) == (400, "context_length_exceeded")
        assert f"needs {LIMIT + 107} tokens; the limit is {LIMIT}." in error["message"]
        assert f"exceeded model token limit : {LIMIT}" in error["message"]
        assert len(caps(scripted)) == 1
        row = (await served.rows(1))[-1]
        assert (row.outcome, row.charge_nanos) == ("refused", 0)
        await served.sound()


async def test_it_is_asked_again_no_more_than_once(tmp_path: Path) -> None:
    def never(body: dict[str, Any]) -> Turn:
        return strict(CLASSIC, 100, body["max_completion_tokens"] - 5)(body)

    async with (
        ScriptedServer(never, rules=False) as scripted,
        serve(tmp_path, ONE_UPSTREAM.format(kind="vllm", base_url=scripted.base_url)) as served,
    ):
        reply = await served.post(ask(max_completion_tokens=1000))
        assert (reply.status, (await reply.json())["error"]["code"]) == (
            400,
            "context_length_exceeded",
        )
        assert caps(scripted) == [1000, 895]
        await served.sound()


TWO = """
[server]
port = 0
[[upstreams]]
name = "first"
kind = "moonshot"
base_url = "{first}"
[[upstreams]]
name = "second"
kind = "vllm"
base_url = "{second}"
[[models]]
id = "kimi-k2.5"
"""


async def test_what_is_named_as_dropped_is_what_the_answering_upstream_dropped(
    tmp_path: Path,
) -> None:
    async with (
        ScriptedServer("status 500\n---\ntext Io.\nfinish stop", rules=False) as first,
        ScriptedServer("text Io.\nfinish stop", rules=False) as second,
        serve(tmp_path, TWO.format(first=first.base_url, second=second.base_url)) as served,
    ):
        more = {"seed": 7, "safety_identifier": "u", "store": True}
        for name, dropped in (("second", "safety_identifier,store"), ("first", "seed,store")):
            _, headers = await served_ok(served, name == "second", f"Say {name}.", **more)
            assert headers["x-moongate-upstream"] == name
            assert headers["x-moongate-dropped"] == dropped
        form = {"response_format": {"type": "json_object"}, "stop": "x"}
        reply = await served.post(ask("Say more.", **more, **form))
        assert reply.headers["x-moongate-dropped"] == "stop,seed,store"
