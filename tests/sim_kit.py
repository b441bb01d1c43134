"""An event loop in virtual time, and what a simulated world is made of beside the gateway.

The loop never waits: where nothing can run, its clock jumps to the next timer. What can run is
shuffled by the seed, and threads' work is done on the spot, so that a seed is a whole history and
plays again as it was. Upstreams and clients are objects; there is no socket.
"""

import asyncio
import random
import selectors
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from moongate.core.cards import Facts
from moongate.core.errors import (
    ClientLeft,
    LedgerUnavailable,
    UpstreamDown,
    UpstreamOverloaded,
    UpstreamProtocolError,
    UpstreamRefused,
    UpstreamTimeout,
)
from moongate.core.events import Event, Failed, Finished, Started, Text, Thinking, Used
from moongate.core.money import Counts
from moongate.core.ports import Ask, Probe
from moongate.core.request import Request

START_MS = 1_769_472_000_000
PROMPT = 40


class JumpingSelector(selectors._BaseSelectorImpl):  # type: ignore[misc]  # the library's own start
    """Waits for nothing: the time that it should have waited has passed."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise AssertionError("nothing will ever happen again")
        self.now_s += max(timeout, 0.0)
        return []


class SimLoop(asyncio.SelectorEventLoop):
    """An event loop of one seed. ``troubles`` are what its handler of exceptions was told."""

    _ready: deque[Any]

    def __init__(self, seed: int) -> None:
        self._jumping = JumpingSelector()
        super().__init__(self._jumping)
        self.dice = random.Random(seed)
        self.troubles: list[str] = []
        self.set_exception_handler(lambda _, about: self.troubles.append(repr(about)))

    def time(self) -> float:
        return self._jumping.now_s

    def _run_once(self) -> None:
        ready = list(self._ready)
        self.dice.shuffle(ready)
        self._ready.clear()
        self._ready.extend(ready)
        super()._run_once()  # type: ignore[misc]  # asyncio's own step

    def run_in_executor(  # type: ignore[override]  # done on the spot
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - as an executor hands it on
            future.set_exception(error)
        return future


class SimClock:
    """The loop's time, as a clock."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop

    def now_ms(self) -> int:
        return START_MS + int(self._loop.time() * 1000)

    def monotonic_s(self) -> float:
        return self._loop.time()


class Mortal:
    """Something that a process uses, until the process is dead: then nobody hears of anything.

    What was under way at the death may still have been done. :meth:`bury` lets the dead process's
    tasks end.
    """

    def __init__(self, real: Any) -> None:
        self._real = real
        self._waiting: list[asyncio.Future[None]] = []
        self.dead = self.buried = False

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._real, name)
        if not asyncio.iscoroutinefunction(real):
            return real

        async def call(*args: Any, **more: Any) -> Any:
            await self._unless_dead()
            answer = await real(*args, **more)
            await self._unless_dead()
            return answer

        return call

    async def _unless_dead(self) -> None:
        if self.buried:
            raise LedgerUnavailable("buried")
        if self.dead:
            self._waiting.append(asyncio.get_running_loop().create_future())
            await self._waiting[-1]

    def bury(self) -> None:
        self.buried = True
        for future in self._waiting:
            if not future.done():
                future.set_exception(LedgerUnavailable("buried"))


class FakeUpstream:
    """Answers as its seed says. ``sent`` counts the tokens of each request that went out."""

    kind = "moonshot"

    def __init__(self, name: str, seed: int) -> None:
        self.name, self._seed = name, seed
        self.asked: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()

    def facts(self) -> Facts:
        return Facts(fingerprint=f"fp_{self.name}")

    async def count(self, request: Request) -> int | None:
        return None

    async def probe(self) -> Probe:
        return Probe(ok=True, models=None, detail="")

    def dropped(self, request: Request) -> tuple[str, ...]:
        return ()

    async def start(self) -> None: ...
    async def close(self) -> None: ...

    async def stream(self, ask: Ask) -> AsyncGenerator[list[Event], None]:
        self.asked[ask.id] += 1
        dice = random.Random(f"{self._seed}/{self.name}/{ask.id}/{self.asked[ask.id]}")
        await asyncio.sleep(dice.random() * 0.5)
        await _perhaps_refuse(dice)
        yield [Started()]
        tokens = min(ask.output_tokens_max, dice.choice((1, 5, 40, 40, 300)))
        counts = dice.choice(("every", "last", "none"))
        breaks = dice.randrange(tokens) if dice.random() < 0.08 else None
        for n in range(tokens):
            if dice.random() < 0.3:
                await asyncio.sleep(dice.choice((0.001, 0.05, 0.3)))
            if dice.random() < 0.002:
                await asyncio.sleep(25.0)
            if n == breaks:
                if dice.random() < 0.3:
                    yield [Failed("server_error")]
                    return
                raise dice.choice((UpstreamProtocolError("cut"), UpstreamTimeout("idle")))
            self.sent[ask.id] += 1
            piece: list[Event] = [Thinking("t") if n < tokens // 3 else Text("w")]
            if counts == "every":
                piece.append(Used(Counts(PROMPT, n + 1), final=False))
            yield piece
        yield [Finished("stop")]
        if counts != "none":
            await asyncio.sleep(dice.random() * 3)
            yield [Used(Counts(PROMPT, tokens, dice.randrange(PROMPT)))]


async def _perhaps_refuse(dice: random.Random) -> None:
    luck = dice.random()
    if luck < 0.03:
        raise UpstreamDown("connect")
    if luck < 0.06:
        raise UpstreamOverloaded("full", retry_after_s=1.0)
    if luck < 0.08:
        raise UpstreamRefused("content_filter")
    if luck < 0.09:
        await asyncio.sleep(5.0)
        raise UpstreamTimeout("first_token")


@dataclass
class SimReply:
    """What one client hears. ``over``: it heard all of it. ``pause_s``: how slowly it reads."""

    pause_s: float = 0.0
    gone: bool = False
    status: int = 0
    over: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    data: bytes = b""

    async def begin(self, headers: Mapping[str, str]) -> None:
        self._hear()
        self.status, self.headers = 200, headers

    async def write(self, data: bytes) -> None:
        self._hear()
        if self.pause_s:
            await asyncio.sleep(self.pause_s)
            self._hear()
        self.data += data
        self.over = b"data: [DONE]" in data or b'"error":' in data

    async def send(
        self, status: int, headers: Mapping[str, str], body: bytes, *, close: bool = False
    ) -> None:
        # As over HTTP: a whole answer is handed over, whoever is there.
        self.status, self.headers, self.data = status, headers, body
        self.over = not self.gone

    def _hear(self) -> None:
        if self.gone:
            raise ClientLeft

    @property
    def cost(self) -> int | None:
        """The cost that the whole answer tells; ``None``: no whole answer was heard."""
        if not self.over or b'"cost_nanos":' not in self.data:
            return None
        return int(self.data.rsplit(b'"cost_nanos":', 1)[1].split(b"}")[0].split(b",")[0])
