"""What a newcomer does first: ask, look at the bill and the wallet; and a server not ours."""

import asyncio
import json
from pathlib import Path

import pytest

import engine_kit
from live_kit import Live
from moongate.core.money import charge
from serving_kit import ONE_UPSTREAM, ask, serve
from wire_kit import check_stream

pytestmark = pytest.mark.engine


def test_ask_statement_and_wallet_agree_to_the_nano_dollar(live_server: Live) -> None:
    before = live_server.json("credit", "show", "default")
    known = {line["request"] for line in live_server.json("statement", "--each")["data"]}
    done = live_server.cli("ask", "Name three moons", "--no-stream")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert "Traceback" not in done.stderr
    after = live_server.json("credit", "show", "default")
    statement = live_server.json("statement", "--each")
    (line,) = [one for one in statement["data"] if one["request"] not in known]
    (price,) = [
        row
        for row in live_server.json("prices", "list")["data"]
        if row["version"] == line["price_version"]
    ]
    due = (
        line["input_tokens"] * price["input_nanos"]
        + line["cached_tokens"] * price["cached_nanos"]
        + line["output_tokens"] * price["output_nanos"]
    )
    assert line["charge_nanos"] == due > 0
    assert before["posted_nanos"] - after["posted_nanos"] == due
    assert after["held_nanos"] == 0


def test_ask_as_json_and_streamed(live_server: Live) -> None:
    answer = live_server.json("ask", "Say hello", "--no-stream")
    assert answer["choices"][0]["message"]["content"]
    streamed = live_server.cli("ask", "-", stdin="Say hello")
    assert streamed.returncode == 0
    assert streamed.stdout.strip()


def test_doctor_and_models_beside_the_server(live_server: Live) -> None:
    models = live_server.json("models")
    (card,) = models["data"]
    assert card["context_length"] == 8192
    assert "stand" in json.dumps(card)
    done = live_server.cli("doctor")
    assert done.returncode == 0, done.stdout + done.stderr


async def test_a_server_that_we_did_not_write_as_openai_upstream(tmp_path: Path) -> None:
    """llama.cpp's own chat endpoint, in the engine's child, read by the chat codec."""
    async with engine_kit.running() as engine:
        probe = await engine.probe()
        assert probe.models
        config = ONE_UPSTREAM.format(kind="openai", base_url=f"{engine.address}/v1")
        config = config.replace(
            'name = "openai"', 'name = "openai"\napi_key_env = "ENGINE_KEY"'
        ).replace('model = "kimi-k2.5" }]', f'model = "{probe.models[0]}" }}]')
        async with serve(tmp_path, config, env={"ENGINE_KEY": engine.api_key}) as served:
            whole = await served.post(ask("Name a moon.", max_tokens=24))
            assert whole.status == 200, await whole.text()
            answer = await whole.json()
            assert answer["choices"][0]["message"]["content"]
            assert answer["usage"]["prompt_tokens"] > 5
            assert 0 < answer["usage"]["completion_tokens"] <= 24
            again = await served.post(
                ask("Name a moon.", max_tokens=24, stream=True,
                    stream_options={"include_usage": True})
            )  # fmt: skip
            folded = check_stream(await again.read(), include_usage=True)
            assert folded["choices"][0]["content"]
            rows = await served.usage()
            assert folded["usage"]["cached_tokens"] == rows[1].upstream_cached
            price = (await served.app.store.prices())[0].price
            assert [row.charge_nanos for row in rows] == [charge(row.usage, price) for row in rows]
            assert not any(row.usage.estimated for row in rows)
            await asyncio.sleep(0.1)
            assert not [event for event in served.told if event["event"] == "note"]
            await served.sound()
