"""Answers to schemas of every shape that people write, judged by another library than ours."""

import json
import os
import random
from concurrent.futures import ThreadPoolExecutor

import pytest
from jsonschema import Draft202012Validator

import engine_battery
import engine_schemas
from live_kit import Live

SEED = int(os.environ.get("MOONGATE_SCHEMA_SEED") or random.SystemRandom().randrange(10_000))
DEFAULT = 30


def test_there_are_enough_schemas_and_each_is_one():
    assert len(engine_schemas.ALL) >= 120
    for schema in engine_schemas.ALL.values():
        Draft202012Validator.check_schema(schema)
        Draft202012Validator.check_schema(engine_schemas.tool(schema))


def test_every_schema_has_its_turn_in_every_way():
    met = {case for seed in range(24) for case in engine_battery.rotated(DEFAULT, seed)}
    assert met == set(engine_battery.every())


def run(live: Live, cases: list[engine_battery.Case]) -> None:
    with ThreadPoolExecutor(4) as threads:
        told = list(threads.map(lambda case: engine_battery.ask(live.url, live.key, case), cases))
    wrong = [(one.name, one.way, one.fault, one.text) for one in told if one.fault]
    cut = [(one.name, one.way) for one in told if not one.finished]
    print(f"{len(told)} asked, {len(cut)} did not finish: {cut}")
    assert wrong == []
    assert len(cut) <= len(told) // 20


@pytest.mark.engine
def test_thirty_schemas_are_kept(live_server):
    print(f"MOONGATE_SCHEMA_SEED={SEED}")
    run(live_server, engine_battery.rotated(DEFAULT, SEED))


@pytest.mark.full
@pytest.mark.engine
def test_all_schemas_are_kept_in_all_ways(live_server):
    run(live_server, engine_battery.every())


@pytest.mark.engine
@pytest.mark.parametrize("way", ["tool", "json_schema streamed"])
@pytest.mark.parametrize("name", engine_schemas.REFUSED)
def test_what_cannot_be_held_is_a_400_that_names_the_keyword(live_server, name, way):
    schema, keyword = engine_schemas.REFUSED[name]
    status, data = engine_battery.post(
        live_server.url, live_server.key, engine_battery.body(schema, way)
    )
    error = json.loads(data)["error"]
    assert (status, error["code"]) == (400, "unsupported_schema")
    named = error["message"].removeprefix("Schema feature not supported: ").removesuffix(".")
    assert named in keyword.split(" or ")


@pytest.mark.engine
@pytest.mark.parametrize("begin", ['{"city": "', '{"city": "Oslo",', "{"])
@pytest.mark.parametrize("form", ["json_object", "json_schema"])
def test_a_begun_answer_keeps_its_format_streamed_and_not(live_server, form, begin):
    schema = engine_schemas.obj(city={"type": "string"}, size={"type": "integer"})
    formats = {
        "json_object": {"type": "json_object"},
        "json_schema": {"type": form, "json_schema": {"name": "c", "schema": schema}},
    }
    asked = {
        "model": "kimi-k2.5",
        "messages": [
            {"role": "user", "content": "A city and its size as JSON."},
            {"role": "assistant", "content": begin, "partial": True},
        ],
        "response_format": formats[form],
        "max_completion_tokens": 60,
        "seed": 3,
    }
    for streamed in (False, True):
        status, data = engine_battery.post(
            live_server.url, live_server.key, asked | {"stream": streamed}
        )
        assert status == 200, data
        rest = engine_battery.choice(data, streamed=streamed)["message"]["content"]
        value = json.loads(begin + rest)
        assert isinstance(value, dict)
        assert form == "json_object" or Draft202012Validator(schema).is_valid(value)


@pytest.mark.engine
def test_a_begin_of_no_such_answer_is_a_400(live_server):
    last = {"role": "assistant", "content": "Here you go:", "partial": True}
    asked = {
        "model": "kimi-k2.5",
        "messages": [{"role": "user", "content": "JSON, please."}, last],
        "response_format": {"type": "json_object"},
    }
    status, data = engine_battery.post(live_server.url, live_server.key, asked)
    assert (status, json.loads(data)["error"]["code"]) == (400, "unsuitable_prefix")
