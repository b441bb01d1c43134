"""Rows of the capability matrix: answers, what they used, caching, and what goes wrong."""

import asyncio
import json
import os
import signal
from unittest.mock import patch

import moongate.delivery
from capability_kit import Got, Place, feature
from capability_request_cases import user

AREA = "Answer"
USAGE_AREA = "Usage and caching"
TROUBLE_AREA = "Trouble"
OK = "text Io, Europa.\nfinish stop"


@feature(AREA, "A whole answer: ids, model and finish are ours; content is text, never null")
async def whole_answer(place: Place) -> None:
    got = await place.both(OK)
    assert isinstance(got.text, str)
    body = got.body
    assert body["id"].startswith("chatcmpl-")
    assert (body["object"], body["model"]) == ("chat.completion", "kimi-k2.5")
    assert body["system_fingerprint"]
    assert got.finish in ("stop", "length")
    assert got.headers["x-moongate-upstream"] == place.kind
    if place.http:
        assert (got.text, got.finish) == ("Io, Europa.", "stop")
    empty = await place.whole("finish stop" if place.http else "")
    assert empty.message["content"] is not None


@feature(AREA, "A stream: role first, reasoning, content, calls; one finish; then `[DONE]`")
async def stream_order(place: Place) -> None:
    script = "think Hm.\ntext Io\ntool f {}\nfinish tool_calls"
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    for options in ({}, {"stream_options": {"include_usage": True}}):
        got = await place.stream(script, tools=[tool], **options)  # its grammar is checked there
        assert got.status == 200
        if place.http:
            assert (got.message["reasoning_content"], got.text) == ("Hm.", "Io")
            assert got.finish == "tool_calls"


@feature(AREA, "`length`, where the cap was reached")
async def length(place: Place) -> None:
    got = await place.both("text one\ntext  two\nfinish length", max_completion_tokens=2)
    assert got.finish == "length"
    assert got.usage["completion_tokens"] == 2
    assert "hint" not in got.body


@feature(AREA, "`length` inside the reasoning: `hint` beside empty content")
async def length_while_thinking(place: Place) -> None:
    got = await place.both("think one\nthink  two\nfinish length", max_completion_tokens=2)
    assert got.finish == "length"
    if place.http:
        assert got.text == ""
        assert "max_completion_tokens" in got.body["hint"]
    else:  # the stand-in does not think, so its cap is never used up by it
        assert got.text
        assert "hint" not in got.body


@feature(AREA, "A comment keeps a silent stream open")
async def heartbeats(place: Place) -> None:
    with patch.object(moongate.delivery, "SILENCE_S", 0.02):
        body = {"model": "kimi-k2.5", "messages": user("moon " * 500), "stream": True}
        place.turns = ["hold 0.5\ntext Io\nfinish stop"]
        reply = await place.served.post(body | {"max_completion_tokens": 4})
        text = (await reply.read()).decode()
    assert text.startswith(": "), "nothing was said before the first token"
    assert text.endswith("data: [DONE]\n\n")


@feature(USAGE_AREA, "Usage is found wherever the upstream puts it, and shown in both places")
async def usage_placements(place: Place) -> None:
    for at in ("choice", "top", "both", "nested", "every"):
        script = (
            f"text Io\nusage prompt=120 cached=40 completion=9 reasoning=2 at={at}\nfinish stop"
        )
        got = await place.both(script, stream_options={"include_usage": True})
        if not place.http:
            check_usage(got)
            return
        check_usage(got)
        usage = got.usage
        assert [usage[f"{name}_tokens"] for name in ("prompt", "completion", "cached")] == [
            120, 9, 40,
        ]  # fmt: skip
        assert usage["completion_tokens_details"]["reasoning_tokens"] == 2
        assert usage["cost_nanos"] == 80 * 480 + 40 * 100 + 9 * 2000


def check_usage(got: Got) -> None:
    """Totals add up, cached tokens stand in both spellings, cost in both units."""
    usage = got.usage
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["prompt_tokens_details"] == {"cached_tokens": usage["cached_tokens"]}
    assert 0 <= usage["cached_tokens"] <= usage["prompt_tokens"]
    assert round(usage["cost"] * 1e9) == usage["cost_nanos"] > 0


@feature(USAGE_AREA, "Where nobody says what was used it is counted here, and marked so")
async def usage_untold(place: Place) -> None:
    got = await place.whole("text Io\ntext , Europa\nusage none\nfinish stop")
    check_usage(got)
    row = (await place.served.usage())[-1]
    assert row.usage.estimated == place.http
    if place.http:
        assert got.usage["completion_tokens"] == 2


@feature(USAGE_AREA, "The numbers shown are the numbers billed, streamed or not")
async def usage_is_the_bill(place: Place) -> None:
    for ask in (place.whole, place.stream):
        got = await ask(OK)
        row = (await place.served.usage())[-1]
        assert row.charge_nanos == got.usage["cost_nanos"]
        assert (row.usage.prompt, row.usage.output, row.usage.cache_read) == (
            got.usage["prompt_tokens"],
            got.usage["completion_tokens"],
            got.usage["cached_tokens"],
        )


@feature(
    USAGE_AREA,
    "`estimate-token-count` says before what a prompt will cost",
    also=(
        "test_gateway_counting.py::test_the_estimate_is_what_is_billed",
        "test_meter_images.py::test_the_formula_gives_the_table",
    ),
)
async def estimate(place: Place) -> None:
    short, long = user("Hi."), user("Name three moons of Jupiter, and say which is icy. " * 9)
    counts = [await place.estimate(messages=messages) for messages in (short, long)]
    assert 0 < counts[0] < counts[1]
    for messages, count in zip((short, long), counts, strict=True):
        got = await place.whole("text Io\nusage none\nfinish stop", messages=messages)
        assert got.usage["prompt_tokens"] == count


@feature(USAGE_AREA, "A repeated prefix is cached, reported and cheaper")
async def cached_prefix(place: Place) -> None:
    rules = " ".join(f"Rule {at}: answer question {at} with care." for at in range(60))
    system = {"role": "system", "content": f"{place.kind}. {rules}"}
    fields = {"prompt_cache_key": "session-1", "max_completion_tokens": 4}
    first = await place.whole(OK, messages=[system, *user("Question 1")], **fields)
    second = await place.whole(OK, messages=[system, *user("Question 2")], **fields)
    assert second.usage["cached_tokens"] > max(256, first.usage["cached_tokens"])
    prompt = [
        got.usage["cost_nanos"] - 2000 * got.usage["completion_tokens"] for got in (first, second)
    ]
    assert prompt[1] < prompt[0] / 2


REPLIES = [
    # What the upstream replies, then the status and code of ours.
    ("error 400 content_filter High risk", 400, "content_filter"),
    ("error 400 invalid_request_error Something", 400, "rejected_by_model"),
    ("error 401 invalid_authentication_error Invalid Authentication", 503, "overloaded"),
    ("error 429 exceeded_current_quota_error Your account is suspended", 503, "overloaded"),
    ("error 403 exceeded_current_quota_error Check your balance", 503, "overloaded"),
    ("error 403 permission_denied_error Not open", 503, "overloaded"),
    ("error 404 resource_not_found_error Not found the model", 502, "upstream_error"),
    ("error 429 engine_overloaded_error retry-after=3 Overloaded", 503, "overloaded"),
    (
        (
            'reply 400 application/json {"object":"error","message":"m","type":"BadRequestError",'
            '"param":null,"code":400}'
        ),
        400,
        "rejected_by_model",
    ),
    (
        (
            'reply 400 application/json {"object":"error","message":"The input (9 tokens) is '
            "longer than the model's context length (8 tokens).\","
            '"type":"BadRequestError","code":400}'
        ),
        400,
        "context_length_exceeded",
    ),
    ("status 500", 502, "upstream_error"),
    ("hangup", 502, "upstream_error"),
]


@feature(
    TROUBLE_AREA,
    "What the upstream refuses becomes an error of ours, before anything is sent, at no charge",
    also=(
        "test_upstream_refusals.py::test_each_refusal_is_one_error_of_ours",
        "test_engine_process.py::test_after_a_crash_it_comes_back_and_loses_only_what_was_in_flight",
        "test_engine_process.py::test_while_it_cannot_come_back_who_asks_is_told",
    ),
)
async def refusals_of_the_upstream(place: Place) -> None:
    if not place.http:
        await engine_dies(place, stream=False)
        return
    for script, status, code in REPLIES:
        got = await place.whole(script)
        assert (got.status, got.error["code"]) == (status, code), script
        assert set(got.error) == {"message", "type", "param", "code"}
        assert got.status != 402, "our own wallet there is none of the customer's"
        row = (await place.served.usage())[-1]
        assert (row.charge_nanos, row.status) == (0, status)
    assert "operator_alert" in place.served.log.getvalue()


@feature(TROUBLE_AREA, "A stream that breaks off ends in an error event, at no charge")
async def broken_streams(place: Place) -> None:
    if not place.http:
        await engine_dies(place, stream=True)
        return
    for end in ("cut", "no-done", "error-in-stream server_error Oops", "garbage data: {\\n\\n"):
        place.turns = [f"text Io\ndelay 0.02\n{end}"]
        reply = await place.served.post(
            {"model": "kimi-k2.5", "messages": user("Moons?"), "stream": True}
        )
        frames = (await reply.text()).strip().split("\n\n")
        assert "[DONE]" not in frames[-1]
        error = json.loads(frames[-1].removeprefix("data: "))["error"]
        assert error["code"] == "upstream_error"
        assert "Oops" not in error["message"]
        row = (await place.served.rows(1))[-1]
        assert (row.outcome, row.charge_nanos) == ("upstream_error", 0)


async def engine_dies(place: Place, *, stream: bool) -> None:
    """Kill the engine while it answers: an error, no charge, and it comes back."""
    engine = place.served.app.upstreams["embedded"]
    body = {"model": "kimi-k2.5", "messages": user("Count to a thousand."), "stream": stream}
    visit = asyncio.create_task(place.served.post(body | {"max_completion_tokens": 1000}))
    while engine.slots_busy == 0:
        await asyncio.sleep(0.01)
    if stream:
        await visit  # the head comes with the first content
    os.kill(engine.pid, signal.SIGKILL)
    reply = await visit
    text = await reply.text()
    assert '"code":"upstream_error"' in text
    assert (reply.status == 200) == stream
    assert "[DONE]" not in text
    assert (await place.served.usage())[-1].charge_nanos == 0
    async with asyncio.timeout(20):
        while not engine.up:
            await asyncio.sleep(0.05)
    assert (await place.whole("")).status == 200


@feature(
    TROUBLE_AREA,
    "Leaving stops the upstream at once and is charged by the written rule",
    also=("test_gateway_cut_table.py::test_leaving_at_each_point_of_the_table",),
)
async def leaving(place: Place) -> None:
    place.turns = ["text Io\ndelay 30\nfinish stop"]
    before = len(await place.served.usage())
    body = {"model": "kimi-k2.5", "messages": user("Count to a thousand."), "stream": True}
    reply = await place.served.post(body | {"max_completion_tokens": 1000})
    await reply.content.readline()
    reply.close()
    row = (await place.served.rows(before + 1))[-1]
    assert row.outcome == "client_left"
    assert row.charge_nanos > 0
    if place.http:
        await place.scripted.until(lambda: place.scripted.streams_open == 0)
    else:
        async with asyncio.timeout(5):
            while place.served.app.upstreams["embedded"].slots_busy:
                await asyncio.sleep(0.01)
