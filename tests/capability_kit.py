"""The capability matrix: what each kind of upstream lets a client do, and how that is shown.

A row is a feature: a scenario that runs over HTTP against a whole Moongate, once for each kind of
upstream. A cell is ``works``, where the scenario passed, or ``refused``, where the feature's
request is refused for one of :data:`REASONS`. The scenarios stand in ``capability_*_cases.py``;
docs/capabilities.md is made of the same rows.
"""

import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import moongate.delivery
from engine_kit import model_cache
from moongate.upstream.frames import Look
from moongate.upstream.scripted import ScriptedServer
from search_kit import engine
from serving_kit import ONE_UPSTREAM, Served, serve
from wire_kit import check_stream

KINDS: Final = ("moonshot", "vllm", "sglang", "openai", "embedded")
LOOKS: Final = {
    # How servers of each kind spell their answers.
    "moonshot": Look(usage="both", ids="short"),
    "vllm": Look(usage="every", reasoning="reasoning"),
    "sglang": Look(usage="nested"),
    "openai": Look(usage="top", ids="call"),
}
REASONS: Final = {
    "prefix": "OpenAI's API has no way to continue an assistant's message.",
    "blind": "The stand-in reads no pictures and no videos; `GET /v1/models` says so.",
}
"""Why a cell may be ``refused``; nothing else is an excuse."""

EMBEDDED: Final = """
[server]
port = 0
[[upstreams]]
name = "embedded"
kind = "embedded"
data_policy = "self-hosted"
[embedded]
slots = 2
"""
PLAIN: Final = """
[[models]]
id = "text-only"
window = 8192
output_tokens_default = 64
family = "other"
abilities = ["tools", "thinking"]
targets = [{{ upstream = "{kind}", model = "kimi-k2.5" }}]
price = {{ input = "0.48", cached = "0.10", output = "2.00" }}
"""
SEARCH: Final = """
[search]
engine = "searxng"
base_url = "{url}"
pages = false
"""
POLICIES: Final = ("standard", "strict", "lenient")


@dataclass
class Got:
    """One reply: ``sent`` is the body that the upstream was sent for it, if one was."""

    status: int
    headers: dict[str, str]
    body: dict[str, Any] = field(repr=False)
    sent: dict[str, Any] = field(repr=False)

    @property
    def message(self) -> dict[str, Any]:
        return self.body["choices"][0]["message"]

    @property
    def text(self) -> str:
        return self.message["content"]

    @property
    def calls(self) -> list[dict[str, Any]]:
        return self.message.get("tool_calls", [])

    @property
    def finish(self) -> str:
        return self.body["choices"][0]["finish_reason"]

    @property
    def usage(self) -> dict[str, Any]:
        return self.body["usage"]

    @property
    def error(self) -> dict[str, Any]:
        return self.body["error"]


def asked(**fields: Any) -> dict[str, Any]:
    """A body with what every request needs."""
    messages = [{"role": "user", "content": "Name three moons."}]
    return {"model": "kimi-k2.5", "messages": messages, **fields}


class Place:
    """A served Moongate with one upstream, and a script for what that one says next."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.http = kind != "embedded"
        self.served: Served
        self.keys: dict[str, str] = {}
        self.turns: list[str] = []
        self.scripted = ScriptedServer(
            self._next,
            look=LOOKS.get(kind),
            rules=kind == "moonshot",
            refuse=True,
            cache=True,
        )

    def _next(self, _body: dict[str, Any]) -> str:
        return self.turns.pop(0) if len(self.turns) > 1 else self.turns[0]

    async def whole(self, script: str, *, key: str = "standard", **fields: Any) -> Got:
        """Ask for an unstreamed answer; the upstream says ``script``."""
        got, text = await self._post(script, key, asked(**fields))
        got.body = json.loads(text)
        return got

    async def stream(self, script: str, *, key: str = "standard", **fields: Any) -> Got:
        """Ask for a stream, hold it against its grammar, and fold it into a whole answer's body."""
        options = fields.get("stream_options") or {}
        got, text = await self._post(script, key, asked(stream=True, **fields))
        if got.status != 200:
            got.body = json.loads(text)
            return got
        include_usage = options.get("include_usage") is True
        got.body = as_whole(check_stream(text, include_usage=include_usage))
        return got

    async def both(self, script: str, **fields: Any) -> Got:
        """Ask both ways: what is said, and on a scripted upstream what it cost, is the same."""
        whole = await self.whole(script, **fields)
        assert whole.status == 200, whole.body
        streamed = await self.stream(script, **fields)
        assert streamed.status == 200, streamed.body
        if self.http:
            kept = {name: whole.body.get(name) for name in ("usage", "hint")}
            assert kept == {name: streamed.body.get(name) for name in kept}
            assert whole.body["choices"] == streamed.body["choices"]
            assert whole.sent == streamed.sent, "an upstream is always asked for a stream"
        return whole

    async def refuses(self, code: str, *, key: str = "standard", **fields: Any) -> Got:
        """It is refused with 400 and ``code``; no upstream is asked, nothing is charged."""
        before = await self.served.usage()
        for stream in (False, True):
            got = await self.whole("text no", key=key, stream=stream, **fields)
            assert (got.status, got.body.get("error", {}).get("code")) == (400, code), got.body
            assert got.sent == {}, "an upstream was asked"
        charged = sum(row.charge_nanos for row in (await self.served.usage())[len(before) :])
        assert charged == 0
        return got

    async def estimate(self, **fields: Any) -> int:
        """Prompt tokens, as the server says before it is asked."""
        url = f"{self.served.url}/tokenizers/estimate-token-count"
        head = {"authorization": f"Bearer {self.keys['standard']}"}
        reply = await self.served.http.post(url, json=asked(**fields), headers=head)
        assert reply.status == 200, await reply.text()
        return (await reply.json())["data"]["total_tokens"]

    async def _post(self, script: str, key: str, body: dict[str, Any]) -> tuple[Got, bytes]:
        self.turns = script.split("\n---\n")
        before = len(self.scripted.requests)
        if not self.http and "max_completion_tokens" not in body and "max_tokens" not in body:
            body["max_completion_tokens"] = 16
        head = {"authorization": f"Bearer {self.keys[key]}"}
        reply = await self.served.post(body, **head)
        text = await reply.read()
        seen = [one.body for one in self.scripted.requests[before:] if one.method == "POST"]
        headers = {name.lower(): value for name, value in reply.headers.items()}
        return Got(reply.status, headers, {}, seen[-1] if seen else {}), text


def as_whole(folded: dict[str, Any]) -> dict[str, Any]:
    """A folded stream in the shape of the unstreamed body."""
    choices = []
    for one in folded["choices"]:
        message: dict[str, Any] = {"role": "assistant", "content": one["content"]}
        if one["reasoning_content"] is not None:
            message["reasoning_content"] = one["reasoning_content"]
        calls = [
            {
                "id": call["id"],
                "type": call["type"],
                "function": {"name": call["name"], "arguments": call["arguments"]},
            }
            for _, call in sorted(one["tool_calls"].items())
        ]
        if calls:
            message["tool_calls"] = calls
        if one["annotations"]:
            message["annotations"] = one["annotations"]
        reason = one["finish_reason"]
        choices.append({"index": one["index"], "message": message, "finish_reason": reason})
    return {"choices": choices, "usage": folded["usage"]} | (
        {"hint": folded["hint"]} if folded["hint"] else {}
    )


Scenario = Callable[[Place], Awaitable[None]]


@dataclass(frozen=True)
class Feature:
    """A row. ``refused``: kind -> the reason's key; there ``body`` is refused with its code."""

    name: str
    area: str
    title: str
    run: Scenario
    refused: dict[str, str]
    body: dict[str, Any]
    also: tuple[str, ...]

    async def show(self, place: Place) -> None:
        """Run the cell of ``place``'s kind."""
        reason = self.refused.get(place.kind)
        if reason is not None:
            await place.refuses("unsupported_ability", **self.body)
        else:
            await self.run(place)


FEATURES: Final[dict[str, Feature]] = {}


def feature(
    area: str,
    title: str,
    *,
    refused: dict[str, str] | None = None,
    body: dict[str, Any] | None = None,
    also: tuple[str, ...] = (),
) -> Callable[[Scenario], Scenario]:
    """Make a scenario a row. ``also``: other tests that show it, as ``FILE::NAME``."""

    def add(run: Scenario) -> Scenario:
        name = run.__name__
        assert name not in FEATURES, name
        FEATURES[name] = Feature(name, area, title, run, refused or {}, body or {}, also)
        return run

    return add


@contextlib.asynccontextmanager
async def place_of(kind: str, folder: Path) -> AsyncIterator[Place]:
    """A Moongate with one upstream of ``kind``, and a key of each policy."""
    place = Place(kind)
    async with contextlib.AsyncExitStack() as stack:
        config = EMBEDDED
        if place.http:
            await stack.enter_async_context(place.scripted)
            config = ONE_UPSTREAM + PLAIN
            config = config.format(kind=kind, base_url=place.scripted.base_url)
        else:
            models = model_cache() / "models"
            models.mkdir(parents=True, exist_ok=True)
            (folder / "home").mkdir(mode=0o700)
            (folder / "home" / "models").symlink_to(models)
        web = await stack.enter_async_context(engine())
        config += SEARCH.format(url=web.url)
        stack.enter_context(patch.object(moongate.delivery, "_PULSE_S", 0.1))
        place.served = await stack.enter_async_context(serve(folder, config))
        keys = place.served.app.keys
        for policy in POLICIES:
            _, place.keys[policy] = await keys.create(account="default", name=policy, policy=policy)
        yield place
        await place.served.quiet()
        await place.served.sound()
        assert place.scripted.violations == []


def table() -> Iterator[str]:
    """The matrix as a page's tables, and the reasons below them."""
    numbers = {key: at for at, key in enumerate(REASONS, 1)}
    area = ""
    for row in FEATURES.values():
        if row.area != area:
            area = row.area
            yield f"\n## {area}\n"
            yield "| Feature | " + " | ".join(KINDS) + " | Shown by |"
            yield "|---" * (len(KINDS) + 2) + "|"
        cells = [
            f"refused ({numbers[row.refused[kind]]})" if kind in row.refused else "works"
            for kind in KINDS
        ]
        tests = ", ".join([f"`{row.name}`", *(f"`{test}`" for test in row.also)])
        yield f"| {row.title} | {' | '.join(cells)} | {tests} |"
    yield "\n## Why a cell is refused\n"
    yield from (f"{number}. {REASONS[key]}" for key, number in numbers.items())
