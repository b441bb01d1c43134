"""Slots: never two organisations in one cache, the longest prefix first, nobody overtaken."""

import asyncio

import pytest

from moongate.core.errors import UpstreamDown, UpstreamOverloaded
from moongate.upstream.engine_slots import BLOCK_TOKENS, Slots


def prompt(*blocks):
    return [block for block in blocks for _ in range(BLOCK_TOKENS)]


async def use(slots, tenant, tokens):
    trail = slots.trail(tokens)
    async with slots.lease(tenant, trail) as (slot, foreign):
        slots.own(slot, tenant, trail)
        return slot.id, foreign


def test_a_trail_tells_prefixes_apart_and_means_nothing_elsewhere():
    slots = Slots(1)
    one, two = slots.trail(prompt(1, 2, 3)), slots.trail(prompt(1, 2, 4))
    assert one[:2] == two[:2]
    assert one[2] != two[2]
    assert slots.trail(prompt(2, 1))[1] != one[1]
    assert slots.trail([1] * (BLOCK_TOKENS - 1)) == ()
    assert Slots(1).trail(prompt(1, 2, 3))[0] != one[0]


async def test_the_same_conversation_comes_back_to_its_slot():
    slots = Slots(3)
    first, _ = await use(slots, "a", prompt(1, 2))
    other, _ = await use(slots, "a", prompt(7, 8))
    assert other != first
    assert await use(slots, "a", prompt(1, 2, 3)) == (first, False)
    assert await use(slots, "a", prompt(7, 8, 9)) == (other, False)


async def test_a_slot_that_changes_hands_is_to_be_erased():
    slots = Slots(1)
    assert await use(slots, "a", prompt(1)) == (0, False)
    assert await use(slots, "b", prompt(1)) == (0, True)
    assert await use(slots, "b", prompt(1)) == (0, False)
    slots.forget()
    assert await use(slots, "c", prompt(1)) == (0, False)


async def test_until_it_was_erased_a_slot_stays_its_old_owners():
    slots = Slots(1)
    await use(slots, "a", prompt(1))
    async with slots.lease("b", ()) as (_, foreign):
        assert foreign
    assert await use(slots, "c", prompt(1)) == (0, True)


async def test_another_organisation_takes_an_empty_slot_before_anyone_elses():
    slots = Slots(2)
    one, _ = await use(slots, "a", prompt(1))
    two, foreign = await use(slots, "b", prompt(1))
    assert (one != two, foreign) == (True, False)
    assert await use(slots, "c", prompt(1)) == (one, True)


async def test_who_waits_is_served_in_turn_and_leaving_frees_the_place():
    slots = Slots(1)
    order = []

    async def work(name):
        async with slots.lease("a", ()):
            order.append(name)
            await asyncio.sleep(0)

    async with slots.lease("a", ()):
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


async def test_many_come_and_go_and_no_slot_is_lost():
    slots = Slots(2)

    async def work(index):
        async with slots.lease(f"t{index % 3}", ()):
            await asyncio.sleep(0.001 * (index % 3))

    tasks = [asyncio.create_task(work(index)) for index in range(60)]
    await asyncio.sleep(0.005)
    for task in tasks[::4]:
        task.cancel()
    await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
    assert slots.busy == 0
    assert await use(slots, "x", ()) == (0, False)


async def test_too_many_waiting_is_overloaded_and_closing_sends_them_away():
    slots = Slots(1, waiting_max=1)
    async with slots.lease("a", ()):
        waiting = asyncio.create_task(use(slots, "a", []))
        await asyncio.sleep(0)
        with pytest.raises(UpstreamOverloaded):
            await use(slots, "a", [])
        slots.close()
        with pytest.raises(UpstreamDown):
            await waiting
