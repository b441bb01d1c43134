"""What the maker's own verifiers assert of a host of Kimi K2.5, asked of ours.

Eleven checks of parameters in each thinking mode, usage that is read from ``choices[0]`` alone, and
calls whose arguments are held against their tool's schema.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openai import BadRequestError, OpenAI

from judges_kit import Stage, stage
from live_kit import Live

MODES = {"thinking": "enabled", "instant": "disabled"}
TEMPERATURE = {"thinking": 1.0, "instant": 0.6}
CHECKS: list[tuple[str, dict[str, Any], bool]] = [
    ("a plain call", {}, True),
    ("its temperature", {"temperature": None}, True),
    ("its top_p", {"top_p": 0.95}, True),
    ("its presence penalty", {"presence_penalty": 0}, True),
    ("its frequency penalty", {"frequency_penalty": 0}, True),
    ("one answer", {"n": 1}, True),
    ("another temperature", {"temperature": 0.5}, False),
    ("another top_p", {"top_p": 0.8}, False),
    ("a presence penalty", {"presence_penalty": 0.5}, False),
    ("a frequency penalty", {"frequency_penalty": 0.5}, False),
    ("two answers", {"n": 2}, False),
]
SCHEMA = {
    "type": "object",
    "properties": {"value": {"type": ["integer", "null"], "minimum": 3, "maximum": 9}},
    "required": ["value"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def kimi() -> Iterator[Stage]:
    with stage() as made:
        yield made


@pytest.fixture(params=["kimi", pytest.param("live_server", marks=pytest.mark.engine)])
def place(request: pytest.FixtureRequest) -> Stage | Live:
    found = request.getfixturevalue(request.param)
    if isinstance(found, Stage):
        found.says("text Io, Europa.\nfinish stop")
    return found


def ask(place: Stage | Live, mode: str, **fields: Any) -> Any:
    api = OpenAI(api_key=place.key, base_url=place.url, timeout=60, max_retries=0)
    return api.chat.completions.create(
        model="kimi-k2.5",
        messages=[{"role": "user", "content": "Name three moons."}],
        max_tokens=fields.pop("max_tokens", 16),
        extra_body={"thinking": {"type": MODES[mode]}},
        **fields,
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("what", "fields", "accepted"), CHECKS, ids=[c[0] for c in CHECKS])
def test_a_parameter_is_taken_or_refused(
    place: Stage | Live, mode: str, what: str, fields: dict[str, Any], accepted: bool
) -> None:
    if fields.get("temperature", 0) is None:
        fields = {"temperature": TEMPERATURE[mode]}
    if accepted:
        answer = ask(place, mode, **fields)
        assert isinstance(answer.choices[0].message.content[:10], str)
        return
    with pytest.raises(BadRequestError) as refused:
        ask(place, mode, **fields)
    assert refused.value.status_code == 400


@pytest.mark.parametrize("mode", MODES)
def test_usage_stands_in_the_choice_of_a_stream_that_asked_for_none(
    place: Stage | Live, mode: str
) -> None:
    chunks = list(ask(place, mode, stream=True))
    assert all(len(chunk.choices) == 1 for chunk in chunks)
    found = [usage for chunk in chunks if (usage := chunk.choices[0].model_extra.get("usage"))]
    assert len(found) == 1
    assert found[0]["prompt_tokens"] > 0
    assert found[0]["total_tokens"] == found[0]["prompt_tokens"] + found[0]["completion_tokens"]


@pytest.mark.parametrize("stream", [False, True])
def test_the_named_function_is_called_with_valid_arguments(
    place: Stage | Live, stream: bool
) -> None:
    if isinstance(place, Stage):
        place.says('tool record {"value":7}\nfinish tool_calls')
    function = {"name": "record", "parameters": SCHEMA, "strict": True}
    fields = {"tools": [{"type": "function", "function": function}], "tool_choice": "required"}
    got = ask(place, "instant", stream=stream, max_tokens=96, **fields)
    if stream:
        chunks = [chunk.choices[0] for chunk in got]
        pieces = [piece for one in chunks for piece in one.delta.tool_calls or ()]
        name = "".join(piece.function.name or "" for piece in pieces)
        arguments = "".join(piece.function.arguments or "" for piece in pieces)
        finish = chunks[-1].finish_reason
    else:
        (call,) = got.choices[0].message.tool_calls
        name, arguments = call.function.name, call.function.arguments
        finish = got.choices[0].finish_reason
    assert (name, finish) == ("record", "tool_calls")
    Draft202012Validator(SCHEMA).validate(json.loads(arguments))
