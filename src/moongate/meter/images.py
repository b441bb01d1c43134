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

from moongate.wire import pictures
from moongate.wire.pictures import Size

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


def tokens(width: int, height: int, patches_max: int = PATCHES_MAX) -> int:
    """Tokens of a picture of ``width`` by ``height`` pixels (at least 1), without its wrapper.

    Source: ``scale = min(1, sqrt(16384 / (w // 14 * (h // 14))), 512 * 14 / w, 512 * 14 / h)``,
    each factor under the root at least 1; sides floored, then padded to a multiple of 28.
    """
    area = max(1, width // PATCH) * max(1, height // PATCH)
    wide = _side(width, area, width, height, patches_max)
    high = _side(height, area, width, height, patches_max)
    return -(-wide // CELL) * -(-high // CELL)


def _side(side: int, area: int, width: int, height: int, patches_max: int) -> int:
    """``floor(side * scale)``, at least 1. A floor is monotone: the least of the floors."""
    longest = SIDE_PATCHES_MAX * PATCH
    by_area = isqrt(side * side * patches_max // area)
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
    head = _decoded(url, start, pictures.HEAD_BYTES)
    if head[:2] == b"\xff\xd8":
        head = _decoded(url, start, pictures.JPEG_BYTES)
    return pictures.size(head)


def _decoded(url: str, start: int, count: int) -> bytes:
    """The first ``count`` bytes or fewer; none where the text is no base64."""
    text = url[start : start + (count + 2) // 3 * 4]
    try:
        return binascii.a2b_base64(text[: len(text) // 4 * 4], strict_mode=True)
    except ValueError:
        return b""
