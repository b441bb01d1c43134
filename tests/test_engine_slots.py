"""Slots: never two organisations in one cache, the longest prefix first, nobody overtaken."""

import asyncio
from contextlib import suppress

import pytest

from moongate.core.errors import UpstreamDown, UpstreamOverloaded
from moongate.upstream import engine_slots
from moongate.upstream.engine_slots import BLOCK_TOKENS, LIFETIME_S, Slots


def prompt(*blocks):
    return [block for block in blocks for _ in range(BLOCK_TOKENS)]


LONG, OTHER = prompt(1, 2, 3, 4), prompt(7, 8, 9, 10)
"""Each long enough to be worth keeping."""


class Engine:
    """The erasing end: what was erased, in order; it may be broken or held up."""

    def __init__(self):
        self.erased, self.broken, self.go = [], False, None

    async def erase(self, slot):
        if self.go is not None:
            await self.go.wait()
        if self.broken:
            raise UpstreamDown("engine_gone")
        self.erased.append(slot)


def table(at_once=1, resting=0, **more):
    engine = Engine()
    return Slots(at_once, engine.erase, resting=resting, **more), engine.erased, engine


async def use(slots, tenant, tokens, held=None):
    async with slots.lease(tenant, slots.trail(tokens), len(tokens) + 100) as slot:
        slot.held = len(tokens) if held is None else held
        return slot.id


def test_a_trail_tells_prefixes_apart_and_means_nothing_elsewhere():
    slots, *_ = table()
    one, two = slots.trail(prompt(1, 2, 3)), slots.trail(prompt(1, 2, 4))
    assert one[:2] == two[:2]
    assert one[2] != two[2]
    assert slots.trail(prompt(2, 1))[1] != one[1]
    assert slots.trail([1] * (BLOCK_TOKENS - 1)) == ()
    assert table()[0].trail(prompt(1, 2, 3))[0] != one[0]


async def test_several_conversations_of_one_tenant_come_back_to_their_slots():
    slots, erased, _ = table(at_once=1, resting=2)
    first = await use(slots, "a", LONG)
    other = await use(slots, "a", OTHER)
    assert other != first
    assert await use(slots, "a", [*LONG, *prompt(5)]) == first
    assert await use(slots, "a", [*OTHER, *prompt(5)]) == other
    assert erased == []


async def test_the_slot_with_the_longest_common_prefix_is_taken():
    slots, *_ = table(at_once=1, resting=3)
    one = await use(slots, "a", [*LONG, *prompt(5)])
    two = await use(slots, "a", OTHER)
    assert await use(slots, "a", [*LONG, *prompt(6)]) == one
    assert await use(slots, "a", [*prompt(7, 8, 9), *prompt(6)]) == two


async def test_questions_under_one_system_prompt_share_a_slot_however_long_they_are():
    slots, *_ = table(at_once=1, resting=3)
    one = await use(slots, "a", [*LONG, *prompt(*[5] * 20)])
    assert await use(slots, "a", [*LONG, *prompt(*[6] * 20)]) == one
    assert await use(slots, "a", [*LONG, *prompt(*[7] * 20)]) == one


async def test_a_conversation_that_goes_on_is_kept_from_others_that_begin_the_same():
    slots, erased, _ = table(at_once=1, resting=2)
    talk = [*LONG, *prompt(5)]
    first = await use(slots, "a", talk)
    talk += prompt(5, 5, 5, 5)
    assert await use(slots, "a", talk) == first
    other = await use(slots, "a", [*LONG, *prompt(6)])
    assert other != first, "less than half of it would be of use"
    third = await use(slots, "a", [*LONG, *prompt(7)])
    assert third == other, "as much in common with both: this one has less to lose"
    talk += prompt(5)
    assert await use(slots, "a", talk) == first
    await use(slots, "b", OTHER)
    assert await use(slots, "a", [*LONG, *prompt(8)]) == other
    assert erased == []


async def test_too_little_in_common_for_a_hit_is_no_reason_to_overwrite():
    slots, *_ = table(at_once=1, resting=2)
    one = await use(slots, "a", prompt(1, 2, 3, 4))
    assert await use(slots, "a", prompt(1, 6, 6, 6)) != one


async def test_short_prompts_never_push_out_long_ones():
    slots, erased, _ = table(at_once=1, resting=1)
    kept = await use(slots, "a", LONG)
    for tenant in ("b", "b", "c", "a", "b"):
        assert await use(slots, tenant, prompt(6)) != kept
    assert await use(slots, "a", LONG) == kept
    assert kept not in erased


async def test_a_slot_that_changes_hands_is_erased_first():
    slots, erased, _ = table()
    await use(slots, "a", LONG)
    assert erased == []
    await use(slots, "b", LONG)
    assert erased == [0]
    await use(slots, "b", OTHER)
    assert erased == [0]
    slots.forget()
    await use(slots, "c", LONG)
    assert erased == [0]


async def test_until_it_was_erased_a_slot_stays_its_old_owners():
    slots, erased, engine = table()
    await use(slots, "a", LONG)
    engine.broken = True
    with pytest.raises(UpstreamDown):
        await use(slots, "b", LONG)
    engine.broken = False
    await use(slots, "a", LONG)
    assert erased == [], "it was still theirs"
    await use(slots, "b", LONG)
    assert erased == [0]


async def test_what_ran_across_a_restart_of_the_engine_is_nobody_elses():
    slots, erased, _ = table()
    async with slots.lease("a", slots.trail(LONG), 300):
        slots.forget()  # the request goes to the new engine, whose slot it fills
    await use(slots, "b", LONG)
    assert erased == [0]


async def test_another_organisation_takes_an_empty_slot_before_anyone_elses():
    slots, erased, _ = table(at_once=1, resting=1)
    one = await use(slots, "a", LONG)
    assert await use(slots, "b", LONG) != one
    assert erased == []
    assert await use(slots, "c", LONG) == one
    assert erased == [one]


async def test_what_rested_longest_goes_first_when_more_rests_than_may_be_kept():
    slots, erased, _ = table(at_once=1, resting=5, kept=600)
    ids = [await use(slots, "a", prompt(*[at] * 4), held=300) for at in range(2)]
    assert slots.resting == 600
    third = await use(slots, "b", OTHER, held=300)  # 600 rest meanwhile: they may
    assert erased == []
    assert await use(slots, "a", prompt(*[0] * 4), held=300) == ids[0]  # used again: younger
    await use(slots, "c", LONG, held=300)  # 900 rested
    assert erased == [ids[1]]
    await use(slots, "c", prompt(*[11] * 4), held=300)
    assert erased == [ids[1], third]
    assert await use(slots, "a", prompt(*[0] * 4)) == ids[0]


async def test_nothing_is_kept_where_nothing_may_be():
    slots, erased, _ = table(at_once=1, resting=2, kept=0)
    await use(slots, "a", LONG)
    await use(slots, "a", OTHER)
    assert len(erased) == 1


async def test_what_is_at_work_has_room_before_what_rests():
    slots, erased, _ = table(at_once=2, resting=2, pool=1000)
    rests = await use(slots, "a", LONG, held=400)
    async with slots.lease("b", slots.trail(OTHER), 500):
        assert erased == []
        async with slots.lease("b", slots.trail(prompt(5)), 300) as slot:
            assert erased == [rests]
            slot.held = 80
        assert slots.resting == 80


async def test_what_ended_early_counts_as_all_that_it_may_hold():
    slots, *_ = table()
    with suppress(RuntimeError):
        async with slots.lease("a", slots.trail(LONG), 900):
            raise RuntimeError
    assert slots.resting == 900


async def test_what_rested_too_long_is_erased():
    now = [0.0]
    slots, erased, _ = table(at_once=1, resting=2, clock=lambda: now[0])
    old = await use(slots, "a", LONG)
    now[0] += 10
    await use(slots, "a", OTHER)
    now[0] = LIFETIME_S - 1
    await slots.expire()
    assert erased == []
    now[0] = LIFETIME_S
    await slots.expire()
    assert erased == [old]
    now[0] += 10
    async with slots.lease("a", slots.trail(OTHER), 300):
        await slots.expire()
        assert erased == [old], "what is at work is not touched"
    assert slots.resting == 300


async def test_a_slot_being_erased_is_nobodys():
    slots, erased, engine = table(at_once=2, resting=0, kept=0)
    await use(slots, "a", LONG)
    engine.go = asyncio.Event()
    clearing = asyncio.create_task(use(slots, "b", OTHER))
    await asyncio.sleep(0)
    waiting = asyncio.create_task(use(slots, "a", LONG))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    engine.go.set()
    await asyncio.wait_for(asyncio.gather(clearing, waiting), 5)
    assert erased[0] == 0


async def test_no_more_answers_at_once_than_asked_for_however_many_slots_rest():
    slots, *_ = table(at_once=2, resting=6)
    async with slots.lease("a", (), 10), slots.lease("a", (), 10):
        third = asyncio.create_task(use(slots, "a", []))
        await asyncio.sleep(0.01)
        assert (slots.busy, third.done()) == (2, False)
    await asyncio.wait_for(third, 5)


async def test_who_waits_is_served_in_turn_and_leaving_frees_the_place():
    slots, *_ = table()
    order = []

    async def work(name):
        async with slots.lease("a", (), 10):
            order.append(name)
            await asyncio.sleep(0)

    async with slots.lease("a", (), 10):
        tasks = []
        for name in "bcd":
            tasks.append(asyncio.create_task(work(name)))
            await asyncio.sleep(0)
        tasks[1].cancel()
        await asyncio.sleep(0)
    late = asyncio.create_task(work("e"))
    await asyncio.gather(*tasks, late, return_exceptions=True)
    assert order == ["b", "d", "e"]
    assert slots.busy == 0


@pytest.mark.parametrize("bounds", [{}, {"kept": 500, "pool": 700}])
async def test_many_come_and_go_and_no_slot_is_lost(bounds):
    slots, _, engine = table(at_once=2, resting=3, **bounds)

    async def erase(slot):
        await asyncio.sleep(0.0005)
        engine.erased.append(slot)

    slots._erase = erase

    async def work(index):
        async with slots.lease(f"t{index % 3}", slots.trail(prompt(index % 5)), 200):
            await asyncio.sleep(0.001 * (index % 3))

    tasks = [asyncio.create_task(work(index)) for index in range(60)]
    await asyncio.sleep(0.005)
    for task in tasks[::4]:
        task.cancel()
    await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
    assert slots.busy == 0
    assert not [slot for slot in slots._slots if slot.busy]
    await asyncio.wait_for(use(slots, "x", LONG), 5)


async def test_too_many_waiting_is_overloaded_and_closing_sends_them_away():
    slots, *_ = table(waiting_max=1)
    async with slots.lease("a", (), 10):
        waiting = asyncio.create_task(use(slots, "a", []))
        await asyncio.sleep(0)
        with pytest.raises(UpstreamOverloaded):
            await use(slots, "a", [])
        slots.close()
        with pytest.raises(UpstreamDown):
            await waiting


async def test_who_is_called_and_out_of_patience_at_once_passes_the_slot_on(monkeypatch):
    slots, *_ = table(at_once=1)
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    async def hold():
        async with slots.lease("a", slots.trail(LONG), 10):
            await done.wait()

    holder = asyncio.create_task(hold())
    await asyncio.sleep(0)
    monkeypatch.setattr(engine_slots, "WAIT_S", 0.05)
    late = asyncio.create_task(use(slots, "a", LONG))
    await asyncio.sleep(0)
    monkeypatch.setattr(engine_slots, "WAIT_S", 5)
    patient = asyncio.create_task(use(slots, "a", LONG))
    await asyncio.sleep(0)
    until_s = loop.time() + 0.06
    while loop.time() < until_s:
        pass  # its time is over, and its timer comes round in the next turn of the loop
    done.set()  # in which the slot comes free as well, just before
    await holder
    with pytest.raises(UpstreamOverloaded, match="queue_wait"):
        await late
    await asyncio.wait_for(patient, 1)
