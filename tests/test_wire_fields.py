"""Reading untrusted JSON: weighed first, parsed once, every complaint exact and mute."""

import json
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from moongate.core.errors import Refused
from moongate.wire import fields


def refused(body: bytes) -> Refused:
    with pytest.raises(Refused) as caught:
        fields.parse(body)
    return caught.value


@pytest.mark.parametrize(
    ("body", "byte"),
    [
        (b"", 0),
        (b"  ", 2),
        (b'{"a":', 5),
        (b'{"a":1} x', 9),
        (b'{"a":NaN}', 5),
        (b'{"a":Infinity}', 5),
        (b'{"a":1e400}', 5),
        (b'{"b":"1e999","a": -1e400}', 18),
        (b'{"a":' + b"1" * 5000 + b"}", 5),
        (b"\xef\xbb\xbf{}", 0),
        (b"{'a':1}", 1),
        (b'{"a":1,}', 7),
        (b'{"a":"\x01"}', 6),
        (b'{"a":"\\u12"}', 11),
    ],
)
def test_invalid_json_names_the_byte(body, byte):
    error = refused(body)
    assert (error.status, error.code, error.param) == (400, "invalid_json", None)
    # The parser counts from the byte it stopped at or the one after it.
    assert error.message in {f"Body is not valid JSON (byte {at})." for at in (byte, byte - 1)}


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":"\xff"}',
        b'{"a":"\xc0\x80"}',
        b'{"a":"\xed\xa0\x80"}',
        b'{"a":"\xf4\x90\x80\x80"}',
        b'{"\xff":1}',
        b'{"a":"\\ud800"}',
        b'{"a":"\\ud800x"}',
        b'{"a":"\\ud800\\u0041"}',
        b'{"a":"\\udc00"}',
        b'{"\\ud800":1}',
        b'{"a":"\\ud800\\ud800"}',
        b'{"a":["\\\\\\ud800"]}',
    ],
)
def test_text_that_is_no_unicode(body):
    assert refused(body).code == "invalid_unicode"


def test_an_escaped_backslash_is_no_surrogate():
    assert fields.parse(b'{"a":"\\\\ud800"}') == {"a": "\\ud800"}
    assert refused(b'{"a":"\\\\ud800"').code == "invalid_json"


@pytest.mark.parametrize("body", [b"[]", b'"x"', b"1", b"null", b"true", b"[[1]]"])
def test_only_an_object_is_a_body(body):
    assert refused(body).code == "invalid_type"


@pytest.mark.parametrize(
    ("body", "code"),
    [(b"[", "invalid_json"), (b'["\xff"]', "invalid_unicode"), (b"[1e400]", "invalid_json")],
)
def test_what_is_no_json_is_told_before_what_is_no_object(body, code):
    assert refused(body).code == code


def test_a_repeated_top_level_key():
    error = refused(b'{"model":"a","messages":[],"mod\\u0065l":"b"}')
    assert (error.code, error.param, error.message) == (
        "duplicate_key",
        "model",
        "Duplicate field.",
    )
    assert refused(b'{"<b>":1,"<b>":2}').param == "?"
    assert fields.parse(b'{"a":{"x":1,"x":2}}') == {"a": {"x": 2}}


def test_large_integers_stay_integers():
    assert fields.parse(b'{"a":1000000000000000000000000000000}') == {"a": 10**30}
    assert type(fields.parse(b'{"a":18446744073709551616}')["a"]) is int


@pytest.mark.parametrize("pair", [b"[]", b"{}"])
def test_depth_64_is_the_deepest(pair):
    def nested(depth: int) -> bytes:
        if pair == b"[]":
            return b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"
        return b'{"a":' * depth + b"1" + b"}" * depth

    assert fields.parse(nested(64))
    assert refused(nested(65)).code == "json_too_complex"
    assert refused(nested(100_000)).code == "json_too_complex"
    assert refused(b"[" * 200_000).code == "json_too_complex"


def test_the_number_of_tokens_is_bounded():
    assert refused(b'{"a":[' + b"1," * 200_001 + b"1]}").code == "json_too_complex"
    assert refused(b'{"a":[' + b'"",' * 200_001 + b'""]}').code == "json_too_complex"
    assert refused(b'"' * 1_000_000).code == "json_too_complex"
    assert fields.parse(b'{"a":[' + b"1," * 199_000 + b"1]}")


def test_structure_inside_strings_is_text():
    text = '[{"x": [1, 2, {"y": "\\\\"}]}, ' * 50_000
    body = json.dumps({"a": text, "b": "\\", "c": ["}"]}).encode()
    assert fields.parse(body)["a"] == text


def test_very_many_quotes_may_stand_in_one_string():
    text = '["\\\\"]' * 250_000
    assert fields.parse(json.dumps({"a": text, "b": [["["]]}).encode())["a"] == text
    deep = '{"a":' + json.dumps(text) + ',"b":' + "[" * 64 + "]" * 64 + "}"
    assert refused(deep.encode()).code == "json_too_complex"


@given(
    st.recursive(
        st.none() | st.integers() | st.text(alphabet='"\\[]{}:,a\u2028'),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(alphabet='"\\[{'), inner),
    ),
    st.sampled_from([70, 200_000]),
)
@example(["\\", '"[', '\\"'] * 30, 70)
@example(["\\", '"[', '\\"'] * 30, 200_000)
def test_the_exact_scan_sees_what_the_parser_sees(value, pad):
    def depth(inner: object) -> int:
        if isinstance(inner, dict):
            return 1 + max(map(depth, inner.values()), default=0)
        if isinstance(inner, list):
            return 1 + max(map(depth, inner), default=0)
        return 0

    # Brackets in a string force the exact scan, few or many quotes a kilobyte its two ways.
    wrapped: object = value
    for _ in range(60):
        wrapped = [wrapped]
    body = json.dumps({"pad": "[" * pad, "v": wrapped}).encode()
    if depth(value) + 61 > fields.DEPTH_MAX:
        assert refused(body).code == "json_too_complex"
    else:
        assert fields.parse(body)["v"] == wrapped


def test_weighing_is_linear():
    for body in (b'{"a":"' + b"x" * 8_000_000 + b'"}', b"\\" * 4_000_000, b'\\"' * 4_000_000):
        start = time.process_time()
        fields.weigh(body)
        assert time.process_time() - start < 2


def test_refusals_never_repeat_the_input():
    secret = "c4n4ry"
    for body in (
        f'{{"{secret}":1,"{secret} ":2,"{secret} ":3}}',
        f'{{"a":"{secret}',
        f"{secret}",
        f'{{"a":1e{secret}}}',
    ):
        error = refused(body.encode())
        assert secret not in json.dumps(error.body())
        assert secret not in repr(error)
        assert error.__cause__ is None


def test_the_readers_name_the_field():
    def complaint(call):
        with pytest.raises(Refused) as caught:
            call()
        return caught.value.code, caught.value.param, caught.value.message

    at = "messages[3]"
    assert complaint(lambda: fields.string({"name": 1}, "name", at)) == (
        "invalid_type",
        "messages[3].name",
        "name must be a string.",
    )
    assert complaint(lambda: fields.flag({"stream": 1}, "stream"))[1:] == (
        "stream",
        "stream must be true or false.",
    )
    assert complaint(lambda: fields.word(["x"], ("a", "b"), "t.type")) == (
        "invalid_value",
        "t.type",
        "type must be one of a, b.",
    )
    assert complaint(lambda: fields.entry(3, "tools[1]"))[1:] == (
        "tools[1]",
        "tools[1] must be an object.",
    )
    assert complaint(lambda: fields.items({"x": {}}, "x"))[2] == "x must be an array."
    assert complaint(lambda: fields.table({"x": []}, "x"))[2] == "x must be an object."
    assert fields.string({"name": None}, "name") is None
    assert fields.number({"t": 1}, "t", 0, 2) == 1.0
