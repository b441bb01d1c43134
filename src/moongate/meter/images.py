"""Pictures: from the first bytes of a data URL to a size, and from a size to tokens.

The formula is Kimi K2.5's own (patches of 14 pixels, merged two by two; pictures are never
enlarged), in integers: its scale is a square root, so the sides come from integer square roots and
no rounding can differ. Only headers are looked at, and no more of the base64 text is decoded than
they take. A picture whose header we do not know is counted as the largest. This module decodes no
picture and judges none.
"""

import binascii
from math import isqrt
from typing import Final

PATCH: Final = 14
CELL: Final = 2 * PATCH
PATCHES_MAX: Final = 16_384
SIDE_PATCHES_MAX: Final = 512
WRAPPER: Final = 4
"""Begin, the word ``image``, content, end."""
TOKENS_MAX: Final = 4_480
"""More than any picture takes, wrapper included: 7293 by 503 pixels take most, 4,464."""

_KIND_CHARS: Final = 256
"""How long what stands before a data URL's comma may be."""
_HEAD_BYTES: Final = 48
"""Enough for png, gif and webp."""
_JPEG_BYTES: Final = 1 << 18
"""How far a jpeg's segments are followed: metadata and thumbnails come before its frame."""
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""jpeg's start-of-frame markers; the three that are left out mean other things."""
_BARE: Final = frozenset({0x01, *range(0xD0, 0xD9)})
"""jpeg's markers without a length."""

Size = tuple[int, int]


def tokens(width: int, height: int) -> int:
    """Tokens of a picture of ``width`` by ``height`` pixels (at least 1), without its wrapper.

    Source: ``scale = min(1, sqrt(16384 / (w // 14 * (h // 14))), 512 * 14 / w, 512 * 14 / h)``,
    each factor under the root at least 1; sides floored, then padded to a multiple of 28.
    """
    area = max(1, width // PATCH) * max(1, height // PATCH)
    wide, high = _side(width, area, width, height), _side(height, area, width, height)
    return -(-wide // CELL) * -(-high // CELL)


def _side(side: int, area: int, width: int, height: int) -> int:
    """``floor(side * scale)``, at least 1. A floor is monotone: the least of the floors."""
    longest = SIDE_PATCHES_MAX * PATCH
    by_area = isqrt(side * side * PATCHES_MAX // area)
    scaled = min(side, by_area, side * longest // width, side * longest // height)
    return min(max(1, scaled), longest)


def of_url(url: str) -> tuple[int, bool]:
    """Tokens of the picture at ``url`` with its wrapper, and whether its header told them."""
    found = size(url)
    if found is None:
        return TOKENS_MAX, False
    return tokens(*found) + WRAPPER, True


def size(url: str) -> Size | None:
    """Width and height (pixels) of a picture in a data URL; ``None`` where its header is silent."""
    kind, comma, _ = url[:_KIND_CHARS].partition(",")
    if not comma or kind[:5].lower() != "data:" or not kind.lower().endswith(";base64"):
        return None
    start = len(kind) + 1
    while url[start : start + 1] == " ":  # occurs in official samples
        start += 1
    head = _decoded(url, start, _HEAD_BYTES)
    if head[:2] == b"\xff\xd8":
        found = _jpeg(_decoded(url, start, _JPEG_BYTES))
    else:
        found = _png(head) or _gif(head) or _webp(head)
    return found if found is not None and min(found) > 0 else None


def _decoded(url: str, start: int, count: int) -> bytes:
    """The first ``count`` bytes or fewer; none where the text is no base64."""
    text = url[start : start + (count + 2) // 3 * 4]
    try:
        return binascii.a2b_base64(text[: len(text) // 4 * 4], strict_mode=True)
    except ValueError:
        return b""


def _png(head: bytes) -> Size | None:
    if head[:8] != b"\x89PNG\r\n\x1a\n" or head[12:16] != b"IHDR" or len(head) < 24:
        return None
    return int.from_bytes(head[16:20]), int.from_bytes(head[20:24])


def _gif(head: bytes) -> Size | None:
    if head[:6] not in (b"GIF87a", b"GIF89a") or len(head) < 10:
        return None
    return int.from_bytes(head[6:8], "little"), int.from_bytes(head[8:10], "little")


def _webp(head: bytes) -> Size | None:
    if head[:4] != b"RIFF" or head[8:12] != b"WEBP" or len(head) < 30:
        return None
    match head[12:16]:
        case b"VP8X":
            return (
                int.from_bytes(head[24:27], "little") + 1,
                int.from_bytes(head[27:30], "little") + 1,
            )
        case b"VP8 " if head[23:26] == b"\x9d\x01\x2a":
            # Two bits of each belong to an upscaling hint.
            sides = int.from_bytes(head[26:28], "little"), int.from_bytes(head[28:30], "little")
            return sides[0] & 0x3FFF, sides[1] & 0x3FFF
        case b"VP8L" if head[20] == 0x2F:
            bits = int.from_bytes(head[21:25], "little")
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case _:
            return None


def _jpeg(data: bytes) -> Size | None:
    """Follows segments to the frame header; each step moves on, so it ends."""
    at = 2
    while at + 9 <= len(data):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:  # padding
            at += 1
        elif marker in _BARE:
            at += 2
        elif marker in _FRAMES:
            return int.from_bytes(data[at + 7 : at + 9]), int.from_bytes(data[at + 5 : at + 7])
        else:
            length = int.from_bytes(data[at + 2 : at + 4])
            if length < 2:
                return None
            at += 2 + length
    return None
