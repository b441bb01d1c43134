"""A client that leaves stops the upstream at once and pays for what was made by then, once."""

import asyncio
import json
import random
import time
from pathlib import Path

import pytest

from moongate.upstream.scripted import ScriptedServer
from serving_kit import ONE_UPSTREAM, Served, ask, serve

SLOW = "\n".join(["think a", "delay 0.02"] * 10 + ["text b", "delay 0.02"] * 40)


async def leave_after(served: Served, bytes_wanted: int, body: dict[str, object]) -> float:
    """Speak raw HTTP, read ``bytes_wanted`` bytes of the answer, drop the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.app.port)
    payload = json.dumps(body).encode()
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n"
        b"content-type: application/json\r\n"
        + f"authorization: Bearer {served.key}\r\ncontent-length: {len(payload)}\r\n\r\n".encode()
        + payload
    )
    await writer.drain()
    got = 0
    try:
        while got < bytes_wanted:
            piece = await reader.read(bytes_wanted - got)
            if not piece:
                break
            got += len(piece)
    finally:
        writer.transport.abort()
    return time.monotonic()


async def until_rows(served: Served, count: int) -> None:
    async with asyncio.timeout(20):
        while len(await served.usage()) < count:
            await asyncio.sleep(0.01)


async def test_a_hundred_cuts_at_random_frames(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(2**32)
    dice = random.Random(seed)
    print(f"seed {seed}")
    delays: list[float] = []
    async with (
        ScriptedServer(SLOW) as scripted,
        serve(tmp_path, ONE_UPSTREAM.format(kind="moonshot", base_url=scripted.base_url)) as served,
    ):

        async def one() -> None:
            await asyncio.sleep(dice.random())
            await leave_after(served, dice.randrange(250, 6000), ask(stream=True))

        before = len(await served.usage())
        async with asyncio.TaskGroup() as group:
            for _ in range(100):
                group.create_task(one())
        await until_rows(served, before + 100)
        await scripted.until(lambda: scripted.streams_open == 0)
        rows = await served.usage()
        assert len(rows) == 100
        assert len({row.hold for row in rows}) == 100
        assert {row.outcome for row in rows} == {"client_left"}
        assert all(row.charge_nanos > 0 for row in rows)
        assert len(scripted.disconnects) == 100

        # One at a time, so that the time from leaving to the upstream's notice is plain.
        for _ in range(20):
            known = len(scripted.disconnects)
            left_s = await leave_after(served, dice.randrange(250, 6000), ask(stream=True))
            await scripted.until(lambda known=known: len(scripted.disconnects) > known)
            delays.append(scripted.disconnects[-1] - left_s)
        delays.sort()
        print(f"upstream saw the leave after {delays[10] * 1e3:.1f} ms (median), "
              f"{delays[-1] * 1e3:.1f} ms (worst of 20)")  # fmt: skip
        assert delays[-1] < 0.1
        await until_rows(served, 120)
        await served.sound()


@pytest.mark.parametrize("stream", [False, True])
async def test_leaving_an_answer_that_says_nothing_yet(tmp_path: Path, stream: bool) -> None:
    """Accepted, no token: the prompt is paid. An unstreamed visit is stopped just the same."""
    async with (
        ScriptedServer("silence") as scripted,
        serve(tmp_path, ONE_UPSTREAM.format(kind="moonshot", base_url=scripted.base_url)) as served,
    ):
        visit = asyncio.create_task(leave_after(served, 1, ask("y" * 400, stream=stream)))
        await scripted.until(lambda: scripted.streams_open == 1)
        await asyncio.sleep(0.1)
        left_s = time.monotonic()
        visit.cancel()
        await asyncio.gather(visit, return_exceptions=True)
        await scripted.until(lambda: scripted.streams_open == 0)
        assert time.monotonic() - left_s < 1.0
        await until_rows(served, 1)
        (row,) = await served.usage()
        assert row.outcome == "client_left"
        assert (row.usage.input, row.usage.output) == (100, 0)
        assert row.charge_nanos == 100 * 480
        await served.sound()


async def test_leaving_before_the_upstream_accepted_costs_nothing(tmp_path: Path) -> None:
    async with (
        ScriptedServer("hold forever") as scripted,
        serve(tmp_path, ONE_UPSTREAM.format(kind="moonshot", base_url=scripted.base_url)) as served,
    ):
        visit = asyncio.create_task(leave_after(served, 1, ask(stream=True)))
        await scripted.until(lambda: scripted.streams_open == 1)
        visit.cancel()
        await asyncio.gather(visit, return_exceptions=True)
        await until_rows(served, 1)
        (row,) = await served.usage()
        assert (row.outcome, row.charge_nanos, row.forgiven_nanos) == ("client_left", 0, 0)
        await served.sound()


async def test_leaving_after_the_finish_still_gets_the_actual_usage(tmp_path: Path) -> None:
    script = "text Io\nfinish stop\ndelay 0.4\nusage prompt=77 cached=7 completion=5 at=top"
    async with (
        ScriptedServer(script) as scripted,
        serve(tmp_path, ONE_UPSTREAM.format(kind="vllm", base_url=scripted.base_url)) as served,
    ):
        reply = await served.post(ask(stream=True))
        await reply.content.readany()
        await asyncio.sleep(0.1)
        reply.close()
        await until_rows(served, 1)
        (row,) = await served.usage()
        assert (row.usage.prompt, row.usage.cache_read, row.usage.output) == (77, 7, 5)
        assert row.charge_nanos == 70 * 480 + 7 * 100 + 5 * 2000
        await served.sound()


async def test_per_chunk_usage_is_billed_to_the_token(tmp_path: Path) -> None:
    script = "text a\nusage prompt=50 at=every\n" + "text b\ndelay 0.05\n" * 40
    async with (
        ScriptedServer(script) as scripted,
        serve(tmp_path, ONE_UPSTREAM.format(kind="vllm", base_url=scripted.base_url)) as served,
    ):
        reply = await served.post(ask(stream=True))
        text = b""
        while text.count(b'"content":"b"') < 5:
            text += await reply.content.readany()
        reply.close()
        await until_rows(served, 1)
        (row,) = await served.usage()
        assert row.outcome == "client_left"
        assert 5 <= row.usage.output <= 12
        await served.sound()


async def test_a_stopping_server_charges_nothing(tmp_path: Path) -> None:
    config = ONE_UPSTREAM.replace("drain_s = 2", "drain_s = 0.2")
    async with (
        ScriptedServer("text Io\nsilence") as scripted,
        serve(tmp_path, config.format(kind="moonshot", base_url=scripted.base_url)) as served,
    ):
        reply = await served.post(ask(stream=True))
        await reply.content.readany()
        await served.app.drain()
        text = await reply.text()
        assert '"error"' in text
        assert "[DONE]" not in text
        (row,) = await served.usage()
        assert (row.outcome, row.charge_nanos) == ("gateway_error", 0)
        await served.sound()
