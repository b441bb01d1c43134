"""Judging a video by its container: a known kind, and how long it says that it plays.

Nothing is decoded. Of mp4, mov and 3gp the longest duration counts that the file states anywhere a
player would look: for the whole, for a track, and by the samples in it. Of the other kinds no
duration is read, and ``None`` says so.

Source: ISO/IEC 14496-12 (boxes), and the first bytes of the other containers.
"""

import struct
from collections.abc import Callable, Iterator
from typing import Final

from moongate.core.errors import MoongateError
from moongate.core.sealed import Sealed
from moongate.wire.pictures import Size

Part = Callable[[int, int], bytes]
"""``(at, length)`` to the bytes there, fewer at the end."""

_HEADS: Final = (
    (0, b"\x1a\x45\xdf\xa3", "video/webm"),
    (0, b"FLV\x01", "video/x-flv"),
    (0, b"\x00\x00\x01\xba", "video/mpeg"),
    (0, b"\x00\x00\x01\xb3", "video/mpeg"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "video/wmv"),
)
_NESTING: Final = frozenset({b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"mvex"})
_BOXES_MAX: Final = 4096
_RUNS_MAX: Final = 65_536
_DAY_MS: Final = 86_400_000


class BadVideo(MoongateError):
    """The bytes are no video that is passed on."""


class Video(Sealed, frozen=True):
    """What a file was found to be: its format, how long it plays (ms) and how large its frames are.

    The last two are ``None`` where that is not told.
    """

    format: str
    duration_ms: int | None = None
    size: Size | None = None


def judge(part: Part, size: int) -> Video:
    """What the video of ``size`` bytes is. Raises BadVideo."""
    head = part(0, 16)
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        kind = {b"qt  ": "video/mov", b"3gp4": "video/3gpp", b"3gp5": "video/3gpp"}
        return Video(kind.get(brand, "video/mp4"), *_told(part, size))
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return Video("video/avi")
    for at, mark, format in _HEADS:
        if head[at : at + len(mark)] == mark:
            return Video(format)
    raise BadVideo("kind")


def _told(part: Part, size: int) -> tuple[int | None, Size | None]:
    """The longest duration (ms) and the largest frame that any box tells.

    Neither where none does, or where what is told cannot be.
    """
    told: list[int] = []
    sizes: list[Size] = []
    scale = film = 0
    for count, (name, at, length) in enumerate(_boxes(part, 0, size, 0)):
        if count > _BOXES_MAX or name == b"moof":  # pieces whose times stand in each of them
            return None, None
        if name in (b"mvhd", b"mdhd"):
            scale, units = _clock(part(at, 32))
            film = scale if name == b"mvhd" else film
            told.append(_ms(units, scale))
        elif name == b"tkhd":
            told.append(_ms(_track_units(part(at, 36)), film))
            sizes.append(_track_size(part(at + length - 8, 8)))
        elif name == b"stts":
            told.append(_ms(_sample_units(part, at, length), scale))
    longest, largest = max(told, default=0), max(sizes, default=(0, 0))
    if not 0 < longest <= _DAY_MS or -1 in told:
        return None, None
    return longest, largest if min(largest) > 0 else None


def _boxes(part: Part, at: int, end: int, depth: int) -> Iterator[tuple[bytes, int, int]]:
    """Every box between ``at`` and ``end``: its name, where its content begins, how long it is."""
    while at + 8 <= end:
        head = part(at, 16)
        length, name, start = int.from_bytes(head[:4]), head[4:8], at + 8
        if length == 1:
            length, start = int.from_bytes(head[8:16]), at + 16
        elif length == 0:
            length = end - at
        if length < start - at or at + length > end:
            raise BadVideo("cut")
        yield name, start, at + length - start
        if name in _NESTING and depth < 8:
            yield from _boxes(part, start, at + length, depth + 1)
        at += length


def _clock(body: bytes) -> tuple[int, int]:
    """Units a second, and how many units, of a movie's or a medium's header."""
    if body[:1] == b"\x01":
        return int.from_bytes(body[20:24]), int.from_bytes(body[24:32])
    return int.from_bytes(body[12:16]), int.from_bytes(body[16:20])


def _track_units(body: bytes) -> int:
    return int.from_bytes(body[28:36]) if body[:1] == b"\x01" else int.from_bytes(body[20:24])


def _track_size(body: bytes) -> Size:
    """Width and height, whole pixels of 16.16 figures; 0 by 0 for sound."""
    return int.from_bytes(body[:2]), int.from_bytes(body[4:6])


def _sample_units(part: Part, at: int, length: int) -> int:
    """What the samples of a track add up to."""
    count = int.from_bytes(part(at + 4, 4))
    if count > _RUNS_MAX or 8 + 8 * count > length:
        raise BadVideo("cut")
    body = part(at + 8, 8 * count)
    return sum(samples * units for samples, units in struct.iter_unpack(">II", body))


def _ms(units: int, scale: int) -> int:
    """Milliseconds, rounded up; -1 where a duration is not told though there is a place for it."""
    if units in (0, 0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF):
        return 0
    return -(-units * 1000 // scale) if scale else -1
