"""The operator's vocabulary: how it splits and merges text, and what is said of a wrong file."""

import random
import sys
from pathlib import Path

import pytest

from moongate.core.errors import ConfigurationError
from moongate.meter import tokenizer as module
from moongate.meter.output import HELD_CHARS, Output
from moongate.meter.tokenizer import Tokenizer, load
from vocabulary_kit import SIZE, lines, small_tokenizer, vocabulary

KEY = "models[0].tokenizer"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return small_tokenizer(tmp_path_factory.mktemp("vocabulary"))


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", 0),
        ("the", 1),
        ("the moon", 2),
        ("the moons", 3),
        ("moothe", 2),
        ("tthe", 2),
        ("the\n\nmoon", 4),
        # Digits are taken by three, white space stays behind but for one blank.
        ("12345", 5),
        ("in   the", 3),
        # Han is split from other letters; in this vocabulary one of them is one token.
        ("\u6708the", 2),
        ("\u6708\u6708", 2),
        ("\u65e5", 3),
        ("\U0001f319", 4),
        # Spelt control tokens are so many characters.
        ("<|im_end|>", 10),
        ("[EOS]", 5),
        ("<think>", 5),
    ],
)
def test_text_is_split_and_merged(small: Tokenizer, text: str, tokens: int) -> None:
    assert small.count(text) == tokens


def test_it_tells_its_size_and_its_longest_token(small: Tokenizer) -> None:
    assert (small.size, small.longest) == (SIZE, len("return"))
    assert [small.least(n) for n in (0, 1, 6, 7)] == [0, 1, 1, 2]
    assert repr(small) == f"Tokenizer({SIZE} tokens)"


def walk(text: str) -> list[str]:
    """Where long text is cut, one character after the other: the reference."""
    pieces = []
    for at in range(0, len(text), module.AT_ONCE):
        part, start, run = text[at : at + module.AT_ONCE], 0, 0
        for i, char in enumerate(part):
            same = i > 0 and char.isspace() == part[i - 1].isspace()
            run = run + 1 if same else 1
            if run > module._RUN:
                pieces.append(part[start:i])
                start, run = i, 1
        pieces.append(part[start:])
    return [piece for piece in pieces if piece]


def test_long_text_is_cut_where_the_reference_cuts() -> None:
    rng = random.Random(20)
    lengths = (1, 3, 24_999, 25_000, 25_001, 50_000, 60_001)
    for _ in range(12):
        text = "".join(rng.choice("ax\u6708 \n\u00a0") * rng.choice(lengths) for _ in range(9))
        assert list(module._pieces(text)) == walk(text)


@pytest.mark.parametrize("text", ["a" * 300_000, " " * 300_000, "\u6708" * 100_000, "!a" * 90_000])
def test_odd_text_is_counted_whole(small: Tokenizer, text: str) -> None:
    assert small.count(text) == sum(len(small._encode(piece)) for piece in walk(text))


def test_two_files_of_one_vocabulary_count_alike(small: Tokenizer, tmp_path: Path) -> None:
    file = vocabulary(tmp_path)
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    assert load(str(file), KEY, SIZE).count("the moon in the moon") == 6


WRONG = {
    "no vocabulary": b"hello\n",
    "an empty file": b"",
    "a page instead": b"<!doctype html>\n<html></html>\n",
    "cut inside a line": "\n".join(lines()).encode(),
    "cut inside a token": "\n".join(lines()[:-3]).encode()[:-6] + b"\n",
    "cut between lines": ("\n".join(lines()[:200]) + "\n").encode(),
    "a rank twice": ("\n".join([*lines(), "Zm9v 3"]) + "\n").encode(),
    "a token twice": ("\n".join([*lines(), f"dGg= {len(lines())}"]) + "\n").encode(),
    "a gap": ("\n".join([*lines(), f"Zm9v {len(lines()) + 1}"]) + "\n").encode(),
    "a rank that is none": ("\n".join([*lines(), "Zm9v -1"]) + "\n").encode(),
    "another alphabet": b"\x00\xff\xfe 0\n",
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_file_is_refused_by_the_name_of_its_setting(tmp_path: Path, what: str) -> None:
    file = tmp_path / "tiktoken.model"
    file.write_bytes(WRONG[what])
    with pytest.raises(ConfigurationError, match=r"models\[0\]\.tokenizer is not the model's"):
        load(str(file), KEY)


def test_a_file_of_another_size_is_refused(tmp_path: Path) -> None:
    file = vocabulary(tmp_path)
    with pytest.raises(ConfigurationError, match=f"it has {SIZE} tokens, and the model has 163840"):
        load(str(file), KEY, 163_840)
    assert load(str(file), KEY, SIZE).size == SIZE


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(ConfigurationError, match=r"models\[0\]\.tokenizer cannot be read"):
            load(str(path), KEY)


def test_a_file_that_is_no_vocabulary_by_its_size_is_not_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FILE_BYTES_MAX", 100)
    with pytest.raises(ConfigurationError, match="too large"):
        load(str(vocabulary(tmp_path)), KEY)


def test_without_the_package_the_operator_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    with pytest.raises(ConfigurationError, match=r"pip install moongate\[tokenizer\]"):
        load(str(vocabulary(tmp_path)), KEY)


def test_an_answer_is_counted_as_its_joined_text_and_little_of_it_is_kept(small: Tokenizer) -> None:
    rng = random.Random(5)
    text = " ".join(rng.choice(("the", "moon", "in", "12", "x,", "\u6708")) for _ in range(30_000))
    output = Output(small)
    at = 0
    while at < len(text):
        step = rng.randint(1, 40)
        output.add("said", text[at : at + step])
        at += step
        assert output._sizes["said"] <= HELD_CHARS
    output.add("thought", "the moon")
    assert output.tokens() == small.count(text) + 2
    assert output.tokens() == small.count(text) + 2  # looking changes nothing
    assert "moon" not in repr(output)


def test_an_answer_without_any_space_is_off_by_no_more_than_its_cuts(small: Tokenizer) -> None:
    text = "\u6708moon" * 20_000
    output = Output(small)
    output.add(0, text)
    assert 0 <= output.tokens() - small.count(text) <= 3 * (len(text) // 2_048)
    assert output._sizes[0] <= HELD_CHARS
