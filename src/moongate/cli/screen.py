"""How answers look: tables for people, JSON for scripts, dollars and times in words."""

import json
import os
import sys
import textwrap
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import click
from rich.console import Console
from rich.table import Table

from moongate.cli.line import Refusal

_WIDE = 200
"""Columns of a table that goes to a file or a pipe, where nothing needs to be folded."""

Justify = Literal["left", "right"]


def console(*, err: bool = False) -> Console:
    """A console that honours NO_COLOR and the terminal's width."""
    stream = sys.stderr if err else sys.stdout
    width = None if stream.isatty() else _WIDE
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False)


def as_json(value: Any) -> str:
    """``value`` as JSON, indented."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def show_json(value: Any) -> None:
    """Print ``value`` as JSON."""
    click.echo(as_json(value))


def save(path: Path, text: str) -> None:
    """Write a file. Raises Refusal with what the system says."""
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise Refusal(f"{path}: {(error.strerror or 'unwritable').lower()}.") from None


def show_table(
    columns: Sequence[tuple[str, Justify]], rows: Iterable[Sequence[str]], *, foot: bool = False
) -> None:
    """A table without lines; with ``foot`` the last row is set off as the total."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    for at, (name, justify) in enumerate(columns):
        table.add_column(name, justify=justify, overflow="fold", no_wrap=at == 0)
    listed = [list(row) for row in rows]
    for at, row in enumerate(listed):
        table.add_row(*row, style="bold" if foot and at == len(listed) - 1 else None)
    console().print(table)


def usd(text: str) -> str:
    """An exact amount with its sign: ``$0.0048``, ``-$1.00``."""
    return f"-${text[1:]}" if text.startswith("-") else f"${text}"


def aligned(amounts: Sequence[str]) -> list[str]:
    """Exact amounts below each other: as many decimals as the finest of them has."""
    places = max((len(text.partition(".")[2]) for text in amounts), default=0)
    return [text + "0" * (places - len(text.partition(".")[2])) for text in amounts]


def minute(at_ms: int | None) -> str:
    """A moment in UTC to the minute; ``-`` for none."""
    if at_ms is None:
        return "-"
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")


def day(at_ms: int) -> str:
    """A day in UTC."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d")


def tokens(count: int) -> str:
    """A count with thin groups: ``262,144``."""
    return f"{count:,}"


def show_pair(name: str, text: str, *, indent: int | None = None) -> None:
    """A name and its text, folded under itself; ``indent``: the name's width where marked up."""
    width = len(name) if indent is None else indent
    lines = textwrap.wrap(
        text, max(20, console().width - width), break_long_words=False, break_on_hyphens=False
    )
    for at, line in enumerate(lines or [""]):
        click.echo((name if at == 0 else " " * width) + line)


def show_folded(line: str) -> None:
    """A line, folded under itself on a terminal and left whole elsewhere."""
    indent = " " * (len(line) - len(line.lstrip()))
    if sys.stdout.isatty():
        show_pair(indent, line.lstrip())
    else:
        click.echo(line)


def colours(*, err: bool = False) -> bool:
    """Whether stdout, or stderr, is a terminal that wants colours."""
    stream = sys.stderr if err else sys.stdout
    return stream.isatty() and not os.environ.get("NO_COLOR")


def show_note(text: str) -> None:
    """A remark, folded on a terminal and set off from what it belongs to."""
    show_pair("  ! ", text)
    sys.stdout.flush()
