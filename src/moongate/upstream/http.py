"""An upstream over HTTP: codec out, bytes back, events up, and an abort that is felt at once.

It serves the kinds moonshot, vllm, sglang and openai; what differs between them stands in
``quirks``, how they refuse in ``refusals``. It always asks for a stream, gives up on silence and
never retries. No text of the other side leaves it except as events of the reader, and neither
does the credential: exceptions hold one word of ours.
"""

import asyncio
import hashlib
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from typing import Final

import aiohttp
import msgspec
import yarl

from moongate.core.cards import DataPolicy, Facts
from moongate.core.errors import (
    ConfigurationError,
    UpstreamDown,
    UpstreamOverloaded,
    UpstreamProtocolError,
    UpstreamTimeout,
)
from moongate.core.events import Event, Failed, Started
from moongate.core.ports import Ask, Codec, Probe
from moongate.core.request import Request
from moongate.core.sealed import Sealed
from moongate.upstream import looks
from moongate.upstream.quirks import HttpKind, dropped_names, shape
from moongate.upstream.refusals import BODY_BYTES_MAX, refusal

CONNECT_TIMEOUT_S: Final = 10.0
ROOM_TIMEOUT_S: Final = 2.0
QUEUE_MAX: Final = 64
REFUSAL_TIMEOUT_S: Final = 5.0
LINGER_S: Final = 0.25
# uvicorn, under vLLM and SGLang, closes idle connections after 5 s; a POST must not race that.
KEEPALIVE_S: Final = 4.0
REPLY_BYTES_MIN: Final = 8 * 2**20
REPLY_BYTES_PER_TOKEN: Final = 2_048

_END: Final = re.compile(rb"(?:^|\n)data: ?\[DONE\]\s*\n\Z")
_TAIL_BYTES: Final = 64


class Credential(Sealed, frozen=True):
    """A key of ours at an upstream; its ``repr`` shows the length only."""

    value: str = ""

    def headers(self) -> dict[str, str]:
        """The authorization header, or none where there is no key."""
        return {"authorization": f"Bearer {self.value}"} if self.value else {}


class HttpUpstream:
    """A chat-completions endpoint under ``base_url`` (with its ``/v1``), seen as an Upstream.

    ``forward`` extends the kind's list of unknown request fields that are sent on.
    ``concurrency_max`` streams run at once; up to 64 more wait at most 2 s for room. Times are
    seconds.
    """

    def __init__(
        self,
        *,
        name: str,
        kind: HttpKind,
        base_url: str,
        codec: Codec,
        api_key: str = "",
        data_policy: DataPolicy = "none",
        concurrency_max: int = 64,
        first_token_timeout_s: float = 600.0,
        idle_timeout_s: float = 60.0,
        forward: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self.kind: HttpKind = kind
        self._base = base_url.rstrip("/")
        self._codec = codec
        self._credential = Credential(api_key)
        self._data_policy = data_policy
        self._concurrency_max = concurrency_max
        self._first_token_timeout_s = first_token_timeout_s
        self._idle_timeout_s = idle_timeout_s
        self._forward = forward
        self._room = asyncio.Semaphore(concurrency_max)
        self._waiting = 0
        self._session: aiohttp.ClientSession | None = None

    def __repr__(self) -> str:
        return f"HttpUpstream(name={self.name!r}, kind={self.kind!r})"

    def facts(self) -> Facts:
        """Its data policy and a fingerprint; window and abilities are the model card's."""
        digest = hashlib.blake2b(f"{self.kind}/{self.name}".encode(), digest_size=5).hexdigest()
        return Facts(fingerprint=f"fp_{digest}", data_policy=self._data_policy)

    async def count(self, request: Request) -> int | None:
        """``None``: these ends do not count for us."""
        del request
        return None

    def dropped(self, request: Request) -> tuple[str, ...]:
        return dropped_names(request, self.kind, self._forward)

    async def start(self) -> None:
        url = yarl.URL(self._base)
        if url.scheme not in ("http", "https") or not url.host:
            raise ConfigurationError(
                f"Upstream {self.name}: base_url must begin with http:// or https:// and name "
                "a host, like https://api.moonshot.ai/v1."
            )
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=self._concurrency_max + 1, keepalive_timeout=KEEPALIVE_S
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_TIMEOUT_S),
            auto_decompress=False,
            trust_env=False,
            headers={"accept-encoding": "identity", "user-agent": "moongate"},
        )

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def probe(self) -> Probe:
        if self._session is None:
            return Probe(ok=False, models=None, detail="It is not started.")
        return await looks.look(
            self._session, f"{self._base}/models", self._credential.headers(), self.kind
        )

    async def stream(self, ask: Ask) -> AsyncGenerator[list[Event], None]:
        """Ask, and yield what each read brought. Closing it aborts the connection at once."""
        body = shape(self._codec.write_request(ask.request), ask, self.kind, self._forward)
        deadline_s = asyncio.get_running_loop().time() + self._first_token_timeout_s
        async with self._admitted():
            response = await self._send(ask.id, msgspec.json.encode(body), deadline_s)
            try:
                await self._accept(response)
                async with aclosing(
                    self._read(response, _reply_bytes_max(ask), deadline_s)
                ) as batches:
                    async for events in batches:
                        yield events
            finally:
                _abort(response)

    @asynccontextmanager
    async def _admitted(self) -> AsyncGenerator[None, None]:
        """A place among the concurrent streams, or UpstreamOverloaded."""
        if self._room.locked():
            await self._queue()
        else:
            await self._room.acquire()
        try:
            yield
        finally:
            self._room.release()

    async def _queue(self) -> None:
        if self._waiting >= QUEUE_MAX:
            raise UpstreamOverloaded("full", retry_after_s=ROOM_TIMEOUT_S)
        self._waiting += 1
        try:
            await asyncio.wait_for(self._room.acquire(), ROOM_TIMEOUT_S)
        except TimeoutError:
            raise UpstreamOverloaded("full", retry_after_s=ROOM_TIMEOUT_S) from None
        finally:
            self._waiting -= 1

    async def _send(self, id: str, body: bytes, deadline_s: float) -> aiohttp.ClientResponse:
        """Send the request and await the head. Raises UpstreamDown or UpstreamTimeout."""
        if self._session is None:
            raise UpstreamDown("not_started")
        headers = {
            "content-type": "application/json",
            "accept": "text/event-stream",
            "x-request-id": id,
            **self._credential.headers(),
        }
        try:
            async with asyncio.timeout_at(deadline_s):
                return await self._session.post(
                    f"{self._base}/chat/completions",
                    data=body,
                    headers=headers,
                    allow_redirects=False,
                )
        except aiohttp.ClientError as error:
            word = looks.trouble(error)
            raise UpstreamDown("connect" if word == "refused" else word) from None
        except TimeoutError:
            raise UpstreamTimeout("first_token") from None

    async def _accept(self, response: aiohttp.ClientResponse) -> None:
        """Return when the head promises an event stream; else raise what it stands for."""
        if not 200 <= response.status < 300:
            raise refusal(response.status, response.headers, await _refusal_body(response))
        if response.content_type != "text/event-stream":
            raise UpstreamProtocolError("not_a_stream")
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise UpstreamProtocolError("compressed")

    async def _read(
        self, response: aiohttp.ClientResponse, bytes_max: int, deadline_s: float
    ) -> AsyncGenerator[list[Event], None]:
        """Batches of events until the end mark, a Failed, or the end of the stream."""
        loop = asyncio.get_running_loop()
        reader = self._codec.reader()
        yield reader.open()
        spoke = False
        received = 0
        tail = b""
        while True:
            silence = "idle" if spoke else "first_token"
            data = await _next(response, deadline_s, silence)
            if not data:
                break
            received += len(data)
            if received > bytes_max:
                raise UpstreamProtocolError("too_large")
            events = reader.feed(data)
            spoke = spoke or any(not isinstance(event, Started) for event in events)
            if events:
                yield events
                if spoke:
                    deadline_s = loop.time() + self._idle_timeout_s
            if any(isinstance(event, Failed) for event in events):
                return
            tail = (tail + data[-_TAIL_BYTES:])[-_TAIL_BYTES:]
            if _END.search(tail):
                await _linger(response)
                break
        last = reader.close()
        if last:
            yield last


def _reply_bytes_max(ask: Ask) -> int:
    choices = ask.request.sampling.n or 1
    return REPLY_BYTES_MIN + ask.output_tokens_max * choices * REPLY_BYTES_PER_TOKEN


async def _next(response: aiohttp.ClientResponse, deadline_s: float, silence: str) -> bytes:
    """The next bytes, empty at the end. Raises when it stays silent or the line is cut."""
    try:
        async with asyncio.timeout_at(deadline_s):
            return await response.content.readany()
    except aiohttp.ClientError:
        raise UpstreamProtocolError("cut") from None
    except TimeoutError:
        raise UpstreamTimeout(silence) from None


async def _linger(response: aiohttp.ClientResponse) -> None:
    """After the end mark: a moment for the reply to end, so that its connection is kept."""
    try:
        async with asyncio.timeout(LINGER_S):
            await response.content.readany()
    except (aiohttp.ClientError, TimeoutError):
        return  # the answer is whole; only the connection is lost


async def _refusal_body(response: aiohttp.ClientResponse) -> bytes:
    """At most 64 KiB of an error body; what came in time where the rest does not."""
    pieces: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(REFUSAL_TIMEOUT_S):
            while size < BODY_BYTES_MAX and (piece := await response.content.readany()):
                pieces.append(piece)
                size += len(piece)
    except (aiohttp.ClientError, TimeoutError):
        pass  # the status speaks for itself
    return b"".join(pieces)[:BODY_BYTES_MAX]


def _abort(response: aiohttp.ClientResponse) -> None:
    """Drop the connection without draining it; one that was read to its end lives on."""
    connection = response.connection
    if connection is not None and connection.transport is not None:
        connection.transport.abort()
    response.close()
