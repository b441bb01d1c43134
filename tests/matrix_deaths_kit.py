"""The lines of the crash matrix in which a gateway dies, each as what happens on a bench.

A case leaves the store as the matrix says it is left, and returns what then was on the disk.
"""

import asyncio
from typing import Any, Final

from leaving_kit import Visitor
from matrix_kit import Bench, Dies, Doomed, dies_with_its_journal_written, renews_at_once
from serving_kit import ask

PROMPT: Final = 40 * 480 + 10 * 100
"""The price of the prompt that the upstream counts, of which it had ten tokens cached."""
GUESSED: Final = 100 * 480
"""The price of a prompt of 400 characters, where nobody has counted it."""
OUTPUT: Final = 2_000
QUESTION: Final = "y" * 400


def answer(pieces: int, *, at: str = "both", end: str = "") -> tuple[str, ...]:
    """An answer of so many tokens."""
    counts = f"usage prompt=50 cached=10 completion={pieces} at={at}"
    return (*(f"text w{n}," for n in range(pieces)), *([end] if end else []), counts)


def actual(pieces: int) -> int:
    return PROMPT + pieces * OUTPUT


async def call(bench: Bench, at: Any, **more: Any) -> Visitor:
    """A streamed request to whatever serves the bench."""
    return await Visitor.call(at, ask(QUESTION, **({"stream": True} | more)))


async def dead(bench: Bench, server: Doomed, visitor: Visitor) -> str:
    """Wait for the end that the case brought about; what is on the disk then."""
    await server.dead()
    text = await visitor.read_all()
    assert b"[DONE]" not in text
    visitor.drop()
    await bench.scripted.until(lambda: bench.scripted.streams_open == 0)
    return await bench.durable()


async def dies(bench: Bench, move: str, when: str, pieces: int = 3) -> str:
    """A server that dies at one move of its store."""
    bench.says(*answer(pieces))
    async with bench.doomed(Dies(move, when)) as server:
        visitor = await call(bench, server, max_completion_tokens=200)
        return await dead(bench, server, visitor)


async def before_the_reserve(bench: Bench) -> str:
    return await dies(bench, "hold", "before")


async def before_the_request_is_sent(bench: Bench) -> str:
    left = await dies(bench, "hold", "after")
    assert not [seen for seen in bench.scripted.requests if seen.method == "POST"]
    return left


async def noted(bench: Bench, **counts: int) -> None:
    """Wait until the open hold's counts are these."""
    async with asyncio.timeout(20):
        while True:
            hold = await bench.open_hold()
            if hold and all(getattr(hold.running, name) == n for name, n in counts.items()):
                return
            await asyncio.sleep(0.02)


async def accepted_without_a_byte(bench: Bench) -> str:
    bench.says("silence")
    async with bench.doomed(renews_at_once) as server:
        visitor = await call(bench, server)
        await noted(bench, input=100)
        server.kill()
        left = await dead(bench, server, visitor)
    assert len(bench.scripted.disconnects) == 1  # it saw the close, and stopped
    return left


async def in_mid_stream(bench: Bench) -> str:
    bench.says(*answer(3, at="every", end="silence"))
    async with bench.doomed(renews_at_once) as server:
        visitor = await call(bench, server)
        await visitor.read_chunks(3)
        await noted(bench, input=40, cache_read=10, output=3)
        server.kill()
        left = await dead(bench, server, visitor)
    assert len(bench.scripted.disconnects) == 1
    return left


async def in_mid_stream_with_checkpoints(bench: Bench) -> str:
    bench.crash = "checkpoint"
    return await in_mid_stream(bench)


async def before_the_extension(bench: Bench) -> str:
    left = await dies(bench, "extend", "before", 60)
    hold = await bench.open_hold()
    assert hold is not None
    assert hold.slice_no == 0
    return left


async def after_the_extension(bench: Bench) -> str:
    left = await dies(bench, "extend", "after", 60)
    hold = await bench.open_hold()
    assert hold is not None
    assert hold.slice_no == 1
    return left


async def before_the_settle(bench: Bench) -> str:
    return await dies(bench, "settle", "before")


async def with_the_settle_in_the_journal(bench: Bench) -> str:
    bench.says(*answer(3))
    async with bench.doomed(dies_with_its_journal_written) as server:
        visitor = await call(bench, server)
        return await dead(bench, server, visitor)


async def settled_before_its_end_is_told(bench: Bench) -> str:
    return await dies(bench, "settle", "after")
