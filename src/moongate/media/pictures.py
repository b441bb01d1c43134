"""Judging a picture by its bytes: one whole still image of a known format and a sane size.

No pixel is decoded here, so no decoder can be attacked here: the file's parts are followed from
the first to the last, and what they say of size and number is believed, because decoders go by it.
The bytes go on as they came; a camera's note on which side is up (EXIF orientation) stays in them.
Refused are files that are cut, that move, that are larger than ``PIXELS_MAX``, or that are none of
png, jpeg, gif and webp, whatever they are called.

Source: PNG (W3C), ITU T.81, GIF89a, and the WebP container specification.
"""

import zlib
from typing import Final

from moongate.core.errors import MoongateError
from moongate.core.sealed import Sealed
from moongate.wire import pictures
from moongate.wire.pictures import Kind, Size

BYTES_MAX: Final = 16 << 20
PIXELS_MAX: Final = 40_000_000
SIDE_MAX: Final = 65_535

_DEPTHS: Final = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
"""png's colour types, and the bits a sample of each may have."""
_NEEDED: Final = frozenset({b"PLTE", b"IDAT"})
_MOVES: Final = 0x02
"""webp's animation bit."""


class BadPicture(MoongateError):
    """The bytes are no picture that is passed on. ``kind`` is a word for tests and logs."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


class Picture(Sealed, frozen=True):
    """What a file was found to be. ``size`` is width and height (pixels)."""

    kind: Kind
    size: Size


def judge(data: bytes) -> Picture:
    """What the picture in ``data`` is. Raises BadPicture."""
    if len(data) > BYTES_MAX:
        raise BadPicture("bytes")
    kind = pictures.kind(data[:16])
    if kind is None:
        raise BadPicture("kind")
    try:
        size = _WALKS[kind](data)
    except (IndexError, ValueError):
        raise BadPicture("cut") from None
    if min(size) < 1 or max(size) > SIDE_MAX or size[0] * size[1] > PIXELS_MAX:
        raise BadPicture("pixels")
    return Picture(kind, size)


def _png(data: bytes) -> Size:
    """Chunks to the end mark, each with its checksum; one header, some data, no animation."""
    at, first, filled = 8, True, False
    size = pictures.png(data) or (0, 0)
    while True:
        length, name = int.from_bytes(_slice(data, at, 4)), bytes(_slice(data, at + 4, 4))
        body = _slice(data, at + 4, 4 + length)
        if zlib.crc32(body) != int.from_bytes(_slice(data, at + 8 + length, 4)):
            raise BadPicture("checksum")
        at += 12 + length
        if first != (name == b"IHDR"):
            raise BadPicture("order")
        if first:
            if length != 13 or body[12] not in _DEPTHS.get(body[13], ()) or body[14] or body[15]:
                raise BadPicture("header")
            first = False
        elif name == b"IEND":
            if not filled or length:
                raise BadPicture("empty")
            return size
        elif name == b"acTL":
            raise BadPicture("moves")
        elif not name.isalpha() or (name[:1].isupper() and name not in _NEEDED):
            raise BadPicture("order")
        filled = filled or (name == b"IDAT" and length > 0)


def _jpeg(data: bytes) -> Size:
    """Segments to the end mark: one frame, then its scans."""
    at, size, scanned = 2, (0, 0), False
    while True:
        if data[at] != 0xFF:
            raise BadPicture("order")
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        at += 2
        if marker == 0xD9:
            if not scanned:
                raise BadPicture("empty")
            return size
        if marker in pictures.BARE:
            continue
        body = _slice(data, at, int.from_bytes(_slice(data, at, 2)))
        if len(body) < 2:
            raise BadPicture("order")
        if marker in pictures.FRAMES:
            if size != (0, 0) or len(body) < 11:
                raise BadPicture("order")
            size = int.from_bytes(body[5:7]), int.from_bytes(body[3:5])
            if 0 in size:  # a height that is told later is told to nobody
                raise BadPicture("header")
        at += len(body)
        if marker == 0xDA:
            if size == (0, 0):
                raise BadPicture("order")
            scanned, at = True, _scan_end(data, at)


def _scan_end(data: bytes, at: int) -> int:
    """Where the next marker stands that ends coded data. Raises ValueError where none does."""
    while True:
        at = data.index(b"\xff", at)
        if data[at + 1] == 0 or 0xD0 <= data[at + 1] <= 0xD7:
            at += 2
        else:
            return at


def _gif(data: bytes) -> Size:
    """Blocks to the trailer; one frame, and not a larger one than the screen."""
    size = pictures.gif(data) or (0, 0)
    at, frames = 13 + _colours(data[10]), 0
    while True:
        mark = data[at]
        if mark == 0x3B:
            if frames != 1:
                raise BadPicture("empty")
            return size
        if mark == 0x21:
            at = _blocks_end(data, at + 2)
        elif mark == 0x2C:
            left, top, wide, high = (
                int.from_bytes(_slice(data, at + 1 + 2 * n, 2), "little") for n in range(4)
            )
            frames += 1
            if frames > 1:
                raise BadPicture("moves")
            if left + wide > size[0] or top + high > size[1]:
                raise BadPicture("header")
            at = _blocks_end(data, at + 11 + _colours(data[at + 9]))
        else:
            raise BadPicture("order")


def _colours(flags: int) -> int:
    """Bytes of the colour table that ``flags`` announce."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _blocks_end(data: bytes, at: int) -> int:
    """Where a chain of sub-blocks ends."""
    while length := data[at]:
        at += 1 + length
    return at + 1


def _webp(data: bytes) -> Size:
    """Chunks to the end of the container; one coded picture, as large as its canvas."""
    end = 8 + int.from_bytes(data[4:8], "little")
    if end > len(data):
        raise BadPicture("cut")
    canvas: Size | None = None
    found: Size | None = None
    at = 12
    while at < end:
        name = bytes(_slice(data, at, 4))
        length = int.from_bytes(_slice(data, at + 4, 4), "little")
        body = _slice(data, at + 8, length)
        if at + 8 + length > end:
            raise BadPicture("cut")
        if name == b"VP8X":
            if at != 12 or length < 10:
                raise BadPicture("order")
            if body[0] & _MOVES:
                raise BadPicture("moves")
            canvas = pictures.webp(data)
        elif name in (b"ANIM", b"ANMF"):
            raise BadPicture("moves")
        elif name in (b"VP8 ", b"VP8L"):
            size = pictures.webp_frame(name, bytes(body[:16]))
            if size is None or found is not None:
                raise BadPicture("header")
            found = size
        at += 8 + length + (length & 1)
    if found is None:
        raise BadPicture("empty")
    if canvas is not None and canvas != found:
        raise BadPicture("header")
    return found


def _slice(data: bytes, at: int, length: int) -> memoryview:
    """``length`` bytes at ``at``, not copied. Raises IndexError where they are not there."""
    if at + length > len(data):
        raise IndexError
    return memoryview(data)[at : at + length]


_WALKS: Final = {"png": _png, "jpeg": _jpeg, "gif": _gif, "webp": _webp}
