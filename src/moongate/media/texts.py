"""The text in a document: what kind of document it is, by its bytes, and who reads it.

Text is decoded here. What cannot be read is told by a word; what nobody reads here is refused.
"""

import asyncio
import codecs
import io
import re
import signal
from importlib.util import find_spec
from typing import Final

from moongate.core.errors import MoongateError, Refused
from moongate.media import beside
from moongate.media.turns import Turns
from moongate.wire import pictures

TEXT_BYTES_MAX: Final = 16 << 20
"""Of the text that is kept, in UTF-8; far more than any window holds."""
_MARKS: Final = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins like UTF-16's, so it comes first
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_LOOKED_AT: Final = 4096
_HTML: Final = re.compile(rb"\s*<(?:!doctype html|html)\b", re.IGNORECASE)
READ_S: Final = 30.0
WORDS: Final = ("broken", "encrypted", "no_text", "not_utf8", "too_large", "too_slow", "unknown")
"""What a client may be told instead of a text."""
_AT_ONCE: Final = 2
_WAIT_S: Final = 30.0
_BYTES_PER_TEXT_BYTE: Final = 4
"""At most, in any encoding that is read: an ASCII letter in UTF-32."""
_PIECE_BYTES: Final = 1 << 20


class BadText(MoongateError):
    """No text can be read from the bytes. ``kind`` is the word that the client is told."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


class Texts:
    """Reads documents, a few at once and one of an account; the others wait for a time."""

    def __init__(self) -> None:
        self._turns = Turns(_AT_ONCE, 1, _WAIT_S)

    async def read(self, data: bytes, account: str) -> tuple[bytes, str]:
        """The text in ``data`` as UTF-8, and a word that says why there is none, else nothing.

        Raises Refused where it is no kind of document that is read here, and where ``account``
        waited too long (503).
        """
        kind = _kind(data)
        try:
            if kind in ("pdf", "office"):
                return await self._read(kind, data, account), ""
            text = await asyncio.to_thread(_decoded, data)
            if _HTML.match(text[:_LOOKED_AT]):
                text = await self._read("html", text, account)
        except BadText as error:
            return b"", error.kind
        return text, ""

    async def _read(self, kind: str, data: bytes, account: str) -> bytes:
        """What a process of its own reads in ``data``. Raises BadText and Refused."""
        turns = await self._turns.take(account)
        try:
            code, text = await beside.read(kind, data, READ_S)
        except TimeoutError:
            raise BadText("too_slow") from None
        finally:
            self._turns.give(account, turns)
        if code == 0 and len(text) <= TEXT_BYTES_MAX:
            return text
        word = text[:_LOOKED_AT].decode("ascii", "replace")
        if code in (-signal.SIGXCPU, -signal.SIGKILL):
            word = "too_slow"
        raise BadText(word if word in WORDS else "broken")


def _kind(data: bytes) -> str:
    """The kind of a document by its bytes. Refuses what is a picture, or no document at all."""
    if b"%PDF-" in data[:1024]:
        if find_spec("pypdf") is None:
            what = "PDFs are not read here: the server lacks the extra files."
            raise Refused("invalid_value", "file", what=what)
        return "pdf"
    if data.startswith(b"PK\x03\x04"):
        return "office"
    if pictures.kind(data[:16]) is not None:
        what = "No text is read from pictures. Upload it with purpose image and show it by ms://."
        raise Refused("invalid_value", "file", what=what)
    if encoding(data) == "utf-8" and 0 in data[:_LOOKED_AT]:
        what = "No text is read from this kind of file. Text has to be in UTF-8 or UTF-16."
        raise Refused("invalid_value", "file", what=what)
    return "text"


def encoding(data: bytes) -> str:
    """The encoding of text, by its mark or by where its zero bytes lie; else ``utf-8``."""
    for mark, name in _MARKS:
        if data.startswith(mark):
            return name
    head = data[:_LOOKED_AT]
    for name, high in (("utf-16-le", head[1::2]), ("utf-16-be", head[::2])):
        # Text in most scripts has no zero in its low bytes, and many in the high ones.
        if high.count(0) * 2 > len(high) > 1 and high.count(0) == head.count(0):
            return name
    return "utf-8"


def _decoded(data: bytes) -> bytes:
    """Text as UTF-8; in pieces, so that nobody else waits long for a large one. Raises BadText."""
    if len(data) > _BYTES_PER_TEXT_BYTE * TEXT_BYTES_MAX:
        raise BadText("too_large")
    decoder = codecs.getincrementaldecoder(encoding(data))()
    made, blank = io.BytesIO(), True
    try:
        for at in range(0, len(data) or 1, _PIECE_BYTES):
            piece = decoder.decode(data[at : at + _PIECE_BYTES], at + _PIECE_BYTES >= len(data))
            blank = blank and not piece.strip()
            made.write(piece.encode("utf-8", "replace"))
            if made.tell() > TEXT_BYTES_MAX:
                raise BadText("too_large")
    except UnicodeDecodeError:
        raise BadText("not_utf8") from None
    if blank:
        raise BadText("no_text")
    return made.getvalue()
