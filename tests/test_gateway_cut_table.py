"""The rule of leaving, point by point: what a client pays who leaves, and how soon it is noticed.

The upstream falls silent where the client is to leave, so what it sent is known to the token.
"""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from leaving_kit import MODES, Visitor
from moongate.core.rows import Quota
from moongate.store.memory import MemoryStore
from moongate.upstream.prompts import Body
from moongate.upstream.scripted import ScriptedServer
from moongate.upstream.transcript import parse
from moongate.web import reply
from serving_kit import ONE_UPSTREAM, Served, ask, serve

ANSWER: Final = (
    *(f"think t{n}" for n in range(3)),
    *(f"text w{n}" for n in range(4)),
    "tool look",
    *('args {"a":', "args 1", "args }"),
)
"""Eleven pieces, a token each: reasoning, content, a call and its arguments."""
PLACES: Final = ("every", "choice")
TOOL: Final = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
INPUT, OUTPUT = 480, 2_000
ONE_TOKEN_BYTES: Final = 7_000_000
PROMPT: Final = 50


def until_then_silent(at: str) -> Callable[[Body], str]:
    """Says as many pieces as the last message asks for, then nothing more."""

    def choose(body: Body) -> str:
        count = int(body["messages"][-1]["content"].split()[-1])
        return "\n".join((*ANSWER[:count], f"usage prompt={PROMPT} at={at}", "silence"))

    return choose


@asynccontextmanager
async def served_by(
    tmp_path: Path, script: Any, **more: Any
) -> AsyncIterator[tuple[Served, ScriptedServer]]:
    async with ScriptedServer(script) as scripted:
        config = ONE_UPSTREAM.format(kind="vllm", base_url=scripted.base_url)
        async with serve(tmp_path, config, store=MemoryStore(), **more) as served:
            yield served, scripted


async def counted(served: Served, output: int) -> None:
    """Wait until the gateway has met so many tokens of the one answer that runs."""
    async with asyncio.timeout(20):
        while [one.usage.output for one in served.app.book.running()] != [output]:
            await asyncio.sleep(0.002)


def cut_body(k: int, stream: bool) -> dict[str, Any]:
    return ask(f"Say pieces, {k}", stream=stream, tools=[TOOL])


@pytest.mark.parametrize("at", PLACES)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_cut_after_every_piece_pays_what_the_upstream_had_sent(
    tmp_path: Path, stream: bool, at: str
) -> None:
    async with served_by(tmp_path, until_then_silent(at)) as (served, scripted):
        rows = 0
        for k in range(1, len(ANSWER) + 1):
            for mode in MODES:
                visitor = await Visitor.call(served, cut_body(k, stream))
                if stream:
                    await visitor.read_chunks(k)
                await counted(served, k)
                visitor.leave(mode)
                rows += 1
                row = (await served.rows(rows))[-1]
                assert (row.outcome, row.usage.output, row.streamed) == ("client_left", k, stream)
                assert row.forgiven_nanos == 0
                assert row.charge_nanos == row.usage.input * INPUT + k * OUTPUT
                assert row.usage.estimated == (at != "every")
                if at == "every":
                    assert (row.usage.prompt, row.upstream_completion) == (PROMPT, k)
                visitor.drop()
        await scripted.until(lambda: scripted.streams_open == 0)
        usage = await served.usage()
        assert len(usage) == len({row.hold for row in usage}) == 3 * len(ANSWER)
        await served.sound()


async def test_counts_of_several_tokens_a_piece_are_the_upstreams_own(tmp_path: Path) -> None:
    """Where each piece carries the counts so far, they are billed, not the number of pieces."""

    def frame(text: str, completion: int) -> str:
        chunk = {
            "id": "x", "object": "chat.completion.chunk", "created": 1, "model": "k",
            "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}],
            "usage": {"prompt_tokens": PROMPT, "completion_tokens": completion,
                      "total_tokens": PROMPT + completion},
        }  # fmt: skip
        return f"garbage {json.dumps(f'data: {json.dumps(chunk)}' + chr(10) * 2)}"

    def choose(body: Body) -> str:
        count = int(body["messages"][-1]["content"].split()[-1])
        return "\n".join((*(frame(f"w{n}", 7 * (n + 1)) for n in range(count)), "silence"))

    async with served_by(tmp_path, choose) as (served, _):
        for k in range(1, 6):
            visitor = await Visitor.call(served, cut_body(k, stream=True))
            await visitor.read_chunks(k)
            await counted(served, 7 * k)
            visitor.leave("rst")
            row = (await served.rows(k))[-1]
            assert (row.usage.output, row.usage.estimated) == (7 * k, False)
            assert row.charge_nanos == PROMPT * INPUT + 7 * k * OUTPUT
        await served.sound()


# The points of the table at which the upstream has said nothing yet, or everything.
ACTUAL: Final = 40 * INPUT + 10 * 100 + 40 * OUTPUT
TOLD: Final = "usage prompt=50 cached=10 completion=40 at=top"


class Desk:
    """A server in front of a scripted upstream, at the point where a client is to leave."""

    def __init__(self, served: Served, scripted: ScriptedServer, stream: bool) -> None:
        self.served, self.scripted, self.stream = served, scripted, stream
        self.gate = asyncio.Event()

    async def call(self, text: str = "Hi", script: str = "text Io", **more: Any) -> Visitor:
        self.scripted._choose = lambda _: parse(script)[0]
        return await Visitor.call(self.served, ask(text, stream=self.stream), **more)

    def stop_at(self, move: str) -> asyncio.Event:
        """Have a move of the store wait for the gate; set when it waits."""
        real, waits = getattr(self.served.app.store, move), asyncio.Event()

        async def slow(*args: Any, **more: Any) -> Any:
            waits.set()
            await self.gate.wait()
            return await real(*args, **more)

        setattr(self.served.app.store, move, slow)
        return waits

    async def stage(self, wanted: str) -> None:
        async with asyncio.timeout(20):
            while [one.stage for one in self.served.app.gateway._visits] != [wanted]:
                await asyncio.sleep(0.002)


async def request_is_not_whole(desk: Desk) -> Visitor:
    visitor = await desk.call(part=0.5)
    await asyncio.sleep(0.02)
    return visitor


async def money_is_being_set_aside(desk: Desk) -> Visitor:
    waits = desk.stop_at("hold")
    visitor = await desk.call()
    await waits.wait()
    return visitor


async def upstream_has_not_accepted(desk: Desk) -> Visitor:
    visitor = await desk.call(script="hold forever")
    await desk.scripted.until(lambda: desk.scripted.streams_open == 1)
    return visitor


async def no_token_yet(desk: Desk) -> Visitor:
    visitor = await desk.call("y" * 400, "silence")
    async with asyncio.timeout(20):
        while [one.usage.input for one in desk.served.app.book.running()] != [100]:
            await asyncio.sleep(0.002)
    return visitor


async def finish_and_usage_soon(desk: Desk) -> Visitor:
    visitor = await desk.call("y" * 400, f"text Io\nfinish stop\ndelay 0.3\n{TOLD}")
    await desk.stage("tail")
    return visitor


async def finish_and_usage_never(desk: Desk) -> Visitor:
    visitor = await desk.call("y" * 400, f"text Io\nfinish stop\nsilence\n{TOLD}")
    await desk.stage("tail")
    return visitor


async def it_is_being_settled(desk: Desk) -> Visitor:
    waits = desk.stop_at("settle")
    visitor = await desk.call(script=f"text Io\nfinish stop\n{TOLD}")
    await waits.wait()
    return visitor


async def everything_was_said(desk: Desk) -> Visitor:
    visitor = await desk.call(script=f"text Io\nfinish stop\n{TOLD}")
    assert b"Io" in await visitor.read_all()
    return visitor


async def answer_is_not_read(desk: Desk) -> Visitor:
    """A slow reader that we cut counts as leaving: nobody has to leave for it."""
    # A token that no socket's buffers hold: what is read behind it would be billed as well.
    large = "text " + "x" * ONE_TOKEN_BYTES
    visitor = await desk.call("y" * 400, f"{large}\n{large}\nsilence")
    await desk.served.rows(1)
    return visitor


POINTS: Final[dict[str, tuple[Callable[[Desk], Awaitable[Visitor]], str, int]]] = {
    "the request is not whole": (request_is_not_whole, "", 0),
    "money is being set aside": (money_is_being_set_aside, "client_left", 0),
    "not accepted": (upstream_has_not_accepted, "client_left", 0),
    "accepted, no token": (no_token_yet, "client_left", 100 * INPUT),
    "finished, usage within 2 s": (finish_and_usage_soon, "done", ACTUAL),
    "finished, no usage": (finish_and_usage_never, "client_left", 100 * INPUT + OUTPUT),
    "settling": (it_is_being_settled, "done", ACTUAL),
    "after the end": (everything_was_said, "done", ACTUAL),
    "a reader that does not read": (answer_is_not_read, "client_left", 100 * INPUT + OUTPUT),
}
"""Where a client leaves, how that comes about, the outcome, and what it pays (nano-dollars)."""


STREAMED_ALONE: Final = {"a reader that does not read"}
"""An unstreamed answer is whole before its client reads."""


@pytest.mark.parametrize(
    ("point", "stream"),
    [(p, stream) for p in POINTS for stream in (True, False) if stream or p not in STREAMED_ALONE],
)
async def test_leaving_at_each_point_of_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str, stream: bool
) -> None:
    arrive, outcome, pays = POINTS[point]
    monkeypatch.setattr(reply, "SLOW_READER_S", 0.3)
    async with served_by(tmp_path, "text Io") as (served, scripted):
        before, _ = await served.wallet()
        desk = Desk(served, scripted, stream)
        visitor = await arrive(desk)
        visitor.leave("half-close" if stream else "rst")
        await asyncio.sleep(0.05)
        desk.gate.set()
        rows = await served.rows(1 if outcome else 0)
        async with asyncio.timeout(5):
            while served.app.gateway.limits.running:
                await asyncio.sleep(0.01)
        await scripted.until(lambda: scripted.streams_open == 0)
        assert [(row.outcome, row.charge_nanos) for row in rows] == (
            [(outcome, pays)] if outcome else []
        )
        assert await served.wallet() == (before - pays, 0)
        visitor.drop()
        await served.sound()


async def test_what_leaving_early_took_of_the_rates_stays_taken(tmp_path: Path) -> None:
    limit = 1_000_000
    async with served_by(tmp_path, "text Io") as (served, scripted):
        (key,) = [row for row in await served.app.store.keys() if row.name == "first"]
        assert await served.app.store.key_quota(key.id, Quota(tpm=limit))
        left = []
        for _ in range(2):
            whole = await served.post(ask(max_completion_tokens=4_000))
            left.append(int(whole.headers["x-ratelimit-remaining-tokens"]))
            await whole.read()
            visitor = await Desk(served, scripted, stream=True).call(script="hold forever")
            await scripted.until(lambda: scripted.streams_open == 1)
            visitor.leave("fin")
            await scripted.until(lambda: scripted.streams_open == 0)
            scripted._choose = lambda _: parse("text Io")[0]
            await served.quiet()
        took = left[0] - left[1]
        print(f"leaving before acceptance took {took} tokens of the minute's {limit}")
        assert took > 2_000


async def cuts(served: Served, scripted: ScriptedServer, count: int, seed: int) -> list[float]:
    """Seconds from each leaving to the upstream's notice, sorted: any mode, stream or not."""
    dice = random.Random(seed)
    delays = []
    for n in range(count):
        k, stream = dice.randrange(len(ANSWER)), dice.random() < 0.5
        visitor = await Visitor.call(served, cut_body(k, stream))
        if k:
            await counted(served, k)
        else:  # not even accepted, perhaps
            await scripted.until(lambda: scripted.streams_open == 1)
        known = len(scripted.disconnects)
        left_s = visitor.leave(MODES[n % len(MODES)])
        await scripted.until(lambda known=known: len(scripted.disconnects) > known)
        delays.append(scripted.disconnects[-1] - left_s)
        await served.rows(n + 1)
        visitor.drop()
    return sorted(delays)


@pytest.mark.parametrize("count", [100, pytest.param(1_000, marks=pytest.mark.full)])
async def test_leaving_reaches_the_upstream_within_a_tenth_of_a_second(
    tmp_path: Path, count: int
) -> None:
    seed = random.SystemRandom().randrange(2**32)
    async with served_by(tmp_path, until_then_silent("every")) as (served, scripted):
        delays = await cuts(served, scripted, count, seed)
        p99 = delays[count * 99 // 100 - 1]
        print(
            f"seed {seed}: {count} cuts (FIN, RST, half-close), noticed after "
            f"{delays[count // 2] * 1e3:.1f} ms (median), {p99 * 1e3:.1f} ms (p99), "
            f"{delays[-1] * 1e3:.1f} ms (worst)"
        )
        assert p99 <= 0.1, f"seed {seed}"
        assert len(await served.usage()) == count
        await served.sound()
