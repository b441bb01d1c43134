"""Pictures as tokens: the formula on its table, and sizes out of headers and of nothing else."""

import base64
import struct
import time
from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moongate.meter import images

TABLE = [
    ((28, 28), 1),
    ((256, 256), 100),
    ((512, 512), 361),
    ((1024, 1024), 1369),
    ((1536, 1024), 2035),
    ((1920, 1080), 2691),
    ((3840, 2160), 4214),
    ((4096, 2160), 4183),
    ((1805, 1805), 4225),
    ((7293, 503), 4464),
    ((1, 1), 1),
    ((10**9, 1), 256),
]
SIDES = st.integers(1, 100_000)


def png(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + struct.pack(">II", width, height) + b"\x08" * 30


def gif(width: int, height: int) -> bytes:
    return b"GIF89a" + struct.pack("<HH", width, height) + bytes(40)


def webp_extended(width: int, height: int) -> bytes:
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF\x00\x00\x00\x00WEBPVP8X\x0a\x00\x00\x00" + bytes(4) + sides + bytes(20)


def webp_lossy(width: int, height: int) -> bytes:
    sides = struct.pack("<HH", width | 0x4000, height)  # with an upscaling hint
    return b"RIFF\x00\x00\x00\x00WEBPVP8 " + bytes(7) + b"\x9d\x01\x2a" + sides + bytes(20)


def webp_lossless(width: int, height: int) -> bytes:
    bits = (width - 1) | (height - 1) << 14
    return (
        b"RIFF\x00\x00\x00\x00WEBPVP8L" + bytes(4) + b"\x2f" + struct.pack("<I", bits) + bytes(20)
    )


def jpeg(width: int, height: int, before: int = 100) -> bytes:
    """With ``before`` bytes of metadata, padding and a table, as cameras write them."""
    extra = b"\xff\xe1" + struct.pack(">H", before + 2) + bytes(before)
    tables = b"\xff\xff\xff\xc4" + struct.pack(">H", 4) + b"\x00\x00\xff\x01"
    frame = b"\xff\xc2" + struct.pack(">HBHH", 17, 8, height, width) + bytes(12)
    return b"\xff\xd8" + extra + tables + frame


FORMATS = [png, gif, webp_extended, webp_lossy, webp_lossless, jpeg]


def url(data: bytes, head: str = "data:image/png;base64,") -> str:
    return head + base64.b64encode(data).decode()


@pytest.mark.parametrize(("size", "tokens"), TABLE)
def test_the_formula_gives_the_table(size: tuple[int, int], tokens: int) -> None:
    assert images.tokens(*size) == tokens


def test_no_square_is_larger_than_4225_and_nothing_than_the_ceiling() -> None:
    assert max(images.tokens(side, side) for side in range(1, 12_000)) == 4225
    tall = max(images.tokens(side, 503) for side in range(1, 20_000))
    assert tall == 4464
    assert tall + images.WRAPPER <= images.TOKENS_MAX


@given(SIDES, SIDES)
def test_integers_agree_with_the_formula_as_it_is_published(width: int, height: int) -> None:
    area = max(1, width // 14) * max(1, height // 14)
    scale = min(1.0, sqrt(16384 / area), 512 * 14 / width, 512 * 14 / height)
    # A float may fall just below a whole number, so either floor is right for the reference.
    either = []
    for nudge in (1.0, 1.0 + 1e-12):
        wide, high = (min(max(1, int(side * scale * nudge)), 7168) for side in (width, height))
        either.append(-(-wide // 28) * -(-high // 28))
    assert images.tokens(width, height) in either
    assert 1 <= images.tokens(width, height) <= images.TOKENS_MAX - images.WRAPPER
    assert images.tokens(width, height) == images.tokens(height, width)


@pytest.mark.parametrize("make", FORMATS)
def test_each_format_tells_its_size(make) -> None:
    assert images.size(url(make(1920, 1080))) == (1920, 1080)
    assert images.of_url(url(make(1920, 1080))) == (2691 + 4, True)


@pytest.mark.parametrize(
    "head",
    [
        "data:image/.png;base64,",
        "data:image/png;base64, ",
        "DATA:IMAGE/PNG;BASE64,",
        "data:;base64,",
        "data:image/png;charset=x;base64,",
    ],
)
def test_sloppy_heads_are_read(head: str) -> None:
    assert images.size(url(png(30, 40), head)) == (30, 40)


@pytest.mark.parametrize(
    "address",
    [
        "ms://file-1",
        "https://example.org/a.png",
        "data:image/png,rawtext",
        "data:image/png;base64",
        "data:image/png;base64,",
        "data:image/png;base64,%%%%",
        "data:image/png;base64," + "A" * 100,
        "data:" + "x" * 10_000 + ";base64," + base64.b64encode(png(1, 1)).decode(),
        url(png(0, 10)),
        url(png(5, 5)[:20]),
        url(gif(5, 0)),
        url(webp_lossy(5, 5)[:25]),
        url(b"RIFF\x00\x00\x00\x00WEBPWHAT" + bytes(30)),
        url(b"\xff\xd8\xff\xe1\x00\x00" + bytes(40)),
        url(b"\xff\xd8" + b"\xff" * 5_000),
        url(b"\xff\xd8\x00" + bytes(40)),
        url(jpeg(9, 9)[:110]),
        url(b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'></svg>"),
    ],
)
def test_what_tells_no_size_counts_as_the_largest(address: str) -> None:
    assert images.of_url(address) == (images.TOKENS_MAX, False)


@given(st.binary(max_size=400), st.sampled_from([b"", *(make(300, 200) for make in FORMATS)]))
def test_no_header_breaks_the_reader(noise: bytes, whole: bytes) -> None:
    for cut in (0, 4, 12, 30):
        tokens, known = images.of_url(url(whole[:cut] + noise))
        assert 1 <= tokens <= images.TOKENS_MAX
        assert known or tokens == images.TOKENS_MAX


def test_a_large_picture_is_not_decoded_to_be_sized() -> None:
    large = url(png(4096, 2160) + bytes(30_000_000))
    deep = url(b"\xff\xd8\xff\xe1\xff\xff" + bytes(30_000_000))
    start_s = time.process_time()
    assert images.of_url(large) == (4183 + 4, True)
    assert images.of_url(deep) == (images.TOKENS_MAX, False)
    assert time.process_time() - start_s < 0.1
