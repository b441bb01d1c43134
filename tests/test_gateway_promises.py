"""Structured output through the whole gateway: as promised, asked for again, or an error."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from moongate.core.money import charge
from moongate.upstream.scripted import ScriptedServer
from serving_kit import ONE_UPSTREAM, Served, ask, serve
from wire_kit import check_stream

SCHEMA = {
    "type": "object",
    "properties": {"moons": {"type": "array", "items": {"type": "string"}, "minItems": 1}},
    "required": ["moons"],
    "additionalProperties": False,
}
FORM = {"type": "json_schema", "json_schema": {"name": "moons", "schema": SCHEMA}}
OBJECT = {"type": "json_object"}
TOOL = {"type": "function", "function": {"name": "save", "parameters": SCHEMA}}
GOOD = '{"moons": ["Io", "Europa"]}'
FENCED = f"Here:\n```json\n{GOOD}\n```\nEnjoy!"
WRONG = '{"moons": []}'
PROSE = "I would rather not."
COUNTS = "usage prompt=100 cached=20 completion={}"


def turn(text: str, count: int = 10, *, thinks: str = "", finish: str = "stop") -> str:
    """One answer of the upstream, its text in pieces of five characters."""
    pieces = [f"text {json.dumps(text[at : at + 5])}" for at in range(0, len(text), 5)]
    thought = [f"think {thinks}"] if thinks else []
    return "\n".join([*thought, *pieces, COUNTS.format(count), f"finish {finish}"])


def call(arguments: str, count: int = 10) -> str:
    pieces = [f"args {json.dumps(arguments[at : at + 5])}" for at in range(0, len(arguments), 5)]
    return "\n".join(["tool save", *pieces, COUNTS.format(count), "finish tool_calls"])


@asynccontextmanager
async def upstream_says(
    tmp_path: Path, *turns: str
) -> AsyncIterator[tuple[Served, ScriptedServer]]:
    async with (
        ScriptedServer("\n---\n".join(turns)) as scripted,
        serve(tmp_path, ONE_UPSTREAM.format(kind="openai", base_url=scripted.base_url)) as served,
    ):
        yield served, scripted


async def answer(served: Served, stream: bool, **more: Any) -> tuple[int, dict[str, Any]]:
    """Status, and the one choice folded; or the error object, whichever way it came."""
    reply = await served.post(ask(stream=stream, **more))
    raw = await reply.read()
    if reply.status != 200:
        return reply.status, json.loads(raw)["error"]
    if not stream:
        body = json.loads(raw)
        message = body["choices"][0]["message"]
        calls = [one["function"] for one in message.get("tool_calls", [])]
        said = {"text": message["content"], "calls": calls, "usage": body["usage"]}
        return 200, {**said, "reason": body["choices"][0]["finish_reason"]}
    if b'"error"' in raw:
        assert not raw.endswith(b"[DONE]\n\n")
        return 200, json.loads(raw.strip().split(b"data: ")[-1])["error"]
    folded = check_stream(raw, include_usage=False)
    choice = folded["choices"][0]
    calls = [{k: c[k] for k in ("name", "arguments")} for c in choice["tool_calls"].values()]
    said = {"text": choice["content"], "calls": calls, "usage": folded["usage"]}
    return 200, {**said, "reason": choice["finish_reason"]}


def asked(scripted: ScriptedServer) -> list[Any]:
    """The bodies that the upstream was sent."""
    return [seen.body for seen in scripted.requests if seen.body is not None]


async def the_row(served: Served, count: int = 1) -> Any:
    row = (await served.rows(count))[-1]
    await served.sound()
    return row


BOTH = pytest.mark.parametrize("stream", [False, True])


@BOTH
@pytest.mark.parametrize("form", [OBJECT, FORM])
@pytest.mark.parametrize("text", [GOOD, FENCED, f"{GOOD}\n\nThat is all."])
async def test_the_value_is_delivered_and_nothing_around_it(
    tmp_path: Path, text: str, form: Any, stream: bool
) -> None:
    async with upstream_says(tmp_path, turn(text)) as (served, scripted):
        status, said = await answer(served, stream, response_format=form)
        assert (status, said["text"], said["reason"]) == (200, GOOD, "stop")
        assert "attempts" not in said["usage"]
        row = await the_row(served)
        assert (row.attempts, row.spoiled_nanos, row.forgiven_nanos) == (1, 0, 0)
        assert len(asked(scripted)) == 1


@BOTH
@pytest.mark.parametrize("form", [OBJECT, FORM])
async def test_an_answer_that_is_not_as_promised_is_asked_for_again_once(
    tmp_path: Path, form: Any, stream: bool
) -> None:
    async with upstream_says(tmp_path, turn(PROSE, 7), turn(GOOD, 10)) as (served, scripted):
        before, _ = await served.wallet()
        status, said = await answer(served, stream, response_format=form)
        assert (status, said["text"], said["reason"]) == (200, GOOD, "stop")
        assert said["usage"]["attempts"] == 2
        assert said["usage"]["completion_tokens"] == 10
        row = await the_row(served)
        price = (await served.app.store.prices())[0].price
        spoiled = 80 * price.input + 20 * price.cached + 7 * price.output
        assert (row.outcome, row.attempts, row.usage.output) == ("done", 2, 10)
        assert (row.charge_nanos, row.forgiven_nanos) == (charge(row.usage, price), spoiled)
        assert row.spoiled_nanos == spoiled
        assert said["usage"]["cost_nanos"] == row.charge_nanos
        assert before - (await served.wallet())[0] == row.charge_nanos
        first, second = asked(scripted)
        assert first == second


@BOTH
@pytest.mark.parametrize("form", [OBJECT, FORM])
async def test_two_answers_that_are_not_as_promised_are_an_error_at_no_charge(
    tmp_path: Path, form: Any, stream: bool
) -> None:
    turns = (turn(PROSE, 7), turn(PROSE, 10), turn(GOOD))
    async with upstream_says(tmp_path, *turns) as (served, scripted):
        before, _ = await served.wallet()
        status, said = await answer(served, stream, response_format=form)
        assert (status, said["code"], said["type"]) == (502, "upstream_error", "server_error")
        row = await the_row(served)
        assert (row.outcome, row.charge_nanos, row.attempts) == ("upstream_error", 0, 2)
        assert row.status == 502
        assert row.forgiven_nanos > row.spoiled_nanos > 0
        assert (await served.wallet())[0] == before
        assert len(asked(scripted)) == 2
        log = served.log.getvalue()
        assert log.count("not_as_promised") == 2
        assert PROSE not in log


async def test_a_wrong_instance_is_replaced_whole_and_ends_a_stream_in_an_error(
    tmp_path: Path,
) -> None:
    async with upstream_says(tmp_path, turn(WRONG), turn(GOOD), turn(WRONG), turn(GOOD)) as (
        served,
        scripted,
    ):
        status, said = await answer(served, False, response_format=FORM)
        assert (status, said["text"], said["usage"]["attempts"]) == (200, GOOD, 2)
        before, _ = await served.wallet()
        reply = await served.post(ask(stream=True, response_format=FORM))
        raw = await reply.text()
        assert reply.status == 200
        frames = [json.loads(line[6:]) for line in raw.split("\n\n") if line]
        text = "".join(one["choices"][0]["delta"].get("content", "") for one in frames[:-1])
        assert WRONG[: len(text)] == text not in ("", WRONG)
        assert "The model stream was interrupted." in raw
        assert "[DONE]" not in raw
        row = await the_row(served, 2)
        assert (row.outcome, row.charge_nanos, row.attempts) == ("upstream_error", 0, 1)
        assert (await served.wallet())[0] == before
        assert len(asked(scripted)) == 3
        status, said = await answer(served, True, response_format=OBJECT)
        assert (status, said["text"]) == (200, GOOD)


@pytest.mark.parametrize(("stream", "begins"), [(False, ["{name:"]), (True, ["{", "name:"])])
async def test_what_has_broken_takes_no_more_money(
    tmp_path: Path, stream: bool, begins: list[str]
) -> None:
    pieces = [f"text {json.dumps(piece)}" for piece in [*begins, *["never"] * 300]]
    config = ONE_UPSTREAM + "\n[ledger]\nhold_first = 20\nhold_step = 30\nhold_low = 5\n"
    async with (
        ScriptedServer("\n---\n".join(["\n".join(pieces), turn(GOOD)])) as scripted,
        serve(tmp_path, config.format(kind="openai", base_url=scripted.base_url)) as served,
    ):
        left = 600_000  # the prompt's bound, and no more than 200 tokens of the answer
        await served.leave_in_wallet(left)
        fields = {"response_format": OBJECT, "max_completion_tokens": 1_000}
        status, said = await answer(served, stream, **fields)
        row = await the_row(served)
        if stream:  # its beginning was told
            assert (status, said.get("code")) == (200, "upstream_error")
            assert (row.outcome, row.charge_nanos) == ("upstream_error", 0)
            assert (await served.wallet())[0] == left
        else:
            assert (status, said["text"], said["usage"]["attempts"]) == (200, GOOD, 2)
            assert (row.outcome, row.usage.output) == ("done", 10)


@BOTH
async def test_an_answer_cut_at_its_length_passes_as_it_is(tmp_path: Path, stream: bool) -> None:
    async with upstream_says(tmp_path, turn(GOOD[:13], finish="length")) as (served, _):
        status, said = await answer(served, stream, response_format=FORM)
        assert (status, said["text"], said["reason"]) == (200, GOOD[:13], "length")
        assert (await the_row(served)).outcome == "done"


@BOTH
async def test_arguments_fit_their_tool(tmp_path: Path, stream: bool) -> None:
    async with upstream_says(tmp_path, call(GOOD), call(WRONG), call(GOOD)) as (served, scripted):
        status, said = await answer(served, stream, tools=[TOOL])
        made = [{"name": "save", "arguments": GOOD}]
        assert (status, said["calls"], said["reason"]) == (200, made, "tool_calls")
        status, said = await answer(served, stream, tools=[TOOL])
        if stream:  # the call's name was told: nothing else may follow it
            assert (status, said["code"]) == (200, "upstream_error")
        else:
            assert (status, said["calls"], said["usage"]["attempts"]) == (200, made, 2)
        assert len(asked(scripted)) == (2 if stream else 3)
        await served.sound()


async def test_a_tool_that_says_it_is_not_strict_takes_any_object(tmp_path: Path) -> None:
    loose = {"type": "function", "function": {**TOOL["function"], "strict": False}}
    async with upstream_says(tmp_path, call(WRONG)) as (served, _):
        status, said = await answer(served, False, tools=[loose])
        assert (status, said["calls"][0]["arguments"]) == (200, WRONG)


async def test_once_reasoning_was_shown_there_is_no_other_attempt(tmp_path: Path) -> None:
    async with upstream_says(tmp_path, turn(PROSE, thinks="hm"), turn(GOOD)) as (served, scripted):
        status, said = await answer(served, True, response_format=FORM)
        assert (status, said["code"]) == (200, "upstream_error")
        assert len(asked(scripted)) == 1
        assert (await the_row(served)).charge_nanos == 0


async def test_a_second_attempt_that_the_upstream_refuses_costs_nothing(tmp_path: Path) -> None:
    refusal = "error 429 engine_overloaded_error retry-after=1 busy"
    async with upstream_says(tmp_path, turn(PROSE), refusal, turn(GOOD)) as (served, scripted):
        status, said = await answer(served, False, response_format=FORM)
        assert (status, said["code"]) == (503, "overloaded")
        row = await the_row(served)
        assert (row.outcome, row.charge_nanos, row.attempts) == ("upstream_error", 0, 2)
        assert row.forgiven_nanos == row.spoiled_nanos > 0
        assert len(asked(scripted)) == 2
