"""A running answer is paid for slice by slice: what passes is covered, what is not ends it."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from moongate.core.errors import LedgerUnavailable
from moongate.core.rows import HoldRow, Quota
from moongate.core.store import Extension
from moongate.store.memory import MemoryStore
from moongate.upstream.scripted import ScriptedServer
from serving_kit import ONE_UPSTREAM, Served, ask, serve
from wire_kit import check_stream

SMALL = ONE_UPSTREAM + "\n[ledger]\nhold_first = 20\nhold_step = 30\nhold_low = 5\n"
PROMPT_BOUND_MAX = 400
"""More than the bound of the prompt that these tests send, in tokens."""


def story(pieces: int, *, at: str = "both") -> str:
    lines = [f"text w{n}," for n in range(pieces)]
    return "\n".join([*lines, f"usage prompt=10 cached=0 completion={pieces} at={at}"])


def config(scripted: ScriptedServer) -> str:
    return SMALL.format(kind="moonshot", base_url=scripted.base_url)


async def limited(served: Served, quota: Quota) -> None:
    """Give the key of the test these rates."""
    (key,) = [row for row in await served.app.store.keys() if row.name == "first"]
    assert await served.app.store.key_quota(key.id, quota)


async def prompt_nanos(served: Served) -> int:
    """What the prompt of ``ask()`` is held for."""
    captured: list[int] = []
    real = served.app.store.hold

    async def spy(row: HoldRow, **more: Any) -> Any:
        captured.append(more["floor_nanos"] - min(20, 256) * 2_000)
        return await real(row, **more)

    served.app.store.hold = spy  # type: ignore[method-assign]  # looks on
    reply = await served.post(ask())
    assert reply.status == 200
    served.app.store.hold = real  # type: ignore[method-assign]  # as before
    return captured[0]


@pytest.mark.parametrize("at", ["both", "every"])
async def test_a_long_answer_is_extended_and_charged_in_full(tmp_path: Path, at: str) -> None:
    store = MemoryStore()
    async with (
        ScriptedServer(story(300, at=at)) as scripted,
        serve(tmp_path, config(scripted), store=store) as served,
    ):
        for stream in (False, True):
            reply = await served.post(ask(stream=stream, max_completion_tokens=1_000))
            assert reply.status == 200, await reply.text()
            text = await reply.text()
            assert "w299," in text
            row = (await served.usage())[-1]
            assert (row.outcome, row.usage.output, row.forgiven_nanos) == ("done", 300, 0)
            assert row.charge_nanos == 10 * 480 + 300 * 2_000
        await served.sound()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_wallet_that_runs_dry_ends_the_answer_with_length(
    tmp_path: Path, stream: bool
) -> None:
    async with (
        ScriptedServer(story(300)) as scripted,
        serve(tmp_path, config(scripted), store=MemoryStore()) as served,
    ):
        prompt = await prompt_nanos(served)
        await served.leave_in_wallet(prompt + 75 * 2_000 + 999)
        reply = await served.post(
            ask(stream=stream, max_completion_tokens=1_000,
                **({"stream_options": {"include_usage": True}} if stream else {}))
        )  # fmt: skip
        assert reply.status == 200
        if stream:
            answer = check_stream(await reply.read(), include_usage=True)
            (choice,) = answer["choices"]
            content, finish, usage = choice["content"], choice["finish_reason"], answer["usage"]
        else:
            body = await reply.json()
            (choice,) = body["choices"]
            content, finish, usage = (
                choice["message"]["content"], choice["finish_reason"], body["usage"]
            )  # fmt: skip
        assert finish == "length"
        assert content == "".join(f"w{n}," for n in range(75))
        row = (await served.usage())[-1]
        assert (row.outcome, row.usage.output) == ("credit_stop", 75)
        assert usage["completion_tokens"] == 75
        assert usage["cost_nanos"] == row.charge_nanos
        assert await scripted.until(lambda: scripted.streams_open == 0) is None
        await served.sound()
        refused = await served.post(ask(stream=stream))
        assert refused.status == 402
        assert refused.headers["x-should-retry"] == "false"


async def test_a_small_wallet_carries_a_hundred_requests_at_once(tmp_path: Path) -> None:
    """P16: $2 at $0.60/$3.00, prompts of 10,000 tokens, a cap of 262,144."""
    text = ONE_UPSTREAM.replace('"0.48"', '"0.60"').replace('"2.00"', '"3.00"')
    text = text.replace("idle_timeout_s = 5", "idle_timeout_s = 5\nconcurrency_max = 200")
    async with (
        ScriptedServer("text a\nsilence") as scripted,
        serve(
            tmp_path,
            text.format(kind="moonshot", base_url=scripted.base_url),
            store=MemoryStore(),
        ) as served,
    ):
        await served.leave_in_wallet(2_000_000_000)
        await limited(served, Quota(concurrency=200))
        # 10,000 tokens of prompt by the bound that counts bytes.
        body = ask("x" * 9_900, stream=True, max_completion_tokens=262_144)
        replies = await asyncio.gather(*(served.post(body) for _ in range(110)))
        assert sum(reply.status == 200 for reply in replies) >= 100
        assert {reply.status for reply in replies} <= {200, 402}
        for reply in replies:
            reply.close()
        async with asyncio.timeout(20):
            while len(await served.usage()) < sum(reply.status == 200 for reply in replies):
                await asyncio.sleep(0.02)
        await served.sound()


async def test_waiting_for_a_slice_holds_back_what_is_not_covered(tmp_path: Path) -> None:
    gate = asyncio.Event()

    class Slow(MemoryStore):
        async def extend(self, extension: Extension) -> HoldRow | None:
            await gate.wait()
            return await super().extend(extension)

    async with (
        ScriptedServer(story(60)) as scripted,
        serve(tmp_path, config(scripted), store=Slow()) as served,
    ):
        reply = await served.post(ask(stream=True, max_completion_tokens=1_000))
        seen = b""
        while b"w19," not in seen:
            seen += await reply.content.readany()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await reply.content.readany()
        gate.set()
        rest = await reply.content.read()
        assert b"w59," in rest
        await served.sound()


async def test_an_unreachable_ledger_lets_a_stream_run_on_for_a_while(tmp_path: Path) -> None:
    class Gone(MemoryStore):
        async def extend(self, extension: Extension) -> HoldRow | None:
            raise LedgerUnavailable("gone")

    async with (
        ScriptedServer(story(300)) as scripted,
        serve(tmp_path, config(scripted), store=Gone()) as served,
    ):
        body = ask(stream=True, max_completion_tokens=1_000)
        reply = await served.post(body)
        assert b"w299," in await reply.read()
        (row,) = await served.usage()
        assert row.outcome == "done"
        assert row.charge_nanos + row.forgiven_nanos == 10 * 480 + 300 * 2_000
        assert row.forgiven_nanos > 0  # what was not covered is not charged
        served.app.book.slices = type(served.app.book.slices)(20, 30, 5, 100)
        reply = await served.post(body)
        text = (await reply.read()).decode()
        assert '"code":"ledger_unavailable"' in text
        assert "[DONE]" not in text
        assert text.count('"content":"w') == 120
        assert (await served.usage())[-1].charge_nanos == 0
        await served.sound()


async def test_a_hold_that_expired_under_a_running_stream_ends_it_at_no_charge(
    tmp_path: Path,
) -> None:
    async with (
        ScriptedServer("text a,\ndelay 0.3\n" + story(60)) as scripted,
        serve(tmp_path, config(scripted), store=MemoryStore()) as served,
    ):
        reply = await served.post(ask(stream=True, max_completion_tokens=1_000))
        await reply.content.readany()
        await served.app.store.expire(served.app.clock.now_ms() + 10**9, 0)
        text = (await reply.read()).decode()
        assert '"code":"ledger_unavailable"' in text
        assert "[DONE]" not in text
        (row,) = await served.usage()
        assert (row.outcome, row.charge_nanos) == ("expired", 0)
        await served.sound()


@pytest.mark.parametrize("trouble", ["settle", "everything"])
async def test_a_store_that_cannot_settle_leaves_it_to_the_journal(
    tmp_path: Path, trouble: str
) -> None:
    """The client sees its end, the bill stands on the disk, and the ledger gets it later."""
    store = MemoryStore()
    async with (
        ScriptedServer("text a\ndelay 0.3\ntext b") as scripted,
        serve(tmp_path, config(scripted), store=store) as served,
    ):
        before, _ = await served.wallet()
        asked = asyncio.create_task(served.post(ask()))
        while not await store.open_holds():
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        store.trouble = trouble
        reply = await asked
        body = await reply.json()
        assert reply.status == 200
        assert body["choices"][0]["message"]["content"] == "ab"
        refused = await served.post(ask())
        assert (refused.status, (await refused.json())["error"]["code"]) == (
            503, "ledger_unavailable",
        )  # fmt: skip
        assert refused.headers["retry-after"]
        store.trouble = None
        async with asyncio.timeout(10):
            while not await served.usage():
                await asyncio.sleep(0.05)
        (row,) = await served.usage()
        assert row.charge_nanos == body["usage"]["cost_nanos"] > 0
        assert (await served.wallet())[0] == before - row.charge_nanos
        await served.sound()


async def test_one_idempotency_key_is_one_charge(tmp_path: Path) -> None:
    async with (
        ScriptedServer("text a\ndelay 0.2\ntext b") as scripted,
        serve(tmp_path, config(scripted), store=MemoryStore()) as served,
    ):
        name = {"idempotency-key": "order-17"}
        replies = await asyncio.gather(*(served.post(ask(), **name) for _ in range(20)))
        by_status = [reply for reply in replies if reply.status == 200]
        busy = [reply for reply in replies if reply.status == 409]
        assert (len(by_status), len(busy)) == (1, 19)
        error = (await busy[0].json())["error"]
        assert (error["type"], error["code"]) == ("idempotency_error", "idempotency_in_progress")
        assert busy[0].headers["retry-after"] == "1"
        late = await served.post(ask(), **name)
        assert (late.status, (await late.json())["error"]["code"]) == (
            409, "idempotency_completed",
        )  # fmt: skip
        assert late.headers["x-should-retry"] == "false"
        assert late.headers["x-moongate-usage"] == by_status[0].headers["x-request-id"]
        other = await served.post(ask("Another question."), **name)
        assert (other.status, (await other.json())["error"]["code"]) == (
            422, "idempotency_mismatch",
        )  # fmt: skip
        for key in ("", "x" * 256, "a\tb"):
            bad = await served.post(ask(), **{"idempotency-key": key})
            told = (await bad.json())["error"]
            assert (bad.status, told["code"], told["param"]) == (
                400, "invalid_idempotency_key", "Idempotency-Key",
            )  # fmt: skip
        assert len(scripted.requests) - scripted_probes(scripted) == 1
        assert len(await served.usage()) == 1
        await served.sound()


async def test_a_failed_request_frees_its_idempotency_key(tmp_path: Path) -> None:
    async with (
        ScriptedServer(
            "error 500 server_error x\n---\nerror 500 server_error x\n---\ntext a"
        ) as up,
        serve(tmp_path, config(up), store=MemoryStore()) as served,
    ):
        name = {"idempotency-key": "again"}
        statuses = [(await served.post(ask(), **name)).status for _ in range(4)]
        assert statuses[-2:] == [200, 409] or statuses[-3:] == [200, 409, 409]
        assert statuses[0] == 502
        assert sum(row.charge_nanos > 0 for row in await served.usage()) == 1
        await served.sound()


def scripted_probes(scripted: ScriptedServer) -> int:
    return sum(seen.method == "GET" for seen in scripted.requests)
