"""The counter of one process, where it differs from the shared ones: its memory."""

from moongate.access.counter import LocalCounter
from moongate.core.ports import ManualClock
from moongate.core.rates import Ask, Rate, Room
from rates_kit import take


async def test_memory_is_given_back_when_nothing_is_owed_any_more() -> None:
    clock = ManualClock()
    counter = LocalCounter(clock)
    for n in range(1000):
        counter.count(take(str(n), Rate(f"k{n}", 10, 1), rooms=(Room(f"k{n}:answers", 1),)))
        counter.count(Ask("acc", "drop", (str(n),), rooms=(Room(f"k{n}:answers", 1),)))
    clock.advance(120)
    counter.count(take("last", Rate("last", 10, 1), rooms=(Room("last:answers", 1),)))
    assert len(counter._owed) == 1
    assert len(counter._rooms) == 1
