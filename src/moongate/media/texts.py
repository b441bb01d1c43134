"""The text in a document: what kind of document it is, by its bytes, and who reads it.

Text is decoded here. What cannot be read is told by a word; what nobody reads here is refused.
"""

import asyncio
import codecs
from typing import Final

from moongate.core.errors import MoongateError, Refused
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


class BadText(MoongateError):
    """No text can be read from the bytes. ``kind`` is the word that the client is told."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


async def text_of(data: bytes) -> tuple[bytes, str]:
    """The text in ``data`` as UTF-8, and a word that says why there is none, else nothing.

    Raises Refused where it is no kind of document that is read here.
    """
    _check_kind(data)
    try:
        return await asyncio.to_thread(_decoded, data), ""
    except BadText as error:
        return b"", error.kind


def _check_kind(data: bytes) -> None:
    """Refuse what is a picture, or no document at all."""
    if pictures.kind(data[:16]) is not None:
        what = "No text is read from pictures. Upload it with purpose image and show it by ms://."
        raise Refused("invalid_value", "file", what=what)
    if encoding(data) == "utf-8" and 0 in data[:_LOOKED_AT]:
        what = "No text is read from this kind of file. Text has to be in UTF-8 or UTF-16."
        raise Refused("invalid_value", "file", what=what)


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
