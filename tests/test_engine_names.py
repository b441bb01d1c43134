"""No name twice in an object, whatever the model writes."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moongate.upstream.engine_names import Names


def passed(text, cuts=()):
    names, out = Names(), []
    places = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    for start, end in itertools.pairwise(places):
        out.append(names.feed(text[start:end]))
    return "".join([*out, names.rest()])


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=12,
)


@given(VALUES, st.lists(st.integers(0, 500), max_size=6), st.booleans())
def test_an_answer_without_repeated_names_passes_as_it_is(value, cuts, ascii_only):
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert passed(text, cuts) == text


@pytest.mark.parametrize(
    ("said", "sent"),
    [
        ('{"a": 1, "a": 2}', '{"a": 1, "a_2": 2}'),
        ('{"a": 1, "a": 2, "a": 3}', '{"a": 1, "a_2": 2, "a_3": 3}'),
        ('{"a": 1, "a_2": 2, "a": 3}', '{"a": 1, "a_2": 2, "a_3": 3}'),
        ('{"a": {"a": "a"}, "b": {"a": 1}}', '{"a": {"a": "a"}, "b": {"a": 1}}'),
        ('{"a": ["a", "a", {"a": 1, "a": 2}]}', '{"a": ["a", "a", {"a": 1, "a_2": 2}]}'),
        (r'{"\"": 1, "\"": 2}', r'{"\"": 1, "\"_2": 2}'),
        ('{"a": "x", "\\u0061": "y"}', '{"a": "x", "\\u0061_2": "y"}'),
        ('{"a": "{\\"a\\": 1, \\"a\\": 2}"}', '{"a": "{\\"a\\": 1, \\"a\\": 2}"}'),
        ('{"a": 1, "b', '{"a": 1, "b'),
        ("no } json ] at all", "no } json ] at all"),
    ],
)
def test_a_repeated_name_gets_a_number(said, sent):
    for step in (1, 3, 100):
        assert passed(said, range(0, len(said), step)) == sent


def test_a_name_is_held_back_only_until_it_ends():
    names = Names()
    assert names.feed('{"na') == "{"
    assert names.feed('me": "va') == '"name": "va'
    assert names.feed('lue"}') == 'lue"}'
