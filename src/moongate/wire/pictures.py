"""How large a picture is, from the head of its file: png, jpeg, gif and webp.

Only headers are looked at; nothing is decoded and nothing is judged.
"""

from typing import Final, Literal

Size = tuple[int, int]
Kind = Literal["png", "jpeg", "gif", "webp"]

HEAD_BYTES: Final = 48
"""Enough for png, gif and webp."""
JPEG_BYTES: Final = 1 << 18
"""How far a jpeg's segments are followed: metadata and thumbnails come before its frame."""
FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""jpeg's start-of-frame markers; the three that are left out mean other things."""
BARE: Final = frozenset({0x01, *range(0xD0, 0xD9)})
"""jpeg's markers without a length."""
PNG: Final = b"\x89PNG\r\n\x1a\n"


def kind(head: bytes) -> Kind | None:
    """The format that a file's first 16 bytes tell, whatever anybody calls it."""
    if head[:8] == PNG:
        return "png"
    if head[:3] == b"\xff\xd8\xff":
        return "jpeg"
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return "gif"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    return None


def size(head: bytes) -> Size | None:
    """Width and height (pixels), where ``head`` tells them; neither is 0.

    ``HEAD_BYTES`` are enough but for jpeg, which may take ``JPEG_BYTES`` and more.
    """
    found = jpeg(head) if head[:2] == b"\xff\xd8" else png(head) or gif(head) or webp(head)
    return found if found is not None and min(found) > 0 else None


def png(head: bytes) -> Size | None:
    """What the first chunk says."""
    if head[:8] != PNG or head[12:16] != b"IHDR" or len(head) < 24:
        return None
    return int.from_bytes(head[16:20]), int.from_bytes(head[20:24])


def gif(head: bytes) -> Size | None:
    """What the logical screen says."""
    if head[:6] not in (b"GIF87a", b"GIF89a") or len(head) < 10:
        return None
    return int.from_bytes(head[6:8], "little"), int.from_bytes(head[8:10], "little")


def webp(head: bytes) -> Size | None:
    """What the first chunk says: the canvas, or the only picture."""
    if head[:4] != b"RIFF" or head[8:12] != b"WEBP" or len(head) < 30:
        return None
    if head[12:16] == b"VP8X":
        wide, high = int.from_bytes(head[24:27], "little"), int.from_bytes(head[27:30], "little")
        return wide + 1, high + 1
    return webp_frame(head[12:16], head[20:])


def webp_frame(name: bytes, data: bytes) -> Size | None:
    """The size of one coded picture: the chunk ``name`` that begins with ``data``."""
    if name == b"VP8 " and data[3:6] == b"\x9d\x01\x2a" and len(data) >= 10:
        # Two bits of each belong to an upscaling hint.
        sides = int.from_bytes(data[6:8], "little"), int.from_bytes(data[8:10], "little")
        return sides[0] & 0x3FFF, sides[1] & 0x3FFF
    if name == b"VP8L" and data[:1] == b"\x2f" and len(data) >= 5:
        bits = int.from_bytes(data[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return None


def jpeg(data: bytes) -> Size | None:
    """Follows segments to the frame header; each step moves on, so it ends."""
    at = 2
    while at + 9 <= len(data):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:  # padding
            at += 1
        elif marker in BARE:
            at += 2
        elif marker in FRAMES:
            return int.from_bytes(data[at + 7 : at + 9]), int.from_bytes(data[at + 5 : at + 7])
        else:
            length = int.from_bytes(data[at + 2 : at + 4])
            if length < 2:
                return None
            at += 2 + length
    return None
