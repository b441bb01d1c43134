"""Pictures and videos judged by their bytes, and data URLs read leniently and written one way."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moongate.media import pictures, videos
from moongate.media.datas import BadData, Data, write
from moongate.media.pictures import BadPicture, judge
from moongate.media.videos import BadVideo
from moongate.wire import pictures as heads
from picture_kit import HOSTILE, WHOLE, box, chunk, jpeg, mp4, png, url, webp


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("size", [(8, 8), (1, 1), (1000, 37)])
def test_whole_pictures_pass_with_their_size(name, size):
    if name == "gif" and size == (1, 1):
        size = (9, 9)
    found = judge(WHOLE[name](*size))
    assert (found.kind, found.size) == (name.partition("_")[0], size)


@pytest.mark.parametrize("name", HOSTILE)
def test_broken_and_hostile_pictures_do_not(name):
    with pytest.raises(BadPicture):
        judge(HOSTILE[name])


def test_forty_megapixels_pass_and_not_one_more():
    assert judge(jpeg(8000, 5000)).size == (8000, 5000)
    with pytest.raises(BadPicture, match="pixels"):
        judge(jpeg(40_000_001 // 8000 + 1, 8000))


def test_sixteen_mebibytes_pass_and_not_one_byte_more():
    room = pictures.BYTES_MAX - len(png()) - 12
    assert judge(png(8, 8, chunk(b"teXt", bytes(room)))).size == (8, 8)
    with pytest.raises(BadPicture, match="bytes"):
        judge(png(8, 8, chunk(b"teXt", bytes(room + 1))))


def test_what_comes_after_the_end_is_nobodys_matter():
    """Telephones append a second picture for their own use."""
    assert judge(jpeg() + jpeg(9, 9)).size == (8, 8)


def test_judging_takes_no_memory_to_speak_of():
    large = png(8, 8, chunk(b"teXt", bytes(8 << 20)))
    tracemalloc.start()
    judge(large)
    for data in HOSTILE.values():
        with pytest.raises(BadPicture):
            judge(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


@given(st.sampled_from(sorted(WHOLE)), st.data())
def test_any_bytes_are_judged_and_never_crash(name, data):
    whole = bytearray(WHOLE[name]())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] = data.draw(st.integers(0, 255))
    try:
        found = judge(bytes(whole[: data.draw(st.integers(0, len(whole)))]))
    except BadPicture:
        return
    assert found.size[0] * found.size[1] <= pictures.PIXELS_MAX


@given(st.sampled_from(sorted(WHOLE)), st.integers(9, 9000), st.integers(9, 4000))
def test_the_judge_and_the_meter_see_one_size(name, width, height):
    data = WHOLE[name](width, height)
    assert heads.size(data) == judge(data).size


SPELT = [
    "data:image/png;base64,",
    "data:image/png;base64, ",
    "data:image/.png;base64,",
    "DATA:IMAGE/PNG;BASE64,",
    "data:image/jpeg;base64,",
    "data:image/png;charset=utf-8;base64,",
    "data:image/;base64,",
]


@pytest.mark.parametrize("head", SPELT)
def test_every_spelling_of_a_data_url_becomes_one(head):
    text = url(png())
    data = Data(head + text.partition(",")[2], "image", 1000)
    assert data.whole() == png()
    assert data.url("image/png") == text == write(png(), "image/png")


@given(st.binary(min_size=1, max_size=40), st.booleans(), st.integers(0, 60), st.integers(0, 60))
def test_parts_and_lengths_are_those_of_the_whole(whole, padded, at, length):
    text = url(whole)
    data = Data(text if padded else text.rstrip("="), "image", 1000)
    assert len(data) == len(whole)
    assert data.part(at, length) == whole[at : at + length]
    assert data.whole() == whole
    assert data.url("image/png") == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "data:", "data:image/png,abc", "data:image/png;base64", "data:text/html;base64,QQ=="),
        *("data:video/mp4;base64,QQ==", "https://example.com/a.png", "data:image/png;base64,Q"),
        "data:image/" + "x" * 300 + ";base64,QQ==",
    ],
)
def test_what_is_no_data_url_of_a_picture_is_refused(text):
    with pytest.raises(BadData):
        Data(text, "image", 1000)


@pytest.mark.parametrize(
    "text", ["Q===", "QQ=Q", "QQ==QQ==", "Q Q=", "Q\nQ=", "Q-_=", "ÄÖÜß", "=QQQ"]
)
def test_wrong_base64_is_refused(text):
    with pytest.raises(BadData):
        Data("data:image/png;base64," + text, "image", 1000).whole()


def test_too_much_is_refused_before_it_is_decoded():
    with pytest.raises(BadData):
        Data(url(bytes(1001)), "image", 1000)


def judged(data: bytes) -> videos.Video:
    return videos.judge(lambda at, length: data[at : at + length], len(data))


def test_a_film_is_as_long_as_the_longest_that_it_says():
    assert judged(mp4(3)).duration_ms == 3_000
    assert judged(mp4(3, wide=True)).duration_ms == 3_000
    assert judged(mp4(3, film_s=7)).duration_ms == 7_000
    assert judged(mp4(3, samples_s=3600)).duration_ms == 3_600_000
    assert judged(mp4(brand=b"qt  ")).format == "video/mov"
    assert judged(mp4()).size == (1280, 720)


@pytest.mark.parametrize(
    ("data", "format"),
    [
        (b"\x1a\x45\xdf\xa3" + bytes(20), "video/webm"),
        (b"RIFF\0\0\0\0AVI LIST", "video/avi"),
        (b"FLV\x01" + bytes(20), "video/x-flv"),
        (b"\x00\x00\x01\xba" + bytes(20), "video/mpeg"),
        (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11" + bytes(20), "video/wmv"),
        (box(b"ftyp", b"isom") + box(b"moof", b""), "video/mp4"),
        (box(b"ftyp", b"isom"), "video/mp4"),
        (mp4(200_000), "video/mp4"),
    ],
)
def test_kinds_whose_length_is_not_read_say_so(data, format):
    assert judged(data) == videos.Video(format)


@pytest.mark.parametrize("data", [b"", b"text and more of it", png(), webp(), mp4()[:-1]])
def test_what_is_no_video_is_refused(data):
    with pytest.raises(BadVideo):
        judged(data)


@given(st.data())
def test_any_bytes_of_a_film_are_judged(data):
    whole = bytearray(mp4())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = judged(bytes(whole))
    except BadVideo:
        return
    assert found.duration_ms is None or 0 < found.duration_ms <= 86_400_000
