"""What a request begins with, as keyed digests: what an upstream's prompt cache may hold of it.

One pure function. The digests are chained over tools, system messages and the rest, in the order in
which a model reads them: one at each message's end, and inside long texts one every ``BLOCK``
characters, so that the same document under another question is found too. The key is made of a
secret and the organisation: no two organisations ever have a digest in common, and without the
secret none can be tried out. No text is kept.
"""

from collections.abc import Iterator, Sequence
from hashlib import blake2b, sha256
from typing import Final

import msgspec

from moongate.core.request import ImagePart, Message, Request, TextPart, Tool
from moongate.core.sealed import Sealed

BLOCK: Final = 4_096
"""Characters between two digests inside a text."""
MEDIA: Final = 4_096
"""What a picture or a video weighs, in characters: they are large on the wire, not in a prompt."""
LAST: Final = 64
"""So many of the last boundaries are looked up; of the earlier ones a few, ever wider apart."""
NEWEST: Final = 8
"""So many of the last boundaries are remembered, beside the few early ones."""
BESIDE: Final = 1 << 20
"""From so many characters on a prefix is not made on the event loop."""
_DIGEST_BYTES: Final = 16
"""Half of what SHA-256 gives: so nobody could go on from a digest without the key."""
_KEY_BYTES: Final = 64  # one block of SHA-256
_PIECE: Final = 256 * BLOCK
_END: Final = b"\xff"  # no byte of UTF-8
_HEAD: Final = frozenset({"system", "developer"})

Mark = tuple[bytes, int]
"""A digest, and the size in characters of the prefix that it stands for."""


class Prefix(Sealed, frozen=True):
    """The prefixes of one request, shortest first: their digests, and their sizes in characters.

    ``lasting`` are the positions that are worth remembering. ``root`` is the digest of tools and
    system messages, which many conversations share; ``anchor`` that of the first piece behind them,
    at ``anchor_size``: from there on a conversation is itself. ``key`` is the digest of the
    client's ``prompt_cache_key``.
    """

    tenant: str
    digests: tuple[bytes, ...]
    sizes: tuple[int, ...]
    lasting: tuple[int, ...]
    root: bytes
    anchor: bytes
    anchor_size: int
    key: bytes | None = None

    @property
    def size(self) -> int:
        """Characters of the whole prompt."""
        return self.sizes[-1]

    @classmethod
    def of(
        cls, tenant: str, marks: Sequence[Mark], root: int, anchor: int, key: bytes | None = None
    ) -> "Prefix":
        """Out of every boundary in order; ``root`` and ``anchor`` are positions among them.

        A boundary's place in the conversation decides whether it is kept, so that two requests
        that begin alike keep the same ones.
        """
        count = len(marks)
        early = {root, anchor}
        kept = [i for i in range(count) if i >= count - LAST or i in early or _round(i + 1, 3)]
        lasting = (
            at for at, i in enumerate(kept) if i >= count - NEWEST or i in early or _round(i + 1, 2)
        )
        return cls(
            tenant=tenant,
            digests=tuple(marks[i][0] for i in kept),
            sizes=tuple(marks[i][1] for i in kept),
            lasting=tuple(lasting),
            root=marks[root][0],
            anchor=marks[anchor][0],
            anchor_size=marks[anchor][1],
            key=key,
        )


def prefix(secret: bytes, tenant: str, request: Request) -> Prefix:
    """The prefixes of ``request`` for the organisation ``tenant`` (``secret``: 64 bytes at most).

    It takes less than a millisecond a megabyte where the processor knows SHA-256, most of it
    without the interpreter's lock.
    """
    key = blake2b(tenant.encode(), key=secret, digest_size=32).digest()
    chain = _Chain(key, request.model)
    for tool in request.tools:
        _put_tool(chain, tool)
    if request.tools:
        chain.mark()
    root = len(chain.marks) - 1
    leading = True
    for message in request.messages:
        leading = leading and message.role in _HEAD
        _put_message(chain, message)
        chain.mark()
        if leading:
            root = len(chain.marks) - 1
    if not chain.marks:
        chain.mark()
    anchor = min(root + 1, len(chain.marks) - 1)
    hint = None
    if request.cache_key:
        said = f"{request.model}\0{request.cache_key}".encode(errors="surrogatepass")
        hint = blake2b(b"key" + _END + said, key=key, digest_size=_DIGEST_BYTES).digest()
    return Prefix.of(tenant, chain.marks, max(root, 0), anchor, hint)


class _Chain:
    """A running digest, and its boundaries so far."""

    def __init__(self, key: bytes, model: str) -> None:
        self._hash = sha256(key.ljust(_KEY_BYTES, b"\0"))
        self._size = 0
        self.marks: list[Mark] = []
        self.put("m", model)

    def __repr__(self) -> str:
        return f"_Chain({len(self.marks)} marks)"

    def mark(self) -> None:
        """A boundary here, unless there is one."""
        if not self.marks or self.marks[-1][1] != self._size:
            self.marks.append((self._hash.copy().digest()[:_DIGEST_BYTES], self._size))

    def put(self, tag: str, text: str) -> None:
        """A short text that is part of something."""
        self._hash.update(f"{tag}{text}".encode(errors="surrogatepass") + _END)
        self._size += len(text) + 1

    def blocks(self, tag: str, text: str) -> None:
        """A text with boundaries inside."""
        self._hash.update(tag.encode())
        for at in range(0, len(text), _PIECE):
            self._blocks(text[at : at + _PIECE])
        self._hash.update(_END)
        self._size += 1

    def _blocks(self, text: str) -> None:
        plain = memoryview(text.encode()) if text.isascii() else None  # a byte is a character
        for at in range(0, len(text), BLOCK):
            if plain is not None:
                self._hash.update(plain[at : at + BLOCK])
            else:
                self._hash.update(text[at : at + BLOCK].encode(errors="surrogatepass"))
            size = min(BLOCK, len(text) - at)
            self._size += size
            if size == BLOCK:
                self.mark()

    def media(self, tag: str, url: str) -> None:
        """A picture or a video: one piece of fixed weight."""
        self._hash.update(tag.encode())
        for at in range(0, len(url), _PIECE):
            self._hash.update(url[at : at + _PIECE].encode(errors="surrogatepass"))
        self._hash.update(_END)
        self._size += MEDIA
        self.mark()


def _put_tool(chain: _Chain, tool: Tool) -> None:
    chain.put("t", tool.name)
    chain.blocks("d", tool.description or "")
    chain.blocks("p", msgspec.json.encode(tool.parameters).decode())


def _put_message(chain: _Chain, message: Message) -> None:
    chain.put("r", message.role)
    if message.name is not None:
        chain.put("n", message.name)
    if message.thinking:
        chain.blocks("h", message.thinking)
    for tag, text in _texts(message):
        chain.media(tag, text) if tag in "iv" else chain.blocks(tag, text)
    for call in message.tool_calls:
        chain.put("c", call.id)
        chain.put("f", call.name)
        chain.blocks("a", call.arguments)
    if message.tool_call_id is not None:
        chain.put("o", message.tool_call_id)


def _texts(message: Message) -> Iterator[tuple[str, str]]:
    """The content's texts and addresses. Text in one part or in none is the same prompt."""
    if isinstance(message.content, str):
        yield "x", message.content
        return
    for part in message.content or ():
        if isinstance(part, TextPart):
            yield "x", part.text
        else:
            yield ("i" if isinstance(part, ImagePart) else "v"), part.url


def _round(number: int, bits: int) -> bool:
    """Whether ``number`` has only so many leading binary digits, and zeros behind them."""
    spare = max(0, number.bit_length() - bits)
    return number >> spare << spare == number
