"""Many requests at once on little money: nobody gets what is not paid for, nothing stays held."""

import asyncio
import re
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from moongate.upstream.scripted import ScriptedServer
from serving_kit import ONE_UPSTREAM, Served, ask, serve

CENT_NANOS = 10_000_000
ANSWER = "\n".join(["think hm", "delay 0.01", *["text word ", "delay 0.002"] * 30])


def shown_cost(text: str) -> int:
    """The ``cost_nanos`` that a client reads in its answer, wherever it looks."""
    (cost,) = set(re.findall(r'"cost_nanos":(\d+)', text))
    return int(cost)


@pytest.mark.parametrize("cap", [None, 40])
@pytest.mark.parametrize("stream", [False, True])
async def test_sixty_requests_at_once_on_one_cent(
    tmp_path: Path, stream: bool, cap: int | None
) -> None:
    more: dict[str, Any] = {"stream": stream} | ({"max_tokens": cap} if cap else {})
    if stream:
        more["stream_options"] = {"include_usage": True}
    async with (
        ScriptedServer(ANSWER) as scripted,
        serve(tmp_path, ONE_UPSTREAM.format(kind="moonshot", base_url=scripted.base_url)) as served,
    ):
        await served.leave_in_wallet(CENT_NANOS)
        replies = await asyncio.gather(*(served.post(ask(**more)) for _ in range(60)))
        texts = [await reply.text() for reply in replies]
        assert {reply.status for reply in replies} <= {200, 402}
        paid = [
            shown_cost(text)
            for reply, text in zip(replies, texts, strict=True)
            if reply.status == 200
        ]
        print(f"{len(paid)} answered, {sum(paid)} of {CENT_NANOS} nano-dollars")
        assert 0 < sum(paid) <= CENT_NANOS
        assert sorted(row.charge_nanos for row in await served.usage()) == sorted(paid)
        assert await served.wallet() == (CENT_NANOS - sum(paid), 0)
        await served.sound()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("k", [1, 7])
async def test_of_a_hundred_requests_with_money_for_k_only_k_reach_the_upstream(
    tmp_path: Path, k: int, stream: bool
) -> None:
    async with (
        ScriptedServer("text a\nsilence") as scripted,
        serve(tmp_path, ONE_UPSTREAM.format(kind="moonshot", base_url=scripted.base_url)) as served,
    ):
        body = ask(stream=stream, max_completion_tokens=10_000)
        trial = asyncio.create_task(served.post(body))
        await scripted.until(lambda: scripted.streams_open == 1)
        _, held = await served.wallet()  # what one of them needs
        await left([trial])
        await scripted.until(lambda: scripted.streams_open == 0)
        await served.quiet()
        await served.leave_in_wallet(k * held + held // 20)
        tasks = [asyncio.create_task(read(served, body)) for _ in range(100)]
        async with asyncio.timeout(30):
            while sum(task.done() for task in tasks) < 100 - k:
                await asyncio.sleep(0.01)
        await scripted.until(lambda: scripted.streams_open == k)
        statuses = [task.result() for task in tasks if task.done()]
        assert statuses == [402] * (100 - k)
        assert sum(seen.method == "POST" for seen in scripted.requests) == 1 + k
        await left(tasks)
        await served.quiet()
        assert len(await served.usage()) == 1 + k
        await served.sound()


async def read(served: Served, body: dict[str, Any]) -> int:
    """The status, when the whole answer is there."""
    reply = await served.post(body)
    await reply.read()
    return reply.status


async def left(tasks: list[Any]) -> None:
    """The clients of ``tasks`` leave."""
    for task in tasks:
        task.cancel()
    for reply in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(reply, aiohttp.ClientResponse):
            reply.close()
