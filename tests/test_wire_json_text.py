"""JSON in pieces of any size: one value, where it ends, and the first character that is wrong."""

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moongate.wire.json_text import DEPTH_MAX, JsonText

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=10,
)  # fmt: skip


def read(text, cuts=()):
    """(characters taken, whole) of a text cut at ``cuts``."""
    reader, taken = JsonText(), 0
    edges = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    for start, end in itertools.pairwise(edges):
        count = reader.feed(text[start:end])
        taken += count
        if count < end - start:
            break
    return taken, reader.close()


@settings(max_examples=500, deadline=None)
@given(VALUES, st.lists(st.integers(0, 1 << 20)), st.booleans(), st.sampled_from([None, 2]))
def test_whatever_is_json_is_taken_however_it_is_cut(value, cuts, ascii_only, indent):
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    assert read(text, cuts) == (len(text), True)
    assert read(text, range(len(text))) == (len(text), True)


@settings(max_examples=500, deadline=None)
@given(VALUES, st.integers(0, 1 << 20), st.text(alphabet=',:{}[]"\\x1-.e \n', max_size=3))
def test_what_is_not_json_is_not_whole(value, at, put):
    text = json.dumps(value)
    at %= len(text) + 1
    spoilt = text[:at] + put + text[at + 1 :]
    try:
        json.loads(spoilt)
        good = True
    except ValueError:
        good = False
    taken, whole = read(spoilt)
    assert (taken == len(spoilt) and whole) or not good or spoilt[taken:].strip() == ""
    if taken == len(spoilt):
        assert whole is good


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ('{"a": 1} and more', 8),
        ("[1, 2]]", 6),
        ('"a" "b"', 3),
        ("{name: 1}", 1),
        ("{'a': 1}", 1),
        ('{"a": 1,}', 8),
        ("[1,]", 3),
        ("[1 2]", 3),
        ('{"a" 1}', 5),
        ('{"a": tru}', 6),
        ("[01]", 1),
        ("[+1]", 1),
        ("[NaN]", 1),
        ("[1.]", 1),
        ('["a\nb"]', 3),
        (r'["\x"]', 3),
        (r'["\u12g4"]', 6),
        ("}", 0),
        ("Sure", 0),
        ("12 ", 2),
    ],
)
def test_it_stops_at_the_first_wrong_character_or_at_the_end(text, taken):
    assert read(text)[0] == taken
    assert read(text, range(len(text)))[0] >= taken


def test_depth_is_bounded():
    assert read("[" * DEPTH_MAX + "]" * DEPTH_MAX)[1]
    assert read("[" * (DEPTH_MAX + 1) + "]" * (DEPTH_MAX + 1)) == (DEPTH_MAX, False)


@pytest.mark.parametrize("text", ["", " ", "{", '"a', "tru", "-", "1e", "[1,"])
def test_what_was_cut_short_is_not_whole(text):
    taken, whole = read(text)
    assert (taken, whole) == (len(text), False)
