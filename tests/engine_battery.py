"""Asking a live server for instances of many schemas, and judging what comes back.

Each schema is asked for in four ways: as a tool's parameters and as ``json_schema``, streamed and
not. An answer either finished, and then the independent validator takes it, or it did not.
"""

import json
import random
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jsonschema import Draft202012Validator

import engine_schemas

TOKENS = 256
WAYS = ("tool", "tool streamed", "json_schema", "json_schema streamed")
Case = tuple[str, str]


@dataclass(frozen=True)
class Told:
    """What became of one case. ``fault`` is empty, or says what is wrong with the answer."""

    name: str
    way: str
    finished: bool
    fault: str
    tokens: int
    took_s: float
    text: str


def every() -> list[Case]:
    """Each schema in each way."""
    return [(name, way) for name in engine_schemas.ALL for way in WAYS]


def rotated(count: int, seed: int) -> list[Case]:
    """So many schemas, each in one way; over the seeds each schema has its turn in every way."""
    names = list(engine_schemas.ALL)
    random.Random(0).shuffle(names)  # neighbours of one kind come apart
    turns = [divmod(seed * count + at, len(names)) for at in range(count)]
    return [(names[at], WAYS[(round + at) % len(WAYS)]) for round, at in turns]


def body(schema: dict[str, Any], way: str) -> dict[str, Any]:
    """The request for one case."""
    form, _, streamed = way.partition(" ")
    question = "Call the tool record." if form == "tool" else "Give one example as JSON."
    asked: dict[str, Any] = {
        "model": "kimi-k2.5",
        "messages": [{"role": "user", "content": question}],
        "thinking": {"type": "disabled"},
        "max_completion_tokens": TOKENS,
        "stream": bool(streamed),
        "seed": 1,
    }
    if form == "tool":
        function = {"name": "record", "parameters": engine_schemas.tool(schema), "strict": True}
        asked["tools"] = [{"type": "function", "function": function}]
        asked["tool_choice"] = "required"
    else:
        inner = {"name": "example", "schema": schema, "strict": True}
        asked["response_format"] = {"type": "json_schema", "json_schema": inner}
    return asked


def post(url: str, key: str, asked: dict[str, Any]) -> tuple[int, bytes]:
    """Status and body of one chat completion."""
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    wire = urllib.request.Request(
        f"{url}/chat/completions", json.dumps(asked).encode(), headers, method="POST"
    )
    try:
        with urllib.request.urlopen(wire, timeout=300) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def choice(data: bytes, *, streamed: bool) -> dict[str, Any]:
    """The only choice of an answer, with its usage beside it; a stream is folded."""
    if not streamed:
        whole = json.loads(data)
        return {**whole["choices"][0], "usage": whole["usage"]}
    message: dict[str, Any] = {"content": "", "tool_calls": []}
    out: dict[str, Any] = {"message": message}
    for chunk in _chunks(data):
        one = chunk["choices"][0]
        message["content"] += one["delta"].get("content") or ""
        for call in one["delta"].get("tool_calls", ()):
            if "id" in call:
                message["tool_calls"].append(call)
            else:
                function = message["tool_calls"][call["index"]]["function"]
                function["arguments"] += call["function"]["arguments"]
        if one["finish_reason"]:
            out |= {"finish_reason": one["finish_reason"], "usage": one["usage"]}
    return out


def _chunks(data: bytes) -> Iterator[dict[str, Any]]:
    frames = [line[6:] for line in data.decode().split("\n") if line.startswith("data: ")]
    if frames[-1] != "[DONE]":
        raise ValueError(f"no end: {frames[-1]}")
    yield from map(json.loads, frames[:-1])


def ask(url: str, key: str, case: Case) -> Told:
    """Ask for one case and judge the answer."""
    name, way = case
    schema = engine_schemas.ALL[name]
    began = time.monotonic()
    status, data = post(url, key, body(schema, way))
    took_s = time.monotonic() - began
    if status != 200:
        return Told(name, way, False, f"{status} {data.decode()}", 0, took_s, "")
    try:
        one = choice(data, streamed=way.endswith("streamed"))
    except (ValueError, KeyError) as error:
        return Told(name, way, False, f"{type(error).__name__} {error}", 0, took_s, "")
    message, text = one["message"], one["message"]["content"]
    if way.startswith("tool"):
        schema = engine_schemas.tool(schema)
        text = message["tool_calls"][0]["function"]["arguments"]
    tokens = one["usage"]["completion_tokens"]
    if one["finish_reason"] == "length":
        return Told(name, way, False, "", tokens, took_s, text)
    return Told(name, way, True, _fault(schema, text), tokens, took_s, text)


def _fault(schema: dict[str, Any], text: str) -> str:
    try:
        value = json.loads(text, object_pairs_hook=_once)
    except ValueError as error:
        return f"no JSON: {error}"
    errors = sorted(error.message for error in Draft202012Validator(schema).iter_errors(value))
    return "; ".join(errors)[:200]


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a name twice")
    return dict(pairs)
