"""The seams: what a codec, an upstream, a store and a clock promise to the rest.

Each seam ships its fake as a public module: the scripted upstream (``upstream.scripted``), the
memory store (``store.memory``) and the manual clock (below).
"""

import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from moongate.core.cards import Facts, Family
from moongate.core.errors import Refused
from moongate.core.events import Answer, Event, Finished
from moongate.core.money import Bill, Counts
from moongate.core.request import Request
from moongate.core.sealed import Sealed
from moongate.core.spelling import Spelling
from moongate.core.store import Settlement, Store

__all__ = [
    "NO_COUNTS",
    "NO_FILES",
    "Ask",
    "Clock",
    "Codec",
    "Files",
    "Head",
    "ManualClock",
    "Probe",
    "Reader",
    "Reply",
    "Settlement",
    "Store",
    "SystemClock",
    "Uploaded",
    "Upstream",
    "WebSearch",
    "Writer",
]


class Clock(Protocol):
    """Wall time for records, monotonic time for durations."""

    def now_ms(self) -> int:
        """Milliseconds since the epoch."""

    def monotonic_s(self) -> float:
        """Seconds from an arbitrary start; never goes back."""


class SystemClock:
    """The machine's clock."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        return time.monotonic()


class ManualClock:
    """A clock that moves when told: the fake of :class:`Clock`."""

    def __init__(self, now_ms: int = 1_769_472_000_000) -> None:
        self._start_ms = now_ms
        self._passed_s = 0.0

    def now_ms(self) -> int:
        return self._start_ms + int(self._passed_s * 1000)

    def monotonic_s(self) -> float:
        return self._passed_s

    def advance(self, seconds: float) -> None:
        """Move both times forward by ``seconds``."""
        self._passed_s += seconds


class Head(Sealed, frozen=True):
    """What every chunk of an answer repeats: its id, time (seconds), model and fingerprint."""

    id: str
    created_s: int
    model: str
    fingerprint: str
    include_usage: bool = False


class Reader(Protocol):
    """Bytes of a stream in, events out, in any chunking; enforces the legal order.

    ``open`` is called once when the other side accepted (2xx head). ``feed`` and ``close``
    raise UpstreamProtocolError for what the dialect does not allow; ``close`` raises it too when
    the stream ended without its end mark.
    """

    def open(self) -> list[Event]: ...
    def feed(self, data: bytes) -> list[Event]: ...
    def close(self) -> list[Event]: ...


class Writer(Protocol):
    """Events in, bytes of a client's stream out.

    ``write`` takes content events only (Thinking, Text, ToolCall, ToolArgs, Citation); the first
    call also writes what a stream opens with. ``end`` writes the finishes with their usage.
    ``fail`` writes an error event; no end mark follows it.
    """

    def write(self, events: Sequence[Event]) -> bytes: ...
    def end(self, finishes: Sequence[Finished], bill: Bill) -> bytes: ...
    def fail(self, error: Refused) -> bytes: ...
    def heartbeat(self) -> bytes: ...


class Codec(Protocol):
    """One dialect, facing either way. Pure; knows not which side of the gateway it is on."""

    name: str

    def read_request(self, body: bytes) -> Request:
        """Decode a client's body. Raises Refused naming the field path."""

    def write_request(self, request: Request) -> dict[str, Any]:
        """The request as a JSON-able body, unknown fields included."""

    def reader(self) -> Reader:
        """A reader of one streamed answer."""

    def writer(self, head: Head) -> Writer:
        """A writer of one streamed answer."""

    def write_answer(self, answer: Answer, head: Head, bill: Bill) -> bytes:
        """The unstreamed answer's body."""

    def write_error(self, error: Refused) -> bytes:
        """The error body in this dialect's shape."""


class Reply(Protocol):
    """The way back to a client: either ``begin`` and ``write`` …, or one ``send``.

    Raises ClientLeft when nobody is there any more.
    """

    async def begin(self, headers: Mapping[str, str]) -> None:
        """Send the head of an event stream (status 200)."""

    async def write(self, data: bytes) -> None:
        """Send a piece; waits while the client reads slowly."""

    async def send(
        self, status: int, headers: Mapping[str, str], body: bytes, *, close: bool = False
    ) -> None:
        """Send a whole JSON answer; ``close``: and end the connection."""


class Source(Sealed, frozen=True):
    """What a citation needs of a search's result. ``id`` counts through one answer from 1."""

    id: int
    url: str
    title: str


class WebSearch(Sealed, frozen=True):
    """How an answer may search the web.

    ``tool`` is the function that the model is offered and that we run. ``by_client``: the client
    runs the loop and carries the results. A search brings ``results_max`` of them, and all together
    may add ``room`` characters to the prompt. ``pages``: the pages found may be read. ``sources``
    stand in the prompt already, out of receipts of ours.
    """

    tool: str
    by_client: bool = False
    results_max: int = 5
    room: int = 48_000
    pages: bool = True
    sources: tuple[Source, ...] = ()


class Ask(Sealed, frozen=True):
    """One request on its way to an upstream.

    ``id`` is the hold's id and goes along as the request id. ``model`` is the name there.
    ``output_tokens_max`` is the cap that we send (tokens). ``tenant`` keeps organisations apart
    in the upstream's prompt cache: an opaque tag, never client text. ``repaired`` are the indexes
    of messages whose reasoning we put back. ``family`` is the model's. ``search`` is there
    where the answer may search the web; an upstream that cannot is never sent it.
    """

    id: str
    request: Request
    model: str
    output_tokens_max: int
    tenant: str
    repaired: tuple[int, ...] = ()
    family: Family = "other"
    search: WebSearch | None = None
    ahead: Spelling = msgspec.field(default_factory=Spelling)


class Probe(Sealed, frozen=True):
    """What a look at an upstream found: reachable, its models (``None``: it would not say)."""

    ok: bool
    models: tuple[str, ...] | None
    detail: str


class Upstream(Protocol):
    """A place that answers. ``stream`` yields batches: what one read from the wire brought."""

    @property
    def name(self) -> str:
        """Its configured name."""

    @property
    def kind(self) -> str:
        """Its kind, as in the configuration."""

    def facts(self) -> Facts:
        """What this end can do, as far as it says."""

    def stream(self, ask: Ask) -> AsyncGenerator[list[Event], None]:
        """Ask, and yield events; the first batch is ``[Started()]`` once it accepted.

        Closing the generator stops the work upstream. Raises an UpstreamError.
        """

    async def count(self, request: Request) -> int | None:
        """Exact prompt tokens of ``request`` where this end can tell; else ``None``."""

    async def probe(self) -> Probe:
        """Look whether it answers and which models it lists. Never raises."""

    def dropped(self, request: Request) -> tuple[str, ...]:
        """Names of the request's unknown fields that this kind of upstream is not sent."""

    async def start(self) -> None:
        """Open what is needed. Raises ConfigurationError with a sentence for the operator."""

    async def close(self) -> None:
        """Release everything."""


class Uploaded(Sealed, frozen=True):
    """A file that was uploaded: what for (``image``, ``video``, ``file-extract``), and its bytes.

    Of one that is to be read, ``data`` is the text that was found in it, in UTF-8.
    """

    purpose: str
    data: bytes


class Files(Protocol):
    """Files that were uploaded, each its organisation's own."""

    @property
    def fate(self) -> str:
        """Why a file may be gone, as the end of a sentence."""

    def find(self, account: str, id: str) -> Uploaded | None:
        """What ``account`` uploaded as ``id``; ``None`` where it has no such file (any more)."""


class NoFiles:
    """Nothing was uploaded: the fake of :class:`Files`."""

    fate = "nothing can be uploaded here"

    def find(self, account: str, id: str) -> Uploaded | None:  # noqa: ARG002 - the port's signature
        return None


NO_COUNTS = Counts()
NO_FILES = NoFiles()
