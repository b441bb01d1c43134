"""The engine's process: it dies with us, comes back after a crash, and stops when told.

A tiny model of random weights serves here: its answers run to their cap.
"""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import aclosing, suppress
from pathlib import Path

import aiohttp
import pytest
import uvloop

import tiny_kimi
from engine_kit import ask, ask_for, request, running
from moongate.core.errors import (
    ConfigurationError,
    UpstreamDown,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamRefused,
)
from moongate.core.events import Started
from moongate.core.request import Format
from moongate.upstream.embedded import EmbeddedUpstream

CAP = 14_000
WORDS = {"type": "string", "minLength": CAP, "maxLength": 2 * CAP}
LONG = request("go on", format=Format("json_schema", schema=WORDS))
"""Keeps a model at work, for whom a byte is a token."""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("own") / "tiny-kimi.gguf"
    tiny_kimi.write(path)
    return path


def engine_of(model, **more):
    return running(home=model.parent, model=model, **more)


def alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


async def until(test, seconds=20.0):
    end = time.monotonic() + seconds
    while not test():
        assert time.monotonic() < end
        await asyncio.sleep(0.02)


async def answer_of(engine, text="hello", cap=3):
    """An answer; the noise of a random model may end at any token."""
    return await ask(engine, request(text), cap=cap)


async def test_its_door_is_locked_and_its_key_in_no_argument(model):
    async with engine_of(model, slots=1) as engine:
        assert engine.address.startswith("http://127.0.0.1:")
        arguments = Path(f"/proc/{engine.pid}/cmdline").read_bytes()
        assert engine.api_key.encode() not in arguments
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{engine.address}/v1/models") as answer:
                assert answer.status == 401
            headers = {"Authorization": f"Bearer {engine.api_key}"}
            async with session.get(f"{engine.address}/v1/models", headers=headers) as answer:
                listed = [each["id"] for each in (await answer.json())["data"]]
        assert (await engine.probe()).models == tuple(listed)
        limits = Path(f"/proc/{engine.pid}/limits").read_text("utf-8")
        assert "Max core file size        0 " in limits


async def test_closing_ends_the_child(model):
    async with engine_of(model, slots=1) as engine:
        pid = engine.pid
        assert alive(pid)
    assert not alive(pid)
    assert engine.pid is None
    with pytest.raises(UpstreamDown):
        await answer_of(engine)
    assert not (await engine.probe()).ok


async def test_a_stop_of_the_whole_group_leaves_it_to_us_to_end_it(model):
    async with engine_of(model, slots=1) as engine:
        pid = engine.pid
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGTERM)
        assert (await answer_of(engine)).counts.prompt > 0
        assert engine.pid == pid


async def test_a_stream_that_is_left_stops_the_work_at_once(model):
    async with engine_of(model, slots=1) as engine:
        asked = ask_for(LONG, cap=CAP)
        async with aclosing(engine.stream(asked)) as batches:
            assert await anext(batches) == [Started()]
            await anext(batches)
            assert engine.slots_busy == 1
        assert engine.slots_busy == 0
        began = time.monotonic()
        await answer_of(engine)
        assert time.monotonic() - began < 5


async def test_a_task_that_is_cancelled_frees_the_slot_too(model):
    async with engine_of(model, slots=1) as engine:
        working = asyncio.create_task(ask(engine, LONG, cap=CAP))
        await until(lambda: engine.slots_busy == 1)
        waiting = asyncio.create_task(answer_of(engine))
        await asyncio.sleep(0.05)
        working.cancel()
        with suppress(asyncio.CancelledError):
            await working
        assert (await asyncio.wait_for(waiting, 20)).counts.prompt > 0


async def test_after_a_crash_it_comes_back_and_loses_only_what_was_in_flight(model):
    told = []
    async with engine_of(model, slots=2, report=told.append) as engine:
        before = await answer_of(engine, "the same words again and again")
        working = asyncio.create_task(ask(engine, LONG, cap=CAP))
        await until(lambda: engine.slots_busy == 1)
        await asyncio.sleep(0.2)
        first = engine.pid
        os.kill(first, signal.SIGKILL)
        with pytest.raises((UpstreamDown, UpstreamProtocolError)):
            await working
        after = await answer_of(engine, "the same words again and again")
        assert engine.pid != first
        assert (after.counts.prompt, after.counts.cached) == (before.counts.prompt, 0)
        assert (await engine.probe()).ok
    assert told == ["engine_died", "engine_restarted"]


async def test_while_it_cannot_come_back_who_asks_is_told(model, tmp_path, monkeypatch):
    monkeypatch.setattr("moongate.upstream.engine_process.READY_WAIT_S", 0.3)
    mine = tmp_path / "mine.gguf"
    mine.write_bytes(model.read_bytes())
    async with engine_of(mine, slots=1) as engine:
        mine.unlink()
        os.kill(engine.pid, signal.SIGKILL)
        await asyncio.sleep(0.1)
        with pytest.raises(UpstreamError):
            await answer_of(engine)
        assert not (await engine.probe()).ok
        assert await engine.count(request("x")) is None
        mine.write_bytes(model.read_bytes())
        await until(lambda: engine.address and engine.up)
        assert (await answer_of(engine)).counts.prompt > 0


async def test_a_prompt_over_the_window_is_refused_with_both_numbers(tmp_path):
    small = tmp_path / "small.gguf"
    tiny_kimi.write(small, window=256)
    async with engine_of(small, slots=1) as engine:
        with pytest.raises(UpstreamRefused) as caught:
            await ask(engine, request("x" * 300))
        assert caught.value.row == "context_length_exceeded"
        assert caught.value.facts["limit"] == 256
        assert caught.value.facts["needs"] > 300
        heard = await ask(engine, request("x" * 200), cap=4000)
        assert heard.counts.prompt + heard.counts.completion <= 256
        assert engine.slots_busy == 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_the_child_dies_with_its_parent_however_that_dies(model):
    program = textwrap.dedent(
        """
        import asyncio, sys
        from pathlib import Path
        from moongate.upstream.embedded import EmbeddedUpstream

        async def main():
            model = Path(sys.argv[1])
            engine = EmbeddedUpstream("e", home=model.parent, model=model, slots=1)
            await engine.start()
            print(engine.pid, flush=True)
            await asyncio.sleep(60)

        asyncio.run(main())
        """
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(model)], stdout=subprocess.PIPE, text=True
    )
    with parent:
        child = int(parent.stdout.readline())
        assert alive(child)
        parent.kill()
    await until(lambda: not alive(child))


def test_it_runs_on_uvloop_too(model):
    async def once():
        assert type(asyncio.get_running_loop()).__module__.startswith("uvloop")
        async with engine_of(model, slots=1) as engine:
            return await answer_of(engine)

    assert uvloop.run(once()).counts.prompt > 0


async def test_a_model_that_will_not_load_is_said(tmp_path, model):
    damaged = tmp_path / "half.gguf"
    damaged.write_bytes(model.read_bytes()[:-200_000])
    with pytest.raises(ConfigurationError, match=r"cannot load the model file .*half\.gguf"):
        await EmbeddedUpstream("e", home=tmp_path, model=damaged).start()


async def test_a_child_killed_by_a_signal_at_start_is_said(tmp_path, model, monkeypatch):
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\nkill -ILL $$\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    with pytest.raises(ConfigurationError, match="SIGILL"):
        await EmbeddedUpstream("e", home=tmp_path, model=model).start()
