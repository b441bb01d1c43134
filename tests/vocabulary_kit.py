"""A small vocabulary in tiktoken's format, in place of the one that comes with the weights."""

import base64
from pathlib import Path

from moongate.meter.tokenizer import Tokenizer, load

MERGED = (
    *(b"th", b"the", b" the", b"mo", b"moo", b"moon", b" moon", b"us", b"er", b"user", b"in"),
    *(b"ing", b"  ", b"return", b"\xe6\x9c", b"\xe6\x9c\x88"),
)
"""Tokens of several bytes, each made of two shorter ones, but for ``return``: it is used where it
stands alone."""
SIZE = 256 + len(MERGED) + 256


def lines() -> list[str]:
    tokens = [bytes([byte]) for byte in range(256)] + list(MERGED)
    return [f"{base64.b64encode(token).decode()} {rank}" for rank, token in enumerate(tokens)]


def vocabulary(folder: Path) -> Path:
    """The file, in ``folder``."""
    file = folder / "tiktoken.model"
    file.write_text("\n".join(lines()) + "\n")
    return file


def small_tokenizer(folder: Path) -> Tokenizer:
    return load(str(vocabulary(folder)), "models[0].tokenizer")
