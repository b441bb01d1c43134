"""Reasoning that a client dropped in a tool loop, put back: what a Kimi is owed with each call.

With thinking on, Kimi wants each assistant message with calls, back to the last plain answer, to
carry the reasoning that led to them. Many clients drop it. So the reasoning of an answer that
calls tools is kept in memory for half an hour after it was last needed, and restored; where it is
not known, an empty one is sent. It is found again by a digest, under a key of this process, of
organisation, the messages before, and the calls: no conversation can get another's. Nothing is
kept for a zero-retention key. This module refuses to know disks, stores and logs.
"""

import asyncio
import contextlib
import hashlib
import secrets
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec

from moongate.core.events import Event, Fold
from moongate.core.ports import Ask, Clock
from moongate.core.request import Call, Message, Part, Request, TextPart
from moongate.core.sealed import Sealed
from moongate.upstream.quirks import QUIRKS
from moongate.wire.ids import numbered

KEPT_S: Final = 1_740
"""Seconds after its last use at which an entry may go; it has gone a sweep later, at 30 minutes."""
SWEEP_S: Final = 60
BYTES_MAX: Final = 64 * 2**20
ENTRIES_MAX: Final = 65_536
TENANT_BYTES_MAX: Final = 8 * 2**20
TENANT_ENTRIES_MAX: Final = 4_096
NAMES_MAX: Final = 64
"""How many repaired messages the header names; the rest is a number."""

HEADER: Final = "x-moongate-repaired"


WANTING: Final[frozenset[str]] = frozenset(QUIRKS)
"""Kinds of upstream that are sent conversations as messages."""
BESIDE: Final = 262_144
"""From so many characters a conversation is hashed beside the event loop."""
_PIECE: Final = 262_144
"""So many characters are hashed at a time: between two pieces others get their turn."""


def tell(headers: dict[str, str], ask: Ask, kind: str) -> None:
    """Name what was repaired in ``headers``, as far as an upstream of ``kind`` was sent it."""
    headers.pop(HEADER, None)
    if ask.repaired and kind in WANTING:
        names = [f"messages[{at}].reasoning_content" for at in ask.repaired[:NAMES_MAX]]
        more = len(ask.repaired) - len(names)
        headers[HEADER] = ",".join([*names, f"+{more}"] if more else names)


class _Entry(Sealed, frozen=True):
    tenant: str
    thinking: bytes
    used_s: float


class Replay:
    """The reasoning that this process remembers; one for all requests."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._secret = secrets.token_bytes(32)
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()  # the least lately used first
        self._tenants: dict[str, OrderedDict[bytes, None]] = {}
        self._bytes: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"Replay({len(self._entries)} entries, {self._bytes.total()} bytes)"

    async def mend(
        self, tenant: str, request: Request, *, kept: bool = True
    ) -> tuple[Request, tuple[int, ...]]:
        """The request with the reasoning that its tool loop lacks, and where that was.

        ``kept``: what is known is looked up; otherwise an empty reasoning has to do.
        """
        lacking = () if request.thinking is False else tuple(_lacking(request.messages))
        if not lacking:
            return request, ()
        messages = list(request.messages)
        keys = await self._hashed(tenant, request.messages, frozenset(lacking)) if kept else {}
        for at in lacking:
            found = self._take(keys[at]) if kept else ""
            messages[at] = msgspec.structs.replace(messages[at], thinking=found)
        return msgspec.structs.replace(request, messages=tuple(messages)), lacking

    def watch(self, ask: Ask) -> "Watch | None":
        """What gathers an answer to ``ask``; ``None`` where no reasoning will be asked back."""
        request = ask.request
        asked_back = ask.family == "kimi" and request.tools and request.thinking is not False
        return Watch(self, ask) if asked_back else None

    async def keep(
        self, tenant: str, before: Sequence[Message], calls: Iterable[Call], text: str
    ) -> None:
        """Remember ``text`` as the reasoning of an assistant message that made ``calls``."""
        thinking = text.encode()
        if not thinking or len(thinking) > TENANT_BYTES_MAX:
            return
        said = Message("assistant", tool_calls=tuple(calls))
        keys = await self._hashed(tenant, (*before, said), frozenset({len(before)}))
        key = keys[len(before)]
        self._drop(key)
        self._entries[key] = _Entry(tenant, thinking, self._clock.monotonic_s())
        own = self._tenants.setdefault(tenant, OrderedDict())
        own[key] = None
        self._bytes[tenant] += len(thinking)
        while len(own) > TENANT_ENTRIES_MAX or self._bytes[tenant] > TENANT_BYTES_MAX:
            self._drop(next(iter(own)))
        while len(self._entries) > ENTRIES_MAX or self._bytes.total() > BYTES_MAX:
            self._drop(next(iter(self._entries)))

    async def run(self) -> None:
        """Forget what is too old, until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_S)
            self.sweep()

    def sweep(self) -> None:
        """Forget what nobody needed for too long."""
        oldest_s = self._clock.monotonic_s() - KEPT_S
        while self._entries:
            key, entry = next(iter(self._entries.items()))
            if entry.used_s > oldest_s:
                return
            self._drop(key)

    def _take(self, key: bytes) -> str:
        self.sweep()
        entry = self._entries.get(key)
        if entry is None:
            return ""
        self._entries[key] = msgspec.structs.replace(entry, used_s=self._clock.monotonic_s())
        self._entries.move_to_end(key)
        self._tenants[entry.tenant].move_to_end(key)
        return entry.thinking.decode()

    def _drop(self, key: bytes) -> None:
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        self._bytes[entry.tenant] -= len(entry.thinking)
        own = self._tenants[entry.tenant]
        del own[key]
        if not own:
            del self._tenants[entry.tenant], self._bytes[entry.tenant]

    async def _hashed(
        self, tenant: str, messages: Sequence[Message], wanted: frozenset[int]
    ) -> dict[int, bytes]:
        """As :meth:`_keys`; what is long is hashed in a thread."""
        if sum(map(_length, messages)) < BESIDE:
            return self._keys(tenant, messages, wanted)
        return await asyncio.to_thread(self._keys, tenant, messages, wanted)

    def _keys(
        self, tenant: str, messages: Sequence[Message], wanted: frozenset[int]
    ) -> dict[int, bytes]:
        """The key of each of the messages ``wanted``."""
        digest = hashlib.blake2b(tenant.encode(), key=self._secret, digest_size=32)
        keys: dict[int, bytes] = {}
        for at, message in enumerate(numbered(messages)):
            if at in wanted:
                own = digest.copy()
                _take_calls(own, message)
                keys[at] = own.digest()
                if len(keys) == len(wanted):
                    break
            _take_essence(digest, message)
            _take_calls(digest, message)
        return keys


class Watch:
    """Gathers one answer as the client is sent it; when it calls tools, its reasoning is kept."""

    def __init__(self, replay: Replay, ask: Ask) -> None:
        self._replay, self._ask = replay, ask
        self._fold = Fold()

    def __repr__(self) -> str:
        return f"Watch({self._ask.id})"

    def see(self, events: Iterable[Event]) -> None:
        """Take note of a batch."""
        for event in events:
            self._fold.add(event)

    async def end(self) -> None:
        """The answer is whole: remember what it thought before it called."""
        before = self._ask.request.messages
        for choice in self._fold.answer().choices:
            if choice.calls and choice.thinking:
                await self._replay.keep(self._ask.tenant, before, choice.calls, choice.thinking)


def _lacking(messages: Sequence[Message]) -> Iterator[int]:
    """Assistant messages with calls and without reasoning, after the last one without calls.

    What stands before that one is left out of the prompt by Kimi's chat template.
    """
    start = 0
    for at, message in enumerate(messages):
        if message.role == "assistant" and not message.tool_calls and not message.partial:
            start = at + 1
    for at, message in enumerate(messages[start:], start):
        if message.tool_calls and message.thinking is None:
            yield at


_NO_JSON: Final = (msgspec.MsgspecError, ValueError, OverflowError, RecursionError)
"""What parsing or writing raises where both ends cannot hold a text as JSON."""
_ENCODER: Final = msgspec.json.Encoder(order="sorted")


def _take(digest: Any, head: list[Any], texts: Sequence[str]) -> None:
    """Feed ``digest`` with ``head`` and ``texts``; no other head and texts feed it the same."""
    digest.update(_ENCODER.encode([head, list(map(len, texts))]))
    for text in texts:
        for at in range(0, len(text), _PIECE):
            digest.update(text[at : at + _PIECE].encode())


def _take_essence(digest: Any, message: Message) -> None:
    """What stays of a message, beside its calls, when clients rewrite it.

    Not its reasoning, and not the difference between null and empty.
    """
    content = message.content or ""
    whole = isinstance(content, str)
    texts = [content] if isinstance(content, str) else [_text(part) for part in content]
    _take(digest, [message.role, whole, message.name, message.tool_call_id], texts)


def _take_calls(digest: Any, message: Message) -> None:
    """The calls, their arguments as values: frameworks parse them and write them anew."""
    for call in message.tool_calls:
        arguments = call.arguments
        if len(arguments) <= _PIECE:
            with contextlib.suppress(*_NO_JSON):  # of what is none, the text itself counts
                arguments = _ENCODER.encode(msgspec.json.decode(arguments)).decode()
        _take(digest, [call.id, call.name], [arguments])


def _text(part: Part) -> str:
    return part.text if isinstance(part, TextPart) else part.url


def _length(message: Message) -> int:
    """Characters that hashing a message takes in."""
    content = message.content or ""
    said = len(content) if isinstance(content, str) else sum(len(_text(p)) for p in content)
    return said + sum(len(call.arguments) for call in message.tool_calls)
