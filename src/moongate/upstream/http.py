"""An upstream over HTTP: codec out, bytes back, events up, and an abort that is felt at once.

It serves the kinds moonshot, vllm, sglang and openai; what differs between them stands in
``quirks``, how they refuse in ``refusals``. It always asks for a stream, gives up on silence and
never retries. No text of the other side leaves it except as events of the reader, and neither
does the credential: exceptions hold one word of ours.
"""

import asyncio
import hashlib
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Final

import aiohttp
import yarl

from moongate.core.cards import DataPolicy, Facts
from moongate.core.errors import (
    ConfigurationError,
    UpstreamDown,
    UpstreamOverloaded,
    UpstreamProtocolError,
    UpstreamTimeout,
)
from moongate.core.events import Event, Failed
from moongate.core.ports import Ask, Codec, Probe
from moongate.core.request import Request
from moongate.core.sealed import Sealed
from moongate.upstream import looks, pieces
from moongate.upstream.line import Line, short_body
from moongate.upstream.markers import Markers
from moongate.upstream.quirks import QUIRKS, HttpKind, dropped_names, shape
from moongate.upstream.refusals import BODY_BYTES_MAX, refusal
from moongate.upstream.salts import Salts
from moongate.wire.ids import Numbering

CONNECT_TIMEOUT_S: Final = 10.0
ROOM_TIMEOUT_S: Final = 2.0
QUEUE_MAX: Final = 64
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
    seconds. ``salted``: a model there that is asked whether tenants' caches are kept apart, before
    anything else is; ``report`` hears when they are not.
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
        salted: str = "",
        report: Callable[[str], None] = lambda word: None,  # noqa: ARG005 - the silent default
    ) -> None:
        self.name = name
        self.kind: HttpKind = kind
        self._base = base_url.rstrip("/")
        self._codec = codec
        self._credential = Credential(api_key)
        self._concurrency_max = concurrency_max
        self._first_token_timeout_s = first_token_timeout_s
        self._idle_timeout_s = idle_timeout_s
        self._forward = forward
        self._room = asyncio.Semaphore(concurrency_max)
        digest = hashlib.blake2b(f"{kind}/{name}".encode(), digest_size=5).hexdigest()
        self._facts = Facts(fingerprint=f"fp_{digest}", data_policy=data_policy)
        self._waiting = 0
        self._session: aiohttp.ClientSession | None = None
        apart = QUIRKS[kind].cache == "salt" and salted
        self._salts = Salts(self._events, salted, report) if apart else None

    def __repr__(self) -> str:
        return f"HttpUpstream(name={self.name!r}, kind={self.kind!r})"

    def facts(self) -> Facts:
        """Its data policy and a fingerprint; window and abilities are the model card's."""
        return self._facts

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
        found = await looks.look(
            self._session, f"{self._base}/models", self._credential.headers(), self.kind
        )
        if not found.ok or self._salts is None:
            return found
        said = await self._salts.look()
        ok = self._salts.verdict != "shared"
        return Probe(ok=ok, models=found.models, detail=f"{found.detail} {said}" if ok else said)

    def stream(self, ask: Ask) -> AsyncGenerator[list[Event], None]:
        """Ask, and yield what each read brought. Closing it breaks the connection at once."""
        salts = self._salts
        if salts is None or salts.verdict == "apart":
            return self._events(ask)
        return self._guarded(ask, salts)

    async def _guarded(self, ask: Ask, salts: Salts) -> AsyncGenerator[list[Event], None]:
        await salts.require()
        async with aclosing(self._events(ask)) as events:
            async for batch in events:
                yield batch

    async def _events(self, ask: Ask) -> AsyncGenerator[list[Event], None]:
        shaped = shape(self._codec.write_request(ask.request), ask, self.kind, self._forward)
        heard = _listener(ask)
        deadline_s = asyncio.get_running_loop().time() + self._first_token_timeout_s
        async with self._admitted():
            body = await pieces.gathered(shaped, ask.ahead)
            response = await self._send(ask.id, body, deadline_s)
            del body  # what was written of it is large, and an answer may take minutes
            line = Line(response, deadline_s, _reply_bytes_max(ask))
            try:
                await _accept(response)
                reader = self._codec.reader()
                yield reader.open()
                tail = b""
                while data := await line.read():
                    if events := reader.feed(data):
                        line.heard(self._idle_timeout_s)
                        failed = isinstance(events[-1], Failed)
                        if events := heard(events):
                            yield events
                        if failed:
                            return
                    tail = tail[-_TAIL_BYTES:] + data[-_TAIL_BYTES:]
                    if b"[DONE]" in tail and _END.search(tail):
                        await line.linger()
                        break
                if events := reader.close():
                    yield events
            finally:
                line.drop()

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
            async with asyncio.timeout(ROOM_TIMEOUT_S):
                await self._room.acquire()
        except TimeoutError:
            raise UpstreamOverloaded("full", retry_after_s=ROOM_TIMEOUT_S) from None
        finally:
            self._waiting -= 1

    async def _send(self, id: str, body: list[bytes], deadline_s: float) -> aiohttp.ClientResponse:
        """Send the request and await the head. Raises UpstreamDown or UpstreamTimeout."""
        if self._session is None:
            raise UpstreamDown("not_started")
        whole = len(body) == 1 and len(body[0]) <= pieces.LONG
        headers = {
            "content-type": "application/json",
            "accept": "text/event-stream",
            "x-request-id": id,
            "content-length": str(sum(map(len, body))),
            **self._credential.headers(),
        }
        try:
            async with asyncio.timeout_at(deadline_s):
                return await self._session.post(
                    f"{self._base}/chat/completions",
                    data=body[0] if whole else pieces.sent(body),
                    headers=headers,
                    allow_redirects=False,
                )
        except aiohttp.ClientError as error:
            word = looks.trouble(error)
            raise UpstreamDown("connect" if word == "refused" else word) from None
        except TimeoutError:
            raise UpstreamTimeout("first_token") from None


def _listener(ask: Ask) -> Callable[[list[Event]], list[Event]]:
    """What the events of an answer to ``ask`` go through: nothing, unless a Kimi speaks."""
    if ask.family != "kimi":
        return lambda events: events
    tools = ask.request.tools
    markers, numbering = Markers(tools), Numbering(ask.request.messages, tools)
    return lambda events: numbering.feed(markers.feed(events))


async def _accept(response: aiohttp.ClientResponse) -> None:
    """Return when the head promises an event stream; else raise what it stands for."""
    if not 200 <= response.status < 300:
        body = await short_body(response, BODY_BYTES_MAX)
        raise refusal(response.status, response.headers, body)
    if response.content_type != "text/event-stream":
        raise UpstreamProtocolError("not_a_stream")
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise UpstreamProtocolError("compressed")


def _reply_bytes_max(ask: Ask) -> int:
    choices = ask.request.sampling.n or 1
    return REPLY_BYTES_MIN + ask.output_tokens_max * choices * REPLY_BYTES_PER_TOKEN
