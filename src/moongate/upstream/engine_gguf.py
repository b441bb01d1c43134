"""The few facts that we read from a model file's own header before anything loads it.

The format is GGUF version 2 and 3 (ggml's ``docs/gguf.md``): magic, version, counts, then
key-value pairs, little-endian. Reading stops at the facts; tensors and vocabulary are skipped.
"""

import struct
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec

_MAGIC: Final = b"GGUF"
_STRING: Final = 8
_ARRAY: Final = 9
_SCALARS: Final = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
_PAIRS_MAX: Final = 4096
_BYTES_MAX: Final = 1 << 26


class Header(msgspec.Struct, frozen=True):
    """A model's architecture, its name, and the window (tokens) that it was trained for."""

    architecture: str
    name: str
    window: int | None


def read_header(path: Path) -> Header:
    """Read ``path``. Raises ValueError when it is no GGUF file, OSError when it cannot be read."""
    with path.open("rb") as file:
        if file.read(4) != _MAGIC:
            raise ValueError("not a GGUF file")
        version = _scalar(file, "<I")
        if version not in (2, 3):
            raise ValueError("a GGUF version that is not known")
        _scalar(file, "<Q")
        found: dict[str, Any] = {}
        for _ in range(min(_scalar(file, "<Q"), _PAIRS_MAX)):
            key = _text(file)
            value = _value(file, _scalar(file, "<I"))
            if key in ("general.architecture", "general.name") or key.endswith(".context_length"):
                found[key] = value
            if key.startswith("tokenizer."):
                break
    architecture = str(found.get("general.architecture", ""))
    window = found.get(f"{architecture}.context_length")
    return Header(
        architecture=architecture,
        name=str(found.get("general.name", "")),
        window=window if isinstance(window, int) and window > 0 else None,
    )


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _text(file)
    if kind != _ARRAY:
        return _scalar(file, _form(kind))
    inner, count = _scalar(file, "<I"), _scalar(file, "<Q")
    if inner == _STRING:
        for _ in range(count):
            _text(file)
    else:
        _bytes(file, count * struct.calcsize(_form(inner)))
    return None


def _form(kind: int) -> str:
    if kind not in _SCALARS:
        raise ValueError("a value of a kind that is not known")
    return _SCALARS[kind]


def _text(file: BinaryIO) -> str:
    return _bytes(file, _scalar(file, "<Q")).decode("utf-8", "replace")


def _scalar(file: BinaryIO, form: str) -> Any:
    return struct.unpack(form, _bytes(file, struct.calcsize(form)))[0]


def _bytes(file: BinaryIO, count: int) -> bytes:
    if count > _BYTES_MAX:
        raise ValueError("a length that cannot be")
    data = file.read(count)
    if len(data) != count:
        raise ValueError("the file ends within its header")
    return data
