"""Data URLs of pictures and videos: read leniently, checked whole, written one way.

What official samples and clients spell differently is accepted: a space after ``base64,``, a dot
before the format's name, a wrong or a missing format, missing padding. What goes on says what the
bytes are. Base64 is decoded in pieces, so that nobody else waits long for a large picture.
"""

import binascii
import io
import re
from typing import Final

_HEAD: Final = re.compile(r"data:(image|video)/[^;,\s]*(?:;[^;,\s]*)*;base64, *", re.IGNORECASE)
_HEAD_CHARS: Final = 256
_PIECE_CHARS: Final = 1 << 18
_PIECE_BYTES: Final = 3 << 16
"""A multiple of three, so that a piece's base64 needs no padding."""


class BadData(ValueError):
    """The text is no data URL of that kind, or its base64 is wrong."""


class Data:
    """The base64 text inside a data URL, and the bytes that it stands for."""

    def __init__(self, url: str, kind: str, bytes_max: int) -> None:
        """Raises BadData where ``url`` is no data URL of ``kind``, or of more than ``bytes_max``.

        ``kind`` is ``image`` or ``video``.
        """
        head = _HEAD.match(url[:_HEAD_CHARS])
        if head is None or head[1].lower() != kind:
            raise BadData
        self._url, self._start = url, head.end()
        self._lacking = -(len(url) - self._start) % 4
        if self._lacking == 3 or len(self) > bytes_max:
            raise BadData

    def __len__(self) -> int:
        """How many bytes there are."""
        padding = self._lacking + self._url[-2:].count("=")
        return (len(self._url) - self._start + self._lacking) // 4 * 3 - padding

    def whole(self) -> bytes:
        """All bytes. Raises BadData."""
        found = io.BytesIO()  # its value is no copy
        for at in range(self._start, len(self._url), _PIECE_CHARS):
            found.write(self._decoded(at, at + _PIECE_CHARS))
        return found.getvalue()

    def check(self) -> None:
        """Decode everything and keep nothing. Raises BadData."""
        for at in range(self._start, len(self._url), _PIECE_CHARS):
            self._decoded(at, at + _PIECE_CHARS)

    def part(self, at: int, length: int) -> bytes:
        """``length`` bytes at ``at``, or fewer at the end. Raises BadData."""
        first, last = at // 3 * 4, -(-(at + length) // 3) * 4
        return self._decoded(self._start + first, self._start + last)[at % 3 : at % 3 + length]

    def url(self, format: str) -> str:
        """The data URL as it goes on: bytes that are ``format``, such as ``image/png``."""
        head = f"data:{format};base64,"
        if self._lacking == 0 and self._start == len(head) and self._url.startswith(head):
            return self._url
        return head + self._url[self._start :] + "=" * self._lacking

    def _decoded(self, start: int, end: int) -> bytes:
        text = self._url[start:end]
        if not text:
            return b""
        if end >= len(self._url):
            text += "=" * self._lacking
        elif text[-1:] == "=":
            raise BadData
        try:
            return binascii.a2b_base64(text, strict_mode=True)
        except ValueError:
            raise BadData from None


def length(size: int) -> int:
    """How many characters ``size`` bytes become in base64."""
    return -(-size // 3) * 4


def write(data: bytes, format: str) -> str:
    """A data URL of ``data``; encoded in pieces, so that nobody else waits long for a video."""
    pieces = [f"data:{format};base64,"]
    for at in range(0, len(data), _PIECE_BYTES):
        piece = binascii.b2a_base64(data[at : at + _PIECE_BYTES], newline=False)
        pieces.append(piece.decode("ascii"))
    return "".join(pieces)
