"""An embedded engine, its model file shared by all tests, and short ways to ask it."""

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from moongate.core.events import Choice, Event, Fold, Sequence, Text, ToolArgs, Used
from moongate.core.money import Counts
from moongate.core.ports import Ask
from moongate.core.request import Message, Request, Tool
from moongate.core.sealed import Sealed
from moongate.upstream.embedded import EmbeddedUpstream

SEARCH = Tool(
    "search_codebase",
    "Search the codebase for files matching a pattern",
    {
        "type": "object",
        "properties": {
            "pattern": {"type": "string"},
            "file_type": {"type": "string", "enum": ["py", "ts", "js", "go", "rust"]},
        },
        "required": ["pattern"],
    },
)
READ = Tool(
    "read_file",
    "Read the contents of a file",
    {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
)
WRITE = Tool(
    "write_file",
    "Write content to a file",
    {
        "type": "object",
        "properties": {"path": {"type": "string"}, "content": {"type": "string"}},
        "required": ["path", "content"],
    },
)
BRIEF_TOOLS = (SEARCH, READ, WRITE)
BRIEF_TASK = (
    "Find all authentication-related files in the codebase and add rate limiting to each "
    "login endpoint."
)


def model_cache() -> Path:
    """The home folder that all tests share for the stand-in's file."""
    named = os.environ.get("MOONGATE_MODEL_CACHE")
    return Path(named) if named else Path.home() / ".cache" / "moongate"


@asynccontextmanager
async def running(**more: Any) -> AsyncIterator[EmbeddedUpstream]:
    """A started engine."""
    engine = EmbeddedUpstream("embedded", home=more.pop("home", model_cache()), **more)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()


class Heard(Sealed, frozen=True):
    """An answer as it came: its choice, counts, batches, and seconds to the first content."""

    choice: Choice
    counts: Counts
    events: tuple[Event, ...]
    first_s: float
    all_s: float


def request(text: str, **more: Any) -> Request:
    """A conversation of one question."""
    return Request(model="kimi-k2.5", messages=(Message("user", text),), **more)


def ask_for(request: Request, *, cap: int = 64, tenant: str = "org-a") -> Ask:
    """The ask of one request."""
    return Ask(id="req_1", request=request, model="m", output_tokens_max=cap, tenant=tenant)


async def ask(
    engine: EmbeddedUpstream, request: Request, *, cap: int = 64, tenant: str = "org-a"
) -> Heard:
    """Ask, check the order of events, and fold them."""
    began = time.monotonic()
    fold, order = Fold(), Sequence()
    events: list[Event] = []
    first_s = 0.0
    async for batch in engine.stream(ask_for(request, cap=cap, tenant=tenant)):
        for event in batch:
            order.step(event)
            fold.add(event)
            events.append(event)
            if not first_s and isinstance(event, Text | ToolArgs):
                first_s = time.monotonic() - began
    used = [event for event in events if isinstance(event, Used)]
    assert len(used) == 1
    return Heard(
        fold.answer().choices[0],
        used[0].counts,
        tuple(events),
        first_s,
        time.monotonic() - began,
    )
