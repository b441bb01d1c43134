"""What `moongate ask` sends along: text files under their names, pictures as bytes, a schema."""

import binascii
import json
import sys
from pathlib import Path
from typing import Any, Final

import click

from moongate.wire import pictures

_STDIN: Final = "-"
_PICTURE_BYTES_MAX: Final = 16 << 20


def packed(
    prompt: str, files: tuple[Path, ...], images: tuple[str, ...]
) -> str | list[dict[str, Any]]:
    """The message: text alone, or pictures and text. Raises UsageError."""
    if [prompt, *images].count(_STDIN) > 1:
        raise click.UsageError('Only one of PROMPT and --image can be "-": stdin is read once.')
    text = _text(prompt, files)
    if not images:
        return text
    shown = [{"type": "image_url", "image_url": {"url": _picture(image)}} for image in images]
    return [*shown, {"type": "text", "text": text}]


def schema(file: Path | None) -> dict[str, Any]:
    """The field that asks for JSON of the schema in ``file``; none without one."""
    if file is None:
        return {}
    try:
        read = json.loads(file.read_bytes())
    except (ValueError, OSError):
        raise click.UsageError(f"{file} is not a JSON file.") from None
    if not isinstance(read, dict):
        raise click.UsageError(f"{file} holds no JSON schema: an object is wanted.")
    made = {"name": "answer", "schema": read, "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": made}}


def _text(prompt: str, files: tuple[Path, ...]) -> str:
    """The prompt behind the files' text, each under its name."""
    if prompt == _STDIN:
        prompt = sys.stdin.read()
    if not prompt.strip():
        raise click.UsageError("The prompt is empty.")
    parts = []
    for file in files:
        try:
            parts.append(f"--- {file} ---\n{file.read_text(encoding='utf-8')}")
        except UnicodeDecodeError:
            raise click.UsageError(f"{file} is not UTF-8 text.") from None
        except OSError as error:
            raise click.UsageError(f"{file}: {(error.strerror or 'unreadable')}.") from None
    return "\n\n".join([*parts, prompt])


def _picture(image: str) -> str:
    """A picture's address: the server's to fetch, or a file's bytes."""
    if image.lower().startswith(("http://", "https://", "data:", "ms://")):
        return image
    name = "stdin" if image == _STDIN else image
    try:
        if image == _STDIN:
            data = sys.stdin.buffer.read(_PICTURE_BYTES_MAX + 1)
        else:
            with Path(image).open("rb") as file:
                data = file.read(_PICTURE_BYTES_MAX + 1)
    except OSError as error:
        raise click.UsageError(f"{name}: {(error.strerror or 'unreadable')}.") from None
    kind = pictures.kind(data[:16])
    if kind is None:
        raise click.UsageError(f"{name} is no PNG, JPEG, WebP or GIF picture.")
    if len(data) > _PICTURE_BYTES_MAX:
        raise click.UsageError(f"{name} is larger than {_PICTURE_BYTES_MAX >> 20} MiB.")
    return f"data:image/{kind};base64,{binascii.b2a_base64(data, newline=False).decode()}"
