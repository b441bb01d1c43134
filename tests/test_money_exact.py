"""Charges against big-integer sums that share no line with them: the difference is nothing."""

import asyncio
import os
import random
import time
from pathlib import Path

import pytest

from moongate.core.money import Price, Usage, charge
from moongate.ledger.book import weigh
from moongate.ledger.slices import Slices, Terms
from store_kit import ENGINES as EVERY
from store_kit import KIMI, a_budget, a_hold, an_end, balance, furnish, make_store, opened, total

TIMES = pytest.mark.parametrize("count", [10**6, pytest.param(10**7, marks=pytest.mark.full)])


def dice() -> random.Random:
    seed = int(os.environ.get("MOONGATE_TEST_SEED") or random.randrange(10**9))
    print(f"seed {seed}")
    return random.Random(seed)


@TIMES
def test_random_usages_at_random_prices(count: int) -> None:
    """Of each price the classes are summed over many usages, and multiplied once."""
    rng, began = dice(), time.monotonic()
    charged = forgiven = due = 0
    for _ in range(count // 1_000):
        top = 1 << rng.randrange(1, 22)
        mask = top - 1
        price = Price(*(rng.randrange(10**6) for _ in range(4)))
        held_mask = (1 << rng.randrange(10, 50)) - 1
        sums = [0, 0, 0, 0]
        bits = rng.getrandbits
        for _ in range(1_000):
            word = bits(128)
            classes = (word & mask, word >> 22 & mask, word >> 44 & mask, word >> 66 & 7)
            sums[0] += classes[0]
            sums[1] += classes[1]
            sums[2] += classes[2]
            sums[3] += classes[3]
            paid, given = weigh(Usage(*classes), price, word >> 70 & held_mask)
            charged += paid
            forgiven += given
        units = (price.input, price.cached, price.output, price.search)
        due += sum(n * unit for n, unit in zip(sums, units, strict=True))
    print(
        f"{count} usages in {time.monotonic() - began:.1f} s: charged {charged} + forgiven "
        f"{forgiven} - reference {due} = {charged + forgiven - due} nano-dollars"
    )
    assert charged + forgiven == due
    assert min(charged, forgiven) > 0


@TIMES
def test_one_token_a_million_times_costs_what_a_million_tokens_cost(count: int) -> None:
    for one, many in (
        (Usage(input=1), Usage(input=count)),
        (Usage(cache_read=1), Usage(cache_read=count)),
        (Usage(output=1), Usage(output=count)),
    ):
        assert sum(charge(one, KIMI) for _ in range(count)) == charge(many, KIMI)


def test_what_is_covered_is_what_is_paid_for() -> None:
    """However a hold grew: its cover costs at most the hold, and one token more would not fit."""
    rng = dice()
    for _ in range(20_000):
        price = Price(rng.randrange(2_000), rng.randrange(2_000), rng.randrange(1, 5_000))
        bound, cap = rng.randrange(10_000), rng.randrange(1, 300_000)
        terms = Terms.of(price, bound, cap)
        slices = Slices(rng.randrange(1, 5_000), rng.randrange(1, 9_000), rng.randrange(2_000))
        wanted, least = terms.first(slices)
        held = rng.randrange(least, wanted + 1)
        while True:
            cover = terms.cover(held)
            assert cover <= cap
            worst = bound * max(price.input, price.cached) + cover * price.output
            assert worst <= max(held, terms.prompt_nanos)
            assert cover == cap or worst + price.output > held
            more = terms.next(held, slices)
            assert 0 <= more <= cap - cover
            if not more or rng.random() < 0.3:
                break
            held += more * price.output


@pytest.mark.parametrize("engine", EVERY)
async def test_random_usages_through_the_ledger(engine: str, tmp_path: Path) -> None:
    rng, count, due = dice(), 3_000, 0
    start = 4 * 10**18 - 1
    async with opened(make_store(engine, tmp_path)) as store:
        await furnish(store, start)
        await store.budget_set(a_budget(10**18, "life"))
        ends = []
        for n in range(count):
            top = 10 ** rng.randrange(7)
            usage = Usage(*(rng.randrange(top) for _ in range(3)), rng.randrange(3))
            due += (
                usage.input * 480
                + usage.cache_read * 100
                + usage.output * 2_000
                + usage.searches * 5_000_000
            )
            ends.append(an_end(a_hold(f"h{n}", charge(usage, KIMI)), usage))
        for at in range(0, count, 500):
            some = ends[at : at + 500]
            rows = [a_hold(end.row.hold, end.row.charge_nanos) for end in some]
            await asyncio.gather(*map(store.hold, rows))
            assert all(await asyncio.gather(*map(store.settle, some)))
        posted, held = await balance(store)
        print(f"{engine}: {count} usages, ledger less reference {start - posted - due}")
        assert (start - posted - due, held) == (0, 0)
        assert await total(store, "revenue") == due
        assert await total(store, "budget") == -due
        assert sum(row.charge_nanos for row in await store.usage()) == due
        assert await store.audit() == []
