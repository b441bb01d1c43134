"""The journal: what the store cannot take is on the disk, and booked later, once."""

import errno
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from moongate.core.errors import ConfigurationError, LedgerUnavailable
from moongate.core.money import Usage
from moongate.core.ports import ManualClock, Store
from moongate.ledger import journal as module
from moongate.ledger.book import Book, Held, Payer, Told
from moongate.ledger.journal import SIZE_BYTES, Journal
from moongate.ledger.slices import Terms
from moongate.ledger.sweep import Sweep
from moongate.store.memory import MemoryStore
from store_kit import NOW_MS, a_budget, a_hold, an_end, balance, furnish, the_time_is

TOLD = Told("scripted", 1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def journal(folder: Path) -> Iterator[Journal]:
    one = Journal(folder)
    one.open()
    yield one
    one.close()


async def a_book(journal: Journal) -> tuple[MemoryStore, Book]:
    store = MemoryStore()
    await furnish(store, 1_000_000)
    return store, Book(store, ManualClock(), "us", journal=journal)


async def held(book: Book, store: MemoryStore, id: str = "h1") -> Held:
    (price,) = await store.prices()
    return await book.hold(
        id=id, payer=Payer("k", "acme"), model="m", price=price, terms=Terms(9_000, 1, 0)
    )


def reopened(folder: Path) -> Journal:
    again = Journal(folder)
    again.open()
    return again


async def test_an_end_that_the_store_cannot_take_is_charged_when_it_can(journal: Journal) -> None:
    store, book = await a_book(journal)
    one, two = await held(book, store), await held(book, store, "h2")
    store.trouble = "gone"
    bill = await book.settle(one, "done", Usage(output=3), TOLD)
    assert bill.cost_nanos == 6_000
    await book.void(two, "upstream_error", Usage(), TOLD)
    assert set(journal.pending) == {"h1", "h2"}
    with pytest.raises(LedgerUnavailable):
        await journal.replay(store, NOW_MS)
    assert set(journal.pending) == {"h1", "h2"}
    store.trouble = None
    assert await journal.replay(store, NOW_MS) == 2
    assert journal.pending == {}
    assert await balance(store) == (1_000_000 - 6_000, 0)
    assert await store.audit() == []


async def test_a_process_that_dies_leaves_it_to_the_next(folder: Path, journal: Journal) -> None:
    store, book = await a_book(journal)
    one = await held(book, store)
    store.trouble = "gone"
    await book.settle(one, "done", Usage(output=3), TOLD)
    journal.close()
    store.trouble = None
    again = reopened(folder)
    clock = ManualClock()
    sweep = Sweep(store, Book(store, clock, "next", journal=again), clock, lambda *_, **__: None)
    assert await sweep.recover() == 0  # booked first, so there is nothing to expire
    assert await balance(store) == (1_000_000 - 6_000, 0)
    again.close()
    assert reopened(folder).pending == {}


async def test_replaying_what_was_booked_charges_nothing_twice(
    folder: Path, journal: Journal
) -> None:
    store, book = await a_book(journal)
    one = await held(book, store)
    end = an_end(one.row, Usage(output=3))
    await journal.write(end)
    assert await store.settle(end)  # the commit that nobody heard of
    assert await journal.replay(store, NOW_MS) == 0
    assert await balance(store) == (1_000_000 - 6_000, 0)
    assert journal.unknown == set()
    journal.close()
    assert reopened(folder).pending == {}


async def test_two_processes_have_a_file_each_and_a_dead_ones_is_taken_over(
    folder: Path, journal: Journal
) -> None:
    other = reopened(folder)
    assert len(list(folder.iterdir())) == 2
    store, book = await a_book(other)
    await other.write(an_end((await held(book, store)).row, Usage(output=3)))
    other.close()
    third = reopened(folder)  # the second file: the first is still held
    assert set(third.pending) == {"h1"}
    journal.close()
    third.close()
    heir = reopened(folder)  # both
    assert set(heir.pending) == {"h1"}
    await heir.replay(store, NOW_MS)
    assert len(list(folder.iterdir())) == 1
    heir.close()


async def test_a_torn_record_is_not_read_and_is_written_over(
    folder: Path, journal: Journal
) -> None:
    ends = [an_end(a_hold(f"h{n}", 9_000), Usage(output=n)) for n in range(4)]
    for end in ends[:2]:
        await journal.write(end)
    journal.close()
    (file,) = folder.iterdir()
    data = bytearray(file.read_bytes())
    whole = data.rstrip(b"\0")
    dice = random.Random(5)
    for cut in [len(whole) - 1, *(dice.randrange(len(whole) // 2 + 1, len(whole)) for _ in "1234")]:
        torn = bytearray(data)
        torn[cut : len(whole)] = dice.randbytes(len(whole) - cut)
        file.write_bytes(torn)
        again = reopened(folder)
        assert set(again.pending) == {"h0"}
        await again.write(ends[2])
        again.close()
        last = reopened(folder)
        assert set(last.pending) == {"h0", "h2"}
        assert last.pending["h2"] == ends[2]
        last.close()


async def test_a_full_disk_stops_only_what_does_not_fit_the_preallocated_file(
    monkeypatch: pytest.MonkeyPatch, journal: Journal
) -> None:
    real = os.pwrite

    def full(file: int, data: bytes, at: int) -> int:
        if at + len(data) > SIZE_BYTES:
            raise OSError(errno.ENOSPC, "full")
        return real(file, data, at)

    monkeypatch.setattr(module.os, "pwrite", full)
    written = 0

    async def fill() -> None:
        nonlocal written
        while True:
            await journal.write(an_end(a_hold(f"h{written}", 9_000), Usage(output=1)))
            written += 1

    with pytest.raises(LedgerUnavailable, match="journal"):
        await fill()
    assert written > 1_000
    assert len(journal.pending) == written


async def test_a_store_put_back_to_before_the_journal_is_noticed(
    folder: Path, journal: Journal
) -> None:
    await journal.write(an_end(a_hold("h1", 9_000), Usage(output=3)))
    store, book = await a_book(journal)
    sweep = Sweep(store, book, ManualClock(), lambda *_, **__: None)
    with pytest.raises(ConfigurationError, match="put back to an older state"):
        await sweep.recover()
    journal.close()
    assert set(reopened(folder).pending) == {"h1"}  # nothing was thrown away


async def test_a_charge_above_its_hold_stops_none_behind_it_and_is_noticed(
    journal: Journal,
) -> None:
    store, book = await a_book(journal)
    one, two = await held(book, store), await held(book, store, "h2")
    await journal.write(an_end(a_hold("h1", one.row.amount_nanos * 2), Usage(output=9_000)))
    await journal.write(an_end(two.row, Usage(output=3)))
    assert await journal.replay(store, NOW_MS) == 1
    assert journal.unknown == {"h1"}
    assert await balance(store) == (1_000_000 - 6_000, one.row.amount_nanos)


async def test_what_an_outage_let_lapse_is_charged_before_anything_expires(
    journal: Journal,
) -> None:
    store = MemoryStore()
    await furnish(store, 1_000_000)
    clock = ManualClock()
    book = Book(store, clock, "us", journal=journal)
    one = await held(book, store)
    store.trouble = "full"
    await book.settle(one, "done", Usage(output=3), TOLD)
    clock.advance(600)
    store.trouble = None
    sweep = Sweep(store, book, clock, lambda *_, **__: None)
    assert await sweep.expire() == 0
    assert await balance(store) == (1_000_000 - 6_000, 0)


async def test_a_charge_out_of_the_journal_is_of_the_day_on_which_it_is_booked(
    journal: Journal, store: Store
) -> None:
    """An invoice that was final stays as it was; the budget is that of the request's own day."""
    last_ms = 1_769_904_000_000 - 1_000  # of January
    await the_time_is(store, last_ms)
    price = await furnish(store, 10**9)
    await store.budget_set(a_budget(10**8, per="month"))
    clock = ManualClock(last_ms)
    book = Book(store, clock, "us", journal=journal)
    one = await book.hold(
        id="h1", payer=Payer("key_1", "acme"), model="m", price=price, terms=Terms(9_000, 1, 0)
    )
    end = an_end(one.row, Usage(output=3), ended_ms=clock.now_ms() + 500)
    await journal.write(end)
    next_ms = last_ms + 86_400_000
    clock.advance(86_400)
    await the_time_is(store, next_ms)
    sweep = Sweep(store, book, clock, lambda *_, **__: None)
    assert await sweep.replay() == 1
    row = await store.usage_row("h1")
    assert row is not None
    assert (row.ended_ms, row.charge_nanos) == (next_ms, 6_000)
    assert {entry.created_ms for entry in await store.entries(tx="h1")} == {next_ms}
    assert await store.entry_sums("acme", 0, last_ms + 1_000) == {"topup": 10**9}
    spent = {}
    for at_ms in (last_ms, next_ms):
        await the_time_is(store, at_ms)
        spent[at_ms] = [budget.spent_nanos for budget in await store.budgets("acme", at_ms)]
    assert spent == {last_ms: [6_000], next_ms: [0]}
    assert await store.audit() == []


async def test_a_file_whose_maker_died_at_once_gets_its_blocks(folder: Path) -> None:
    folder.mkdir()
    end = an_end(a_hold("h1", 9_000), Usage(output=3))
    first = reopened(folder)
    await first.write(end)
    first.close()
    (file,) = folder.iterdir()
    os.truncate(file, len(file.read_bytes().rstrip(b"\0")))
    again = reopened(folder)
    assert file.stat().st_size == SIZE_BYTES
    assert again.pending == {"h1": end}
    again.close()


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("a file")
    with pytest.raises(ConfigurationError, match="cannot be used"):
        Journal(tmp_path / "journal").open()
