"""The text in a document: what kind of document it is, by its bytes, and who reads it.

Text is decoded here. What cannot be read is told by a word; what nobody reads here is refused.
"""

import asyncio
import codecs
import re
import signal
import sys
from importlib.util import find_spec
from typing import Final

from moongate.core.errors import MoongateError, Refused
from moongate.media import reader
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


class BadText(MoongateError):
    """No text can be read from the bytes. ``kind`` is the word that the client is told."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


class Texts:
    """Reads documents, a few at once; the others wait."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def read(self, data: bytes) -> tuple[bytes, str]:
        """The text in ``data`` as UTF-8, and a word that says why there is none, else nothing.

        Raises Refused where it is no kind of document that is read here.
        """
        kind = _kind(data)
        try:
            if kind in ("pdf", "office"):
                return await self._read(kind, data), ""
            text = await asyncio.to_thread(_decoded, data)
            return (await self._read("html", text) if _HTML.match(text[:_LOOKED_AT]) else text), ""
        except BadText as error:
            return b"", error.kind

    async def _read(self, kind: str, data: bytes) -> bytes:
        """What a process of its own reads in ``data``. Raises BadText."""
        async with self._turns:
            child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-B", "-X", "utf8", reader.__file__, kind),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env={},
                cwd="/",
            )
            try:
                async with asyncio.timeout(READ_S):
                    text, _ = await child.communicate(data)
            except TimeoutError:
                raise BadText("too_slow") from None
            finally:
                if child.returncode is None:
                    child.kill()
                    await child.wait()
        if child.returncode == 0 and len(text) <= TEXT_BYTES_MAX:
            return text
        word = text.decode("ascii", "replace")
        if child.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
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
    try:
        text = data.decode(encoding(data))
    except UnicodeDecodeError:
        raise BadText("not_utf8") from None
    if not text.strip():
        raise BadText("no_text")
    made = text.encode("utf-8", "replace")
    if len(made) > TEXT_BYTES_MAX:
        raise BadText("too_large")
    return made
