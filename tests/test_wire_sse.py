"""Server-sent events: the standard's framing, whatever the chunking."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moongate.core.errors import UpstreamProtocolError
from moongate.wire.sse import DONE, DONE_FRAME, HEARTBEAT, Events, frame


def test_a_frame_comes_back():
    assert Events().feed(frame(b'{"a":1}') + HEARTBEAT + DONE_FRAME) == [b'{"a":1}', DONE]


@pytest.mark.parametrize("payload", [b"a\nb", b"a\rb", b"data: x\n\n"])
def test_a_payload_cannot_forge_an_event(payload):
    with pytest.raises(ValueError, match="line end"):
        frame(payload)


@pytest.mark.parametrize(
    ("wire", "payloads"),
    [
        (b"data: a\n\ndata: b\n\n", [b"a", b"b"]),
        (b"data:a\r\n\r\ndata:b\r\n\r\n", [b"a", b"b"]),
        (b"data: a\r\rdata: b\r\r", [b"a", b"b"]),
        (b"data: a\ndata: b\n\n", [b"a\nb"]),
        (b"data:  a\n\n", [b" a"]),
        (b": note\n\ndata: a\n: note\nid: 7\nevent: x\nretry: 1\n\n", [b"a"]),
        (b"\n\n\n\ndata: a\n\n\n\n", [b"a"]),
        (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
        (b"data\n\n", [b""]),
        (b"data: \n\n", [b""]),
        ('data: {"x":"\u2028\u2029\x85\x0b\x0c\x1e"}\n\n'.encode(), None),
        (b"data: a\n\ndata: cut", [b"a"]),
    ],
)
def test_the_standard_whatever_the_chunking(wire, payloads):
    if payloads is None:
        payloads = [wire[6:-2]]
    assert Events().feed(wire) == payloads
    for step in (1, 2, 3, 5):
        events = Events()
        got = []
        for at in range(0, len(wire), step):
            got += events.feed(wire[at : at + step])
        assert got == payloads, step


@given(
    st.lists(st.binary(max_size=20).map(lambda b: b.replace(b"\r", b"").replace(b"\n", b""))),
    st.sampled_from([b"\n", b"\r\n", b"\r"]),
    st.lists(st.integers(0, 200), max_size=8),
)
def test_any_cut_gives_the_same_payloads(payloads, end, cuts):
    wire = b"".join(b"data: " + payload + end + b": c" + end + end for payload in payloads)
    events = Events()
    got = []
    last = 0
    for cut in [*sorted(cut for cut in cuts if cut < len(wire)), len(wire)]:
        got += events.feed(wire[last:cut])
        last = cut
    assert got == payloads
    assert events.close() is None


def test_a_torn_crlf_is_one_line_end():
    events = Events()
    assert events.feed(b"data: a\r") == []
    assert events.feed(b"\n\r") == [b"a"]
    assert events.feed(b"\ndata: b\r\n\r\n") == [b"b"]

    events = Events()
    assert events.feed(b"data: a\r") == []
    assert events.feed(b"\ndata: b\r\n\r\n") == [b"a\nb"]


def test_an_unfinished_event_is_told_at_the_close():
    events = Events()
    assert events.feed(b"data: a\n\ndata: [DONE]\n") == [b"a"]
    assert events.close() == DONE
    assert events.close() is None


def test_an_event_has_a_largest_size():
    for wire in (b"data: " + b"x" * 100, b"data: " + b"x" * 100 + b"\n\n", b"a\n" * 60 + b"\n"):
        with pytest.raises(UpstreamProtocolError) as caught:
            Events(event_bytes_max=64).feed(wire)
        assert caught.value.kind == "event_size"
    events = Events(event_bytes_max=64)
    assert events.feed(b"x" * 64) == []
    with pytest.raises(UpstreamProtocolError):
        events.feed(b"x")


@pytest.mark.parametrize(
    "wire",
    [
        b'\x00{data: {"a":1}\n\n',
        b'data: {"a":1}\nrest\n\n',
        b"xdata: a\n\n",
        b"Data: a\n\n",
        b'id: 7data: {"a":1}\n\n',
        b': notedata: {"a":1}\n\n',
    ],
)
def test_a_line_that_is_no_field_is_never_skipped(wire):
    with pytest.raises(UpstreamProtocolError) as caught:
        Events().feed(b"data: before\n\n" + wire)
    assert caught.value.kind == "line"


def test_a_torn_end_mark_is_no_end_mark():
    events = Events()
    assert events.feed(b"xdata: [DONE]\n") == []
    assert events.close() is None
