"""A failed answer costs nothing: each fault of an upstream or of ours, before content and after."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any, Final

import pytest

from moongate.core.cards import Facts
from moongate.core.errors import (
    LedgerUnavailable,
    UpstreamDown,
    UpstreamOverloaded,
    UpstreamProtocolError,
    UpstreamRefused,
    UpstreamTimeout,
)
from moongate.core.events import Event, Failed, Finished, Started, Text, Used
from moongate.core.money import Counts
from moongate.core.ports import Ask, Probe
from moongate.core.request import Request
from moongate.delivery import Streamed, Whole
from moongate.meter.tap import Tap
from moongate.store.memory import MemoryStore
from moongate.wire.chat.chunks import ChatWriter
from serving_kit import ONE_UPSTREAM, Served, ask, serve

QUESTION: Final = "y" * 400
PROMPT: Final = 100 * 480
CONFIG: Final = ONE_UPSTREAM.format(kind="moonshot", base_url="http://127.0.0.1:9/v1")
UPSTREAM_FAULTS: Final[dict[str, Callable[[], Exception]]] = {
    "down": lambda: UpstreamDown("connect"),
    "its account": lambda: UpstreamDown("account"),
    "overloaded": lambda: UpstreamOverloaded("full"),
    "silent": lambda: UpstreamTimeout("first_token"),
    "idle": lambda: UpstreamTimeout("idle"),
    "cut": lambda: UpstreamProtocolError("cut"),
    "nonsense": lambda: UpstreamProtocolError("chunk"),
    "refused": lambda: UpstreamRefused("content_filter"),
    "a bug of ours in reading it": lambda: RuntimeError("The model says no."),
}


class Upstream:
    """Says ``pieces`` words, and then ``trouble``, or its end."""

    name = "moonshot"
    kind = "moonshot"

    def __init__(self, pieces: int, trouble: Callable[[], Exception | Event] | None) -> None:
        self.pieces, self.trouble = pieces, trouble

    def facts(self) -> Facts:
        return Facts()

    async def count(self, request: Request) -> int | None:
        return None

    async def probe(self) -> Probe:
        return Probe(ok=True, models=None, detail="")

    def dropped(self, request: Request) -> tuple[str, ...]:
        return ()

    async def start(self) -> None: ...
    async def close(self) -> None: ...

    async def stream(self, ask: Ask) -> AsyncGenerator[list[Event], None]:
        if self.pieces < 0 and self.trouble is not None:
            raise self.trouble()  # type: ignore[misc]  # before acceptance there are no events
        yield [Started()]
        for n in range(self.pieces):
            await asyncio.sleep(0)
            yield [Text(f"w{n},")]
        if self.trouble is not None:
            trouble = self.trouble()
            if isinstance(trouble, Exception):
                raise trouble
            yield [trouble]
            return
        yield [Finished("stop"), Used(Counts(100, self.pieces, 0))]


async def costs_nothing(served: Served, stream: bool, pieces: int, *, rows: int = 1) -> None:
    """Ask, be told of a failure, pay nothing; what was made is forgiven, error texts are not."""
    before, _ = await served.wallet()
    reply = await served.post(ask(QUESTION, stream=stream))
    text = await reply.text()
    if stream and pieces > 0:
        assert (reply.status, '"error"' in text, "[DONE]" in text) == (200, True, False)
    else:
        assert reply.status >= 400, text
    assert "says no" not in text
    found = await served.rows(rows)
    assert [row.charge_nanos for row in found] == [0] * rows
    assert await served.wallet() == (before, 0)
    if rows:
        (row,) = found
        made = PROMPT + pieces * 2_000 if pieces >= 0 else 0
        assert (row.usage.output, row.forgiven_nanos) == (max(pieces, 0), made)
    await served.sound()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("pieces", [-1, 0, 3])
@pytest.mark.parametrize("fault", UPSTREAM_FAULTS)
async def test_a_fault_of_an_upstream(
    tmp_path: Path, fault: str, pieces: int, stream: bool
) -> None:
    upstream = Upstream(pieces, UPSTREAM_FAULTS[fault])
    async with serve(
        tmp_path, CONFIG, store=MemoryStore(), upstreams={"moonshot": upstream}
    ) as served:
        await costs_nothing(served, stream, pieces)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("pieces", [0, 3])
async def test_an_error_object_inside_the_stream(tmp_path: Path, pieces: int, stream: bool) -> None:
    upstream = Upstream(pieces, lambda: Failed("server_error"))
    async with serve(
        tmp_path, CONFIG, store=MemoryStore(), upstreams={"moonshot": upstream}
    ) as served:
        await costs_nothing(served, stream, pieces)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_without_a_finish(tmp_path: Path, stream: bool) -> None:
    class Endless(Upstream):
        async def stream(self, ask: Ask) -> AsyncGenerator[list[Event], None]:
            yield [Started()]
            yield [Text("w0,")]

    async with serve(
        tmp_path, CONFIG, store=MemoryStore(), upstreams={"moonshot": Endless(1, None)}
    ) as served:
        await costs_nothing(served, stream, 1)


def broken(*_: Any, **__: Any) -> Any:
    raise RuntimeError("The model says no.")


OUR_FAULTS: Final[dict[str, tuple[Any, str, bool]]] = {
    "the meter": (Tap, "see", True),
    "the meter, unstreamed": (Tap, "see", False),
    "the writer": (ChatWriter, "write", True),
    "the writer's end": (ChatWriter, "end", True),
    "passing a piece on": (Streamed, "write", True),
    "passing a piece on, unstreamed": (Whole, "write", False),
    "the whole answer": (Whole, "draft", False),
}
"""What breaks, and whether the answer is streamed."""


@pytest.mark.parametrize("fault", OUR_FAULTS)
async def test_a_fault_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    place, name, stream = OUR_FAULTS[fault]
    upstream = Upstream(3, None)
    async with serve(
        tmp_path, CONFIG, store=MemoryStore(), upstreams={"moonshot": upstream}
    ) as served:
        before, _ = await served.wallet()
        with monkeypatch.context() as patch:
            patch.setattr(place, name, broken)
            reply = await served.post(ask(QUESTION, stream=stream))
            text = await reply.text()
        assert reply.status == 500 or '"error"' in text
        assert "[DONE]" not in text
        assert "says no" not in text
        (row,) = await served.rows(1)
        assert (row.outcome, row.charge_nanos) == ("gateway_error", 0)
        assert await served.wallet() == (before, 0)
        assert '"fault"' in served.log.getvalue()
        await served.sound()
        whole = await served.post(ask(QUESTION, stream=stream))  # and it goes on
        assert whole.status == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_neither_store_nor_journal_can_take_the_end(tmp_path: Path, stream: bool) -> None:
    store, upstream = MemoryStore(), Upstream(3, None)
    async with serve(tmp_path, CONFIG, store=store, upstreams={"moonshot": upstream}) as served:
        before, _ = await served.wallet()

        async def gone(*_: Any) -> Any:
            raise LedgerUnavailable("gone")

        store.settle = gone  # type: ignore[method-assign]  # what is tested
        served.app.journal.write = gone  # type: ignore[method-assign]  # what is tested
        reply = await served.post(ask(QUESTION, stream=stream))
        text = await reply.text()
        assert (reply.status, "[DONE]" in text) == (200 if stream else 503, False)
        assert '"ledger_unavailable"' in text
        del store.settle
        assert len(await store.open_holds()) == 1
        await store.expire(served.app.clock.now_ms() + 10**9, 0)  # its lease runs out
        (row,) = await served.rows(1)
        assert (row.outcome, row.charge_nanos) == ("expired", 0)
        assert await served.wallet() == (before, 0)
        await served.sound()
