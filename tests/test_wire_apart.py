"""Data URLs taken out before a body is parsed: never seen by anybody, whatever the body is."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moongate.core.errors import Refused
from moongate.wire import apart, fields

URL = "data:image/png;base64," + "QUJD" * 100


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A data URL is long from thirty characters on."""
    monkeypatch.setattr(apart, "WORTH", 0)
    monkeypatch.setattr(apart, "LONG", 30)


def said(body: bytes) -> Any:
    """What ``body`` is read as, or the refusal."""
    try:
        return fields.parse(body)
    except Refused as error:
        return error.code, error.args


def whole(body: bytes) -> Any:
    """The same where nothing is taken out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(apart, "WORTH", 1 << 30)
        return said(body)


def test_what_is_parsed_is_short() -> None:
    parts = [{"type": "image_url", "image_url": {"url": URL + str(at)}} for at in range(30)]
    body = {"messages": [{"role": "user", "content": parts}], "other": [URL, {"deep": [URL]}]}
    data = json.dumps(body).encode()
    rest, taken = apart.take(data)
    assert len(rest) < len(data) // 2
    assert b"QUJD" not in rest
    assert list(taken.values()) == [*(URL + str(at) for at in range(30)), URL, URL]
    assert fields.parse(data) == body


ODD = [
    b'{"a":"%s"}',
    b'{"a" :\n"%s"\t}',
    b'{"%s":1}',
    b'{"%s" \n\r\t :1}',
    b'{"a":{"%s":"%s"}}',
    b'{"a":["%s","%s"]}',
    b'{"a":"%s","a":1}',
    b'{"%s":1,"%s":2}',
    b'{"a":"x"%s"}',
    b'{"a":"%s""%s"}',
    b'{"a":"x\\"%s"}',
    b'{"a":"x\\\\"%s"}',
    b'{"a":"%s',
    b'{"a":"%s\\n"}',
    b'{"a":"%s\\"}',
    b'{"a":"%s\n"}',
    b'{"a":"%s\x7f"}',
    b'{"a":"%s\xc3\xa9"}',
    b'{"a":"%s\xff"}',
    b'{"a":"%s\\ud800"}',
    b'["%s"]',
    b'"%s"',
    b'%s"%s"',
    b'{"a":"%s",}',
]


@pytest.mark.parametrize("form", ODD)
def test_a_body_means_the_same_and_is_refused_alike(form: bytes) -> None:
    body = form.replace(b"%s", URL.encode())
    assert said(body) == whole(body)


@given(st.data())
def test_any_mixture_of_pieces_is_read_alike(data: Any) -> None:
    url = "data:image/png;base64,QUJDQUJDQUJDQUJD"
    piece = st.sampled_from([url, '"', "\\", ":", ",", "{", "}", "[", "]", " ", "a", "\n", "é"])
    text = "".join(data.draw(st.lists(piece, max_size=12)))
    value = data.draw(st.recursive(st.sampled_from([url, text]), lambda v: st.lists(v, max_size=3)))
    for body in (
        ('{"a":' + text + "}").encode(),
        ('{"a":"' + text + '"}').encode(),
        json.dumps({"a": value, text: 1}, ensure_ascii=False).encode(),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(apart, "WORTH", 0)
            patch.setattr(apart, "LONG", 30)
            found = said(body)
        assert found == whole(body)


def test_after_many_short_ones_the_rest_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "PASSED_MAX", 3)
    few, many = ([URL, *["data:,"] * count, URL + "="] for count in (2, 3))
    assert list(apart.take(json.dumps(few).encode())[1].values()) == [URL, URL + "="]
    assert list(apart.take(json.dumps(many).encode())[1].values()) == [URL]
    assert fields.parse(json.dumps({"a": many}).encode()) == {"a": many}
