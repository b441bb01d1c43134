"""Kimi's tokenizer, from the vocabulary file that comes with the weights (``tiktoken.model``).

A line of the file is a token in base64 and its rank. Text is split by Kimi's pattern and every part
merged by rank. Text is always encoded as ordinary text: a control token's spelling in a message is
so many characters. Control tokens have ids behind the ranks; whoever renders them counts them.

Very long text is cut as Kimi's own tokenizer cuts it, which also bounds what one part can cost.
"""

import base64
import binascii
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from moongate.core.errors import ConfigurationError

SPECIALS: Final = 256
"""Ids of control tokens, behind the ranks."""
FILE_BYTES_MAX: Final = 64 << 20
_TOKENS_MAX: Final = 1 << 20

_LETTER: Final = r"[^\r\n\p{L}\p{N}]?"
_UPPER: Final = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"
_LOWER: Final = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"
_SHORT: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
PATTERN: Final = "|".join(
    (
        r"[\p{Han}]+",
        f"{_LETTER}{_UPPER}*{_LOWER}+{_SHORT}",
        f"{_LETTER}{_UPPER}+{_LOWER}*{_SHORT}",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)
"""How text is split before merging: a fact of the vocabulary, in tiktoken's regex dialect."""

AT_ONCE: Final = 400_000
"""Characters that are encoded at once."""
_RUN: Final = 25_000
"""Characters of white space, or of anything else, that may follow each other uncut."""
_PIECE: Final = re.compile(
    # Runs that are short enough, as many as there are, then the first part of one that is not.
    rf"(?:\S{{1,{_RUN}}}+(?!\S)|\s{{1,{_RUN}}}+(?!\s))*+(?:\S{{{_RUN}}}|\s{{{_RUN}}})?"
)


class Tokenizer:
    """Counts tokens. ``longest`` is the size of the largest token in bytes; thread-safe.

    ``encode`` takes ordinary text and gives its token ids.
    """

    def __init__(self, encode: Callable[[str], list[int]], size: int, longest: int) -> None:
        self._encode = encode
        self.size, self.longest = size, longest

    def __repr__(self) -> str:
        return f"Tokenizer({self.size} tokens)"

    def count(self, text: str) -> int:
        """Tokens of ``text``."""
        if len(text) <= _RUN:
            return len(self._encode(text))
        return sum(len(self._encode(piece)) for piece in _pieces(text))

    def least(self, size: int) -> int:
        """Tokens that ``size`` bytes of text take at least."""
        return -(-size // self.longest)


def slices(text: str) -> Iterator[str]:
    """``text`` in parts of :data:`AT_ONCE` characters."""
    for at in range(0, len(text), AT_ONCE):
        yield text[at : at + AT_ONCE]


def _pieces(text: str) -> Iterator[str]:
    for part in slices(text):
        # The pattern holds the interpreter lock for long, and few texts need it.
        if _may_run_long(part):
            yield from filter(None, _PIECE.findall(part))
        else:
            yield part


def _may_run_long(part: str) -> bool:
    """Whether a stretch of ``part`` is all white space or has none; every long run covers one."""
    stretch = _RUN // 2
    stretches = (part[at : at + stretch] for at in range(0, len(part) - stretch + 1, stretch))
    return any(text.isspace() or len(text.split(None, 1)[0]) == stretch for text in stretches)


def load(path: str, key: str, size: int | None = None) -> Tokenizer:
    """The tokenizer of the file at ``path``; ``size`` is the model's vocabulary where it is known.

    Raises ConfigurationError naming ``key``, the setting that names the file.
    """
    try:
        # Only who has such a file needs the package, which the plain install leaves out.
        import tiktoken  # noqa: PLC0415 - see above
    except ModuleNotFoundError:
        raise ConfigurationError(
            f"{key} names a tokenizer; the package for it is not installed. "
            "Install it: pip install moongate[tokenizer]"
        ) from None
    ranks = _ranks(_read(path, key), key)
    if size is not None and len(ranks) + SPECIALS != size:
        what = f"with its {SPECIALS} control tokens it has {len(ranks) + SPECIALS} tokens"
        raise _wrong(key, f"{what}, and the model has {size}")
    encoding = tiktoken.Encoding(
        "kimi",
        pat_str=PATTERN,
        mergeable_ranks=ranks,
        special_tokens={f"<|{id}|>": id for id in range(len(ranks), len(ranks) + SPECIALS)},
    )
    return Tokenizer(encoding.encode_ordinary, len(ranks) + SPECIALS, max(map(len, ranks)))


def _read(path: str, key: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        why = (error.strerror or "unreadable").lower()
        raise ConfigurationError(f"{key} cannot be read: {why}.") from None
    if len(data) > FILE_BYTES_MAX:
        raise ConfigurationError(f"{key} is too large for a vocabulary.")
    return data


def _ranks(data: bytes, key: str) -> dict[bytes, int]:
    """Token -> rank. What is missing from a file that was cut shows in the last line or the ranks.

    Every single byte must be a token, else there is text that cannot be encoded; ranks run from 0
    without a gap, else the control tokens behind them have other ids.
    """
    ranks: dict[bytes, int] = {}
    lines = data.split(b"\n")
    if lines.pop() or not lines:
        raise _wrong(key, "its last line is cut off" if lines else "it is empty")
    for number, line in enumerate(lines, 1):
        token, _, rank = line.strip().partition(b" ")
        try:
            text = base64.b64decode(token, validate=True)
            place = int(rank) if rank.isdigit() else -1
        except (binascii.Error, ValueError):
            text, place = b"", -1
        if not text or place != len(ranks) or text in ranks or place >= _TOKENS_MAX:
            raise _wrong(key, f"line {number} is no token with the next rank")
        ranks[text] = place
    if any(bytes([byte]) not in ranks for byte in range(256)):
        raise _wrong(key, "it lacks tokens for single bytes")
    return ranks


def _wrong(key: str, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"{key} is not the model's vocabulary in tiktoken's format: {why}. "
        "Take tiktoken.model from the model's repository again."
    )
