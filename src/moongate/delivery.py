"""Events to the client: streamed as they come, or folded into one body at the end.

Both forms take the same events and end the same way, so an answer costs and says the same in
either. Finishes are kept back until the bill is known: whoever sees the end finds the charge in
the ledger. This module refuses to know upstreams and money.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import msgspec

from moongate.core.errors import ClientLeft, Refused, UpstreamError, UpstreamOverloaded
from moongate.core.events import (
    Aside,
    Event,
    Failed,
    Finished,
    Fold,
    Searched,
    Started,
    Thinking,
    Used,
)
from moongate.core.money import Bill
from moongate.core.ports import Clock, Codec, Head, Reply

OVERLOADED_WAIT_S: Final = 2.0
SILENCE_S: Final = 10.0
"""After so much silence a stream gets a comment frame, so that no proxy cuts it."""
_PULSE_S: Final = 2.5


class Delivery(Protocol):
    """What the gateway needs of either form."""

    def served_by(self, fingerprint: str) -> None:
        """Name who answers; it may change until something was sent."""

    @property
    def told(self) -> bool:
        """Whether the client has seen some of the answer."""

    @property
    def begun(self) -> bool:
        """Whether the answer's head is out, and with it what its headers say."""

    def restart(self) -> None:
        """Forget what was written, of which the client has seen nothing."""

    async def write(self, events: Sequence[Event]) -> None: ...

    def draft(self, bill: Bill) -> None:
        """Make the end as ``bill`` will have it. What is wrong with it shows before the charge."""

    async def end(self, bill: Bill) -> None: ...
    async def fail(self, before: Refused, within: Refused) -> None: ...


class Whole:
    """The unstreamed answer: a fold, sent in one piece."""

    told = begun = False

    def __init__(
        self, codec: Codec, head: Head, reply: Reply, headers: Mapping[str, str], clock: Clock
    ) -> None:
        del clock  # only a stream can be silent
        self._codec, self._head, self._reply, self._headers = codec, head, reply, headers
        self._fold = Fold()
        self._draft: tuple[Bill, bytes] | None = None

    def served_by(self, fingerprint: str) -> None:
        self._head = msgspec.structs.replace(self._head, fingerprint=fingerprint)

    def restart(self) -> None:
        self._fold = Fold()

    async def write(self, events: Sequence[Event]) -> None:
        for event in events:
            self._fold.add(event)

    def draft(self, bill: Bill) -> None:
        self._draft = bill, self._codec.write_answer(self._fold.answer(), self._head, bill)

    async def end(self, bill: Bill) -> None:
        if self._draft is None or self._draft[0] != bill:
            self.draft(bill)
        assert self._draft is not None
        await self._reply.send(200, self._headers, self._draft[1])

    async def fail(self, before: Refused, within: Refused) -> None:  # noqa: ARG002 - streams differ
        await refuse(self._reply, self._codec, before, self._headers)


class Streamed:
    """The streamed answer. The head goes out with the first content or the first heartbeat."""

    def __init__(
        self, codec: Codec, head: Head, reply: Reply, headers: Mapping[str, str], clock: Clock
    ) -> None:
        self._codec, self._reply, self._headers, self._clock = codec, reply, headers, clock
        self._head = head
        self._writer = codec.writer(head)
        self._finishes: list[Finished] = []
        self._draft: tuple[Bill, bytes] | None = None
        self._turn = asyncio.Lock()
        self.begun = False
        self.told = False
        self._over = False
        self._spoke_s = clock.monotonic_s()

    def served_by(self, fingerprint: str) -> None:
        if fingerprint != self._head.fingerprint and not self.begun:
            self._head = msgspec.structs.replace(self._head, fingerprint=fingerprint)
            self._writer = self._codec.writer(self._head)

    def restart(self) -> None:
        self._finishes.clear()

    async def write(self, events: Sequence[Event]) -> None:
        content = [e for e in events if type(e) not in _KEPT_BACK]
        if len(content) != len(events):
            self._finishes += [e for e in events if isinstance(e, Finished)]
        if content:
            # An empty piece (some write one to say that there is no reasoning) tells nothing.
            self.told = self.told or any(type(e) is not Thinking or e.text for e in content)
            await self._put(self._writer.write(content))

    def draft(self, bill: Bill) -> None:
        self._draft = bill, self._writer.end(self._finishes, bill)

    async def end(self, bill: Bill) -> None:
        if self._draft is None or self._draft[0] != bill:
            self.draft(bill)
        assert self._draft is not None
        await self._put(self._draft[1], last=True)

    async def fail(self, before: Refused, within: Refused) -> None:
        """Say what went wrong: with a status while nothing was sent, else as an error event."""
        if self.begun:
            await self._put(self._writer.fail(within), last=True)
        else:
            self._over = True
            await refuse(self._reply, self._codec, before, self._headers)

    async def beat(self) -> None:
        """Write a comment frame when the stream was silent for too long."""
        silent_s = self._clock.monotonic_s() - self._spoke_s
        if silent_s >= SILENCE_S and not self._over and not self._turn.locked():
            await self._put(self._writer.heartbeat())

    async def _put(self, data: bytes, *, last: bool = False) -> None:
        async with self._turn:
            if self._over:
                return
            self._over = last
            self._spoke_s = self._clock.monotonic_s()
            if not self.begun:
                self.begun = True
                await self._reply.begin(self._headers)
            await self._reply.write(data)


_KEPT_BACK: Final = frozenset({Started, Used, Finished, Failed, Aside, Searched})


class Pulse:
    """One task that keeps every silent stream open."""

    def __init__(self) -> None:
        self._streams: set[Streamed] = set()

    def add(self, stream: Streamed) -> None:
        self._streams.add(stream)

    def discard(self, stream: Delivery) -> None:
        if isinstance(stream, Streamed):
            self._streams.discard(stream)

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            await asyncio.sleep(_PULSE_S)
            for stream in tuple(self._streams):
                try:
                    async with asyncio.timeout(_PULSE_S):
                        await stream.beat()
                except (ClientLeft, TimeoutError):
                    # The client has left or reads slowly: its own task will notice.
                    self._streams.discard(stream)
                except BaseException:
                    self._streams.discard(stream)  # the others must not wait for it again
                    raise


async def refuse(reply: Reply, codec: Codec, error: Refused, headers: Mapping[str, str]) -> None:
    """Send ``error`` as a whole answer with its status and headers."""
    body = codec.write_error(error)
    await reply.send(error.status, {**headers, **error.headers()}, body, close=error.row.close)


def unavailable(error: UpstreamError) -> Refused:
    """What the client is told of an upstream's fault before anything was sent."""
    if error.kind == "account":  # our wallet or key there: never the customer's 402
        return Refused("overloaded", retry_after_s=OVERLOADED_WAIT_S)
    if isinstance(error, UpstreamOverloaded):
        return Refused(error.code, retry_after_s=error.retry_after_s or OVERLOADED_WAIT_S)
    return Refused(error.code)
