"""Pictures made on the spot: whole ones of every format, and what is wrong with the others."""

import base64
import struct
import zlib
from collections.abc import Callable
from typing import Final

PNG: Final = b"\x89PNG\r\n\x1a\n"


def chunk(name: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def header(width: int, height: int, depth: int = 8, colour: int = 0) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))


def png(width: int = 8, height: int = 8, *more: bytes) -> bytes:
    """A grey ramp; ``more`` are chunks before the data. Any decoder reads it."""
    row = b"\0" + bytes(x % 256 for x in range(width))
    data = chunk(b"IDAT", zlib.compress(row * height, 1))
    return PNG + header(width, height) + b"".join(more) + data + chunk(b"IEND")


def jpeg(width: int = 8, height: int = 8, scan: bytes = b"\x12\xff\x00\x34\xff\xd0\x56") -> bytes:
    """The parts of a jpeg in order; what it is coded with is nothing."""
    app = b"\xff\xe1" + struct.pack(">H", 12) + b"Exif\0\0\xff\xd9ab"
    frame = b"\xff\xc0" + struct.pack(">HBHHB", 11, 8, height, width, 1) + b"\x01\x11\x00"
    start = b"\xff\xda" + struct.pack(">HB", 8, 1) + b"\x01\x00\x00\x3f\x00"
    return b"\xff\xd8" + app + b"\xff" + frame + start + scan + b"\xff\xd9"


def gif(width: int = 8, height: int = 8, frames: int = 1, frame: tuple[int, int] = (8, 8)) -> bytes:
    one = b"\x21\xf9\x04\x00\x0a\x00\x00\x00\x2c" + struct.pack("<HHHH", 0, 0, *frame)
    one += b"\x80" + bytes(6) + b"\x02" + b"\x03abc\x00"
    screen = struct.pack("<HH", width, height) + b"\x80\x00\x00" + bytes(6)
    return b"GIF89a" + screen + one * frames + b"\x3b"


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"WEBP"
    for name, data in chunks:
        body += name + struct.pack("<I", len(data)) + data + bytes(len(data) & 1)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def lossless(width: int, height: int) -> tuple[bytes, bytes]:
    bits = (width - 1) | (height - 1) << 14
    return b"VP8L", b"\x2f" + struct.pack("<I", bits) + bytes(7)


def canvas(width: int, height: int, flags: int = 0) -> tuple[bytes, bytes]:
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"VP8X", bytes([flags, 0, 0, 0]) + sides


def webp(width: int = 8, height: int = 8) -> bytes:
    return riff(canvas(width, height), lossless(width, height), (b"EXIF", b"odd"))


def webp_lossy(width: int = 8, height: int = 8) -> bytes:
    return riff((b"VP8 ", b"\x00\x00\x00\x9d\x01\x2a" + struct.pack("<HH", width, height)))


WHOLE: Final[dict[str, Callable[..., bytes]]] = {
    "png": png,
    "jpeg": jpeg,
    "gif": lambda w=8, h=8: gif(w, h),
    "webp": webp,
    "webp_lossy": webp_lossy,
}

_CUT = {f"cut {name} at {share}": make()[: len(make()) * share // 8]
        for name, make in WHOLE.items() for share in (1, 3, 5, 7)}  # fmt: skip
HOSTILE: Final[dict[str, bytes]] = {
    **_CUT,
    **{f"{name} without its end": WHOLE[name]()[:-1] for name in ("png", "jpeg", "gif", "webp")},
    "nothing": b"",
    "text": b"Once upon a time",
    "html": b"<!doctype html><img src=x>",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "svg with a byte order mark": b"\xef\xbb\xbf<?xml version='1.0'?><svg/>",
    "pdf": b"%PDF-1.7\n" + bytes(64),
    "bmp": b"BM" + bytes(64),
    "tiff": b"II*\0" + bytes(64),
    "ico": b"\0\0\1\0\1\0" + bytes(64),
    "avif": b"\0\0\0\x1cftypavif" + bytes(64),
    "zip": b"PK\3\4" + bytes(64),
    "mp4": b"\0\0\0\x18ftypisom" + bytes(64),
    "magic alone": PNG,
    "png bomb of 2^31 pixels a side": PNG + header(2**31 - 1, 2**31 - 1)
    + chunk(b"IDAT", zlib.compress(bytes(1 << 16))) + chunk(b"IEND"),
    "png of 40 megapixels and a row": PNG + header(8000, 5001)
    + chunk(b"IDAT", b"x") + chunk(b"IEND"),
    "png of one very long row": PNG + header(65_536, 1) + chunk(b"IDAT", b"x") + chunk(b"IEND"),
    "png without pixels": PNG + header(0, 8) + chunk(b"IDAT", b"x") + chunk(b"IEND"),
    "png without data": PNG + header(8, 8) + chunk(b"IEND"),
    "png that moves": png(8, 8, chunk(b"acTL", struct.pack(">II", 2, 0))),
    "png with a wrong checksum": png()[:-20] + b"\xff" + png()[-19:],
    "png with a chunk that only it knows": png(8, 8, chunk(b"EVIL", b"x")),
    "png with two headers": png(8, 8, header(8, 8)),
    "png of a depth that is none": PNG + header(8, 8, 7) + chunk(b"IDAT", b"x") + chunk(b"IEND"),
    "png chunk of 4 gigabytes": PNG + header(8, 8) + b"\xff\xff\xff\xffIDAT",
    "jpeg of 4 gigapixels": jpeg(65_500, 65_500),
    "jpeg that tells its height later": jpeg(8, 0),
    "jpeg without a scan": jpeg()[: jpeg().index(b"\xff\xda")] + b"\xff\xd9",
    "jpeg of two frames": jpeg()[:2] + jpeg()[16:30] + jpeg()[2:],
    "jpeg of padding": b"\xff\xd8" + b"\xff" * 100_000,
    "jpeg whose scan never ends": jpeg(8, 8, b"\xff\x00" * 100_000)[:-2],
    "gif that moves": gif(frames=2),
    "gif of 1,000 frames": gif(frames=1000),
    "gif without a frame": gif(frames=0),
    "gif larger than its screen": gif(frame=(60_000, 60_000)),
    "gif of 4 gigapixels": gif(65_535, 65_535),
    "webp that moves": riff(canvas(8, 8, 2), (b"ANIM", bytes(6)), (b"ANMF", bytes(24))),
    "webp that moves in secret": riff(canvas(8, 8), (b"ANMF", bytes(24)), lossless(8, 8)),
    "webp larger than its canvas": riff(canvas(8, 8), lossless(16_000, 16_000)),
    "webp of 268 megapixels": webp(16_384, 16_384),
    "webp of two pictures": riff(lossless(8, 8), lossless(8, 8)),
    "webp of nothing": riff(canvas(8, 8)),
    "webp that says it is longer": b"RIFF\xff\xff\xff\x7f" + webp()[8:],
}  # fmt: skip


def url(data: bytes, format: str = "image/png") -> str:
    return f"data:{format};base64," + base64.b64encode(data).decode()


def box(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", 8 + len(body)) + name + body


def mp4(
    seconds: int = 3,
    *,
    film_s: int | None = None,
    samples_s: int | None = None,
    brand: bytes = b"isom",
    wide: bool = False,
    pad: int = 1001,
) -> bytes:
    """The boxes of a film of so long; ``film_s`` and ``samples_s`` say otherwise in places."""
    film, samples = film_s or seconds, samples_s or seconds
    long = struct.pack(">IQQIQ", 0x0100_0000, 0, 0, 1000, film * 1000)
    short = struct.pack(">IIIII", 0, 0, 0, 1000, film * 1000)
    mvhd = box(b"mvhd", (long if wide else short) + bytes(80))
    tkhd = box(
        b"tkhd",
        struct.pack(">IIIIII", 7, 0, 0, 1, 0, film * 1000)
        + bytes(52)
        + b"\x05\x00\0\0\x02\xd0\0\0",
    )
    mdhd = box(b"mdhd", struct.pack(">IIIII", 0, 0, 0, 600, seconds * 600) + bytes(4))
    stts = box(b"stts", struct.pack(">IIII", 0, 1, samples * 30, 20))
    track = box(b"trak", tkhd + box(b"mdia", mdhd + box(b"minf", box(b"stbl", stts))))
    data = box(b"mdat", bytes(pad))
    return box(b"ftyp", brand + bytes(8)) + data + box(b"moov", mvhd + track)
