"""The lines of the fault matrix that a gateway lives through, each as what happens on a bench."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from matrix_deaths_kit import QUESTION, answer, call, with_the_settle_in_the_journal
from matrix_kit import Bench
from moongate.core.errors import ConfigurationError, LedgerUnavailable
from moongate.core.money import Price, Usage
from moongate.core.rows import PriceRow
from moongate.ledger.book import Book, Payer, Told
from moongate.ledger.slices import Terms
from moongate.payments.till import Till
from moongate.upstream.scripted import ScriptedServer
from payments_kit import SECRET, event, signed
from serving_kit import Served, ask


async def post(served: Served, *, stream: bool = False, **headers: str) -> tuple[int, str]:
    """Ask the usual question; the status and the text of the answer."""
    body = ask(QUESTION, stream=stream, max_completion_tokens=200)
    reply = await served.post(body, **headers)
    return reply.status, await reply.text()


@asynccontextmanager
async def serving(bench: Bench, *lines: str) -> AsyncIterator[Served]:
    bench.says(*lines)
    async with bench.server() as served:
        yield served


def unknown_once(served: Served, move: str) -> None:
    """The first ``move`` of the store is done, and nobody hears of it."""
    real, calls = getattr(served.app.store, move), []

    async def deaf(*args: Any, **more: Any) -> Any:
        calls.append(move)
        made = await real(*args, **more)
        if len(calls) == 1:
            raise LedgerUnavailable("lost")
        return made

    setattr(served.app.store, move, deaf)


async def extension_is_unknown(bench: Bench) -> None:
    async with serving(bench, *answer(45)) as served:
        unknown_once(served, "extend")
        status, text = await post(served)
        assert (status, "w44," in text) == (200, True)


async def extension_is_refused(bench: Bench) -> None:
    async with serving(bench, "error 400 invalid_request_error No", "---", *answer(60)) as served:
        assert (await post(served))[0] == 400  # how much a first slice takes
        await served.leave_in_wallet(bench.held_nanos + 25 * 2_000 + 999)
        bench.start_nanos = bench.held_nanos + 25 * 2_000 + 999
        status, text = await post(served)
        assert (status, json.loads(text)["choices"][0]["finish_reason"]) == (200, "length")
        assert (await post(served))[0] == 402


async def settle_is_unknown(bench: Bench) -> None:
    async with serving(bench, *answer(3)) as served:
        unknown_once(served, "settle")
        assert (await post(served))[0] == 200
        async with asyncio.timeout(10):
            while served.app.journal.pending:
                await asyncio.sleep(0.02)


async def leaves(bench: Bench, *, stream: bool) -> None:
    async with serving(bench, *answer(3, at="every", end="silence")) as served:
        visitor = await call(bench, served, stream=stream)
        async with asyncio.timeout(10):
            while [one.usage.output for one in served.app.book.running()] != [3]:
                await asyncio.sleep(0.002)
        visitor.leave("fin")
        await bench.scripted.until(lambda: bench.scripted.streams_open == 0)
        await served.rows(1)
        visitor.drop()


async def leaves_a_stream(bench: Bench) -> None:
    await leaves(bench, stream=True)


async def leaves_an_unstreamed_answer(bench: Bench) -> None:
    await leaves(bench, stream=False)


async def fails_before_the_first_token(bench: Bench) -> None:
    async with serving(bench, "error 500 server_error No") as served:
        assert (await post(served))[0] == 502


async def fails_before_the_first_token_and_another_answers(bench: Bench) -> None:
    async with ScriptedServer("\n".join(answer(3))) as second:
        bench.second = second
        async with serving(bench, "error 500 server_error No") as served:
            assert (await post(served))[0] == 200


async def fails_in_mid_stream(bench: Bench) -> None:
    async with serving(bench, *answer(3, at="every", end="delay 0.05\ncut")) as served:
        status, text = await post(served, stream=True)
        assert (status, "[DONE]" in text, '"upstream_error"' in text) == (200, False, True)


async def stalls_after_the_first_token(bench: Bench) -> None:
    async with serving(bench, *answer(3, at="every", end="silence")) as served:
        status, text = await post(served, stream=True)
        assert (status, "[DONE]" in text, '"error"' in text) == (200, False, True)


async def stalls_before_the_first_token(bench: Bench) -> None:
    async with serving(bench, "hold forever") as served:
        assert (await post(served, stream=True))[0] == 504


async def reports_more_than_is_held(bench: Bench) -> None:
    async with serving(bench, "text Io", "usage prompt=50 cached=10 completion=9000") as served:
        assert (await post(served))[0] == 200
        assert '"over_hold"' in served.log.getvalue()


async def reports_nothing(bench: Bench) -> None:
    async with serving(bench, "text a", "text b", "text c", "usage none") as served:
        assert (await post(served))[0] == 200
        (row,) = await served.usage()
        assert row.usage.estimated


async def reports_the_impossible(bench: Bench) -> None:
    async with serving(bench, "text a", "usage prompt=50 cached=60 completion=3") as served:
        assert (await post(served))[0] == 200
        assert '"cached_over_prompt"' in served.log.getvalue()


async def same_key_while_the_first_runs(bench: Bench) -> None:
    async with serving(bench, "delay 0.3", *answer(3)) as served:
        name = {"idempotency-key": "order"}
        first = asyncio.create_task(post(served, **name))
        await bench.scripted.until(lambda: bench.scripted.streams_open == 1)
        again = await served.post(ask(QUESTION, stream=False, max_completion_tokens=200), **name)
        assert again.status == 409
        assert "idempotency_in_progress" in await again.text()
        assert again.headers["retry-after"]
        assert (await first)[0] == 200


async def same_key_when_the_first_is_done(bench: Bench) -> None:
    async with serving(bench, *answer(3)) as served:
        name = {"idempotency-key": "order"}
        assert (await post(served, **name))[0] == 200
        again = await served.post(ask(QUESTION, stream=False, max_completion_tokens=200), **name)
        assert again.status == 409
        assert "idempotency_completed" in await again.text()
        assert again.headers["x-should-retry"] == "false"
        assert again.headers["x-moongate-usage"] == (await served.usage())[0].hold


async def same_key_for_another_body(bench: Bench) -> None:
    async with serving(bench, *answer(3)) as served:
        name = {"idempotency-key": "order"}
        assert (await post(served, **name))[0] == 200
        status, text = await post(served, stream=True, **name)
        assert (status, "idempotency_mismatch" in text) == (422, True)


async def two_replicas_want_the_last_credit(bench: Bench) -> None:
    terms = Terms(19_200, 2_000, 20)
    async with bench.server() as served:
        bench.start_nanos = 60_000
        await served.leave_in_wallet(bench.start_nanos)
    async with bench.looking() as one, bench.looking() as two:
        (price, *_) = await one.prices()
        books = [Book(store, bench.clock, f"replica-{n}") for n, store in enumerate((one, two))]
        answers = await asyncio.gather(
            *(
                book.hold(id=f"h{n}", payer=Payer("k", "default"), model="kimi-k2.5", price=price,
                          terms=terms)
                for n, book in enumerate(books)
            ),
            return_exceptions=True,
        )  # fmt: skip
        ((book, held),) = [
            (book, held)
            for book, held in zip(books, answers, strict=True)
            if not isinstance(held, BaseException)
        ]
        await book.settle(held, "done", Usage(input=40, output=3), Told("scripted", 1))


async def paused_past_its_lease(bench: Bench) -> None:
    async with serving(bench, "text a,", "delay 0.3", *answer(60)) as served:
        visitor = await call(bench, served)
        await visitor.read_chunks(1)
        await bench.expire(served, 1_000)
        text = await visitor.read_all()
        assert b'"error"' in text
        assert b"[DONE]" not in text
        visitor.drop()


async def disk_is_full(bench: Bench) -> None:
    async with serving(bench, "text a,", "delay 0.4", *answer(3)) as served:
        visitor = await call(bench, served, max_completion_tokens=10)
        await visitor.read_chunks(1)
        await bench.breaks()
        status, text = await post(served)
        assert (status, "ledger_unavailable" in text) == (503, True)
        assert b"[DONE]" in await visitor.read_all()  # its bill stands in the journal
        visitor.drop()
        assert served.app.journal.pending
        await bench.mends()
        await served.rows(1)


async def clock_is_set(bench: Bench) -> None:
    hour_ms = 3_600_000
    async with serving(bench, "text a,", "delay 0.3", *answer(3)) as served:
        for step_ms in (hour_ms, -2 * hour_ms, hour_ms):
            visitor = await call(bench, served)
            await visitor.read_chunks(1)
            bench.clock.off_ms += step_ms
            await served.app.sweep.expire()
            assert b"[DONE]" in await visitor.read_all()
            visitor.drop()
        assert all(row.duration_ms < 10_000 for row in await served.usage())


async def price_changes_meanwhile(bench: Bench) -> None:
    async with serving(bench, "text a,", "delay 0.3", *answer(3)) as served:
        visitor = await call(bench, served)
        await visitor.read_chunks(1)
        app = served.app
        await app.store.price_add(PriceRow(0, "kimi-k2.5", Price(1, 1, 1), app.clock.now_ms()))
        app.catalog.reprice(await app.store.prices())
        assert b'"cost_nanos":26200' in await visitor.read_all()
        visitor.drop()
        assert '"cost_nanos":53' in (await post(served))[1]
        assert [row.price_version for row in await served.usage()] == [1, 2]


async def webhook_comes_again_and_out_of_order(bench: Bench) -> None:
    async with bench.server() as served:
        app = served.app
        till = Till(app.store, app.clock, app.log.event, secret=SECRET)
        about: dict[str, Any] = {
            "client_reference_id": "default", "metadata": {"account": "default"},
        }  # fmt: skip
        paid = event(**about)
        later = paid | {"id": "evt_2", "type": "checkout.session.async_payment_succeeded"}
        at_s = app.clock.now_ms() // 1000
        events = [later, paid, paid, later, paid]
        taken = await asyncio.gather(*(till.take(*signed(one, at_s)) for one in events))
        assert sorted(taken) == ["credited", *["repeated"] * 4]


async def restored_from_a_backup(bench: Bench) -> None:
    async with bench.server():
        pass
    await bench.back_up()
    await with_the_settle_in_the_journal(bench)
    await bench.restore()
    with pytest.raises(ConfigurationError, match="put back to an older state"):
        async with bench.server():
            raise AssertionError("it started")
    for path in bench.folder.glob("home/journal/*"):
        path.rename(bench.folder / path.name)  # the gap is acknowledged
    async with bench.server() as served:
        assert await served.usage() == []
