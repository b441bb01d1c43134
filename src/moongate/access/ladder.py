"""The ladder: the shared counter while it answers, this process's share of the limits while not.

A shared counter that is gone, or slower than 20 ms, is left alone and looked at each second until
it answers again. Meanwhile every limit is divided by the number of replicas, as heartbeats in the
store tell it: never open without a bound, never closed for want of a counter. While the shared
counter answers, what it says is noted in the local one, so that a step down begins from there and
not from a fresh burst. It knows neither what counts nor for whom.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, Literal

from moongate.access.counter import LocalCounter
from moongate.core.ports import Clock, Store
from moongate.core.rates import Answer, Ask, Counter, CounterGone, Rate, Room

PATIENCE_S: Final = 0.020
"""How long a step may take; time in which this process was busy itself does not count."""
PROBE_S: Final = 1.0
BEAT_S: Final = 5.0
_TICKS: Final = 4
_LEFT_MAX: Final = 10_000
_PROBE: Final = Ask("moongate", "keep", ("probe",), (), (Room("probe", 1),))
"""A look that writes: a counter that is full or read-only is as good as gone."""


class Replicas:
    """How many processes share the work, as they tell each other through the store.

    ``least``: as many are started with this one, whether they have told yet or not.
    """

    def __init__(self, store: Store, owner: str, clock: Clock, least: int = 1) -> None:
        self._store, self._owner, self._clock = store, owner, clock
        self.count = self._least = least

    async def beat(self) -> None:
        """Tell that this process lives and learn how many do; the last figure stays where not."""
        try:
            alive = await self._store.heartbeat(self._owner, self._clock.now_ms())
        except Exception:  # noqa: BLE001 - the sweep, which beats too, tells of it; this goes on
            return
        self.count = max(self._least, alive)

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            await asyncio.sleep(BEAT_S)
            await self.beat()


class Ladder:
    """A :class:`moongate.core.rates.Counter` that always answers.

    ``told`` gets each change: why it stepped down (a word for logs), or ``None`` when it is back.
    """

    def __init__(
        self,
        shared: Counter,
        local: LocalCounter,
        replicas: Replicas,
        told: Callable[[str | None], None],
        *,
        patience_s: float = PATIENCE_S,
        probe_s: float = PROBE_S,
    ) -> None:
        self._shared, self._local, self._replicas, self._told = shared, local, replicas, told
        self._tick_s, self._probe_s = patience_s / _TICKS, probe_s
        self.degraded = False
        self._answered = 0
        self._pending: set[asyncio.Task[Answer]] = set()
        self._chores: dict[str, asyncio.Task[None]] = {}
        self._known: set[str] = set()  # ids that the shared counter took something for
        self._left: deque[tuple[str, tuple[Room, ...], str]] = deque(maxlen=_LEFT_MAX)

    async def start(self) -> None:
        """Learn how many replicas there are, and try the shared counter without haste."""
        await self._replicas.beat()
        self._chores["beat"] = asyncio.create_task(self._replicas.run())
        try:
            await self._shared.start()
            await self._shared.ask(_PROBE)
        except CounterGone as error:
            self._step_down(error.kind)

    async def close(self) -> None:
        tasks = (*self._chores.values(), *self._pending)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._shared.close()

    async def ask(self, ask: Ask) -> Answer:
        if not self.degraded:
            try:
                answer = await self._in_time(self._without_strangers(ask))
            except CounterGone as error:
                self._step_down(error.kind)
                if ask.kind == "take":  # it may have been carried out
                    self._leaves(ask)
            else:
                self._note(ask, answer)
                return answer
        if ask.kind == "drop":
            self._leaves(ask)
            self._known.difference_update(ask.ids)
        return self._local.count(self._share(ask))

    def _without_strangers(self, ask: Ask) -> Ask:
        """``ask`` without the amounts of ids that were taken for while the shared was gone."""
        if ask.kind == "take" or self._known.issuperset(ask.ids):
            return ask
        return Ask(ask.account, ask.kind, ask.ids, (), ask.rooms)

    def _share(self, ask: Ask) -> Ask:
        """``ask`` under this process's share of the limits, which is at least 1 of each."""
        count = self._replicas.count
        rates = tuple(Rate(r.name, max(1, r.limit // count), r.amount) for r in ask.rates)
        rooms = tuple(Room(r.name, max(1, r.limit // count)) for r in ask.rooms)
        return Ask(ask.account, ask.kind, ask.ids, rates, rooms)

    def _note(self, ask: Ask, answer: Answer) -> None:
        """Keep the local counter at this process's share of where the shared one stands."""
        if answer.refused < 0:
            if ask.kind == "take":
                self._known.update(ask.ids)
            elif ask.kind == "drop":
                self._known.difference_update(ask.ids)
            kind: Literal["keep", "drop"] = "drop" if ask.kind == "drop" else "keep"
            self._local.count(Ask(ask.account, kind, ask.ids, (), ask.rooms))
        for rate, owed in zip(ask.rates, answer.owed, strict=False):
            self._local.seed(ask.account, rate.name, owed // self._replicas.count)

    def _leaves(self, ask: Ask) -> None:
        """Remember places that the shared counter may still think taken."""
        self._left.extend((ask.account, ask.rooms, id) for id in ask.ids)

    async def _in_time(self, ask: Ask) -> Answer:
        """The shared counter's answer. Raises CounterGone, ``slow`` when :meth:`_watch` cut it."""
        task = asyncio.ensure_future(self._shared.ask(ask))
        self._pending.add(task)
        task.add_done_callback(self._is_answered)
        if "watch" not in self._chores or self._chores["watch"].done():
            self._chores["watch"] = asyncio.create_task(self._watch())
        await asyncio.wait((task,))
        if task.cancelled():
            raise CounterGone("slow")
        return task.result()

    def _is_answered(self, task: asyncio.Task[Answer]) -> None:
        self._pending.discard(task)
        self._answered += 1
        if not task.cancelled():
            task.exception()  # whoever asked may have left; then nobody else looks

    async def _watch(self) -> None:
        """Cut every step off when none was answered for as long as patience lasts.

        It lasts in ticks, of which a loop that was busy elsewhere uses up one at most: answers
        may lie there unread. A long queue that moves is not slow.
        """
        quiet = 0
        while self._pending:
            answered = self._answered
            await asyncio.sleep(self._tick_s)
            quiet = 0 if self._answered != answered else quiet + 1
            if quiet >= _TICKS:
                for task in tuple(self._pending):
                    task.cancel()

    def _step_down(self, why: str) -> None:
        if not self.degraded:
            self.degraded = True
            self._told(why)
            self._chores["climb"] = asyncio.create_task(self._climb())

    async def _climb(self) -> None:
        """Look each second whether the shared counter answers; then tell it who left and runs."""
        while self.degraded:
            await asyncio.sleep(self._probe_s)
            try:
                await self._in_time(_PROBE)
                for ask in (*self._take_left(), *self._local.places()):
                    await self._in_time(ask)
            except CounterGone:
                continue
            except Exception as error:  # noqa: BLE001 - else it would never climb again
                self._told(type(error).__name__)
                continue
            self.degraded = False
        self._told(None)
        for ask in self._take_left():  # left in the meantime
            await self.ask(ask)

    def _take_left(self) -> list[Ask]:
        """What :meth:`_leaves` remembered, as one step for each set of places."""
        ids: dict[tuple[str, tuple[Room, ...]], list[str]] = {}
        for account, rooms, id in self._left:
            ids.setdefault((account, rooms), []).append(id)
        self._left.clear()
        return [
            Ask(account, "drop", tuple(left), (), rooms) for (account, rooms), left in ids.items()
        ]
