"""The crash and fault matrix: each of its lines is run, on every real store where it applies.

A line says what happens, what the disk holds then, how it ends, and what the customer pays.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Literal, NamedTuple

import pytest

import matrix_deaths_kit as deaths
import matrix_faults_kit as faults
from live_kit import short_folder
from matrix_deaths_kit import GUESSED, OUTPUT, PROMPT, actual
from matrix_kit import Bench, bench

REAL = ("sqlite", pytest.param("postgres", marks=pytest.mark.postgres))


class Line(NamedTuple):
    """``outcome`` is the usage row's (empty: there is none), ``forgiven`` is in nano-dollars."""

    happens: Callable[[Bench], Awaitable[str]]
    durable: str
    outcome: str
    pays: int
    forgiven: int = 0


DEATHS = {
    "before the reserve commits": Line(deaths.before_the_reserve, "nothing", "", 0),
    "reserved, not sent": Line(deaths.before_the_request_is_sent, "open", "expired", 0),
    "accepted, no byte": Line(
        deaths.accepted_without_a_byte, "open, counts", "expired", 0, GUESSED
    ),
    "in mid-stream": Line(deaths.in_mid_stream, "open, counts", "expired", 0, PROMPT + 3 * OUTPUT),
    "in mid-stream, checkpoints": Line(
        deaths.in_mid_stream_with_checkpoints, "open, counts", "expired", PROMPT + 3 * OUTPUT
    ),
    "before an extension commits": Line(deaths.before_the_extension, "open", "expired", 0),
    "after an extension commits": Line(deaths.after_the_extension, "open", "expired", 0),
    "upstream done, before the settle": Line(deaths.before_the_settle, "open", "expired", 0),
    "upstream done, settle in the journal": Line(
        deaths.with_the_settle_in_the_journal, "open, journal", "done", actual(3)
    ),
    "settled, nobody saw the end": Line(
        deaths.settled_before_its_end_is_told, "resolved", "done", actual(3)
    ),
}
"""The gateway is killed; another one starts on what it left, and its leases run out."""


class Fault(NamedTuple):
    """``outcomes`` are the usage rows', oldest first; ``pays`` and ``forgiven`` are in all."""

    happens: Callable[[Bench], Awaitable[None]]
    outcomes: tuple[str, ...]
    pays: int | Literal["the hold"]
    forgiven: int = 0


FAULTS = {
    "an extension's commit is unknown": Fault(faults.extension_is_unknown, ("done",), actual(45)),
    "an extension is refused": Fault(
        faults.extension_is_refused, ("refused", "credit_stop"), GUESSED + 45 * OUTPUT
    ),
    "a settle's commit is unknown": Fault(faults.settle_is_unknown, ("done",), actual(3)),
    "the client leaves a stream": Fault(faults.leaves_a_stream, ("client_left",), actual(3)),
    "the client leaves an unstreamed answer": Fault(
        faults.leaves_an_unstreamed_answer, ("client_left",), actual(3)
    ),
    "upstream fails before the first token": Fault(
        faults.fails_before_the_first_token, ("upstream_error",), 0
    ),
    "upstream fails before the first token, another answers": Fault(
        faults.fails_before_the_first_token_and_another_answers, ("done",), actual(3)
    ),
    "upstream fails in mid-stream": Fault(
        faults.fails_in_mid_stream, ("upstream_error",), 0, actual(3)
    ),
    "upstream stalls after the first token": Fault(
        faults.stalls_after_the_first_token, ("upstream_error",), 0, actual(3)
    ),
    "upstream stalls before the first token": Fault(
        faults.stalls_before_the_first_token, ("upstream_error",), 0
    ),
    "upstream reports more than is held": Fault(
        faults.reports_more_than_is_held, ("done",), "the hold", -1
    ),
    "usage is missing": Fault(faults.reports_nothing, ("done",), GUESSED + 3 * OUTPUT),
    "usage is impossible": Fault(faults.reports_the_impossible, ("done",), 50 * 100 + 3 * OUTPUT),
    "same key, the first runs": Fault(faults.same_key_while_the_first_runs, ("done",), actual(3)),
    "same key, the first is done": Fault(
        faults.same_key_when_the_first_is_done, ("done",), actual(3)
    ),
    "same key, another body": Fault(faults.same_key_for_another_body, ("done",), actual(3)),
    "two replicas, the last credit": Fault(
        faults.two_replicas_want_the_last_credit, ("done",), 40 * 480 + 3 * OUTPUT
    ),
    "a replica paused past its lease": Fault(faults.paused_past_its_lease, ("expired",), 0),
    "the disk is full": Fault(faults.disk_is_full, ("done",), actual(3)),
    "the clock is set": Fault(faults.clock_is_set, ("done",) * 3, 3 * actual(3)),
    "the price changes meanwhile": Fault(
        faults.price_changes_meanwhile, ("done", "done"), actual(3) + 53
    ),
    "a webhook comes again and out of order": Fault(
        faults.webhook_comes_again_and_out_of_order, (), -20 * 10**9
    ),
    "restored from a backup": Fault(faults.restored_from_a_backup, (), 0),
}
"""The gateway lives on, or another one must decide."""


@pytest.fixture(params=REAL)
async def desk(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    with short_folder() as folder:
        async with bench(request.param, folder) as it:
            yield it


@pytest.mark.parametrize("line", DEATHS)
async def test_a_gateway_that_dies(desk: Bench, line: str) -> None:
    happens, durable, outcome, pays, forgiven = DEATHS[line]
    assert await happens(desk) == durable
    async with desk.server() as served:
        await desk.expire(served, 200)
        shown = await served.usage()
    row = await desk.row()
    assert [row] * bool(outcome) == shown
    assert (await desk.paid(), "" if row is None else row.outcome) == (pays, outcome)
    if row is not None:
        assert (row.charge_nanos, row.forgiven_nanos) == (pays, forgiven)


@pytest.mark.parametrize("line", FAULTS)
async def test_a_fault_that_is_lived_through(desk: Bench, line: str) -> None:
    happens, outcomes, pays, forgiven = FAULTS[line]
    await happens(desk)
    async with desk.looking() as store:
        rows = await store.usage()
    assert tuple(row.outcome for row in rows) == outcomes
    if pays == "the hold":
        (row,) = rows
        assert (row.charge_nanos, row.forgiven_nanos) == (
            desk.held_nanos, actual(9_000) - desk.held_nanos,
        )  # fmt: skip
    else:
        assert await desk.paid() == pays
        assert sum(row.forgiven_nanos for row in rows) == forgiven
