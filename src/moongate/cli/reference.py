"""The command and settings references, made out of the commands and the settings themselves."""

import json
from collections.abc import Iterator

import click
import msgspec
from msgspec import inspect as kinds

from moongate.cli.commands import moongate
from moongate.settings import Settings
from moongate.settings.read import described, expected, fields, join, plain

_WIDTH = 80


def commands() -> Iterator[str]:
    """A heading and the help of each command, in the order of ``moongate --help``."""
    yield from _command(moongate, None, "moongate")


def _command(command: click.Command, parent: click.Context | None, name: str) -> Iterator[str]:
    context = click.Context(
        command,
        parent,
        name,
        terminal_width=_WIDTH,
        max_content_width=_WIDTH,
        help_option_names=["-h", "--help"],
    )
    yield f"\n## {context.command_path}\n"
    for line in command.get_help(context).splitlines():
        yield f"    {line}".rstrip()
    if isinstance(command, click.Group):
        for inner in command.list_commands(context):
            found = command.get_command(context, inner)
            assert found is not None
            yield from _command(found, context, inner)


def settings() -> Iterator[str]:
    """A table for each table of the file: key, what it takes, default, meaning."""
    for name, field in fields(Settings).items():
        kind = plain(field.type)
        several = isinstance(kind, kinds.VarTupleType)
        inner = kind.item_type if isinstance(kind, kinds.VarTupleType) else kind
        assert isinstance(inner, kinds.StructType)
        yield from _table(inner.cls, name, several=several)


def _table(table: type[msgspec.Struct], path: str, *, several: bool) -> Iterator[str]:
    yield f"\n### {f'[[{path}]]' if several else f'[{path}]'}\n"
    yield "| Key | Takes | Default | What it is |"
    yield "|---|---|---|---|"
    nested = []
    for name, field in fields(table).items():
        kind = plain(field.type)
        inside = kind.item_type if isinstance(kind, kinds.VarTupleType) else kind
        if isinstance(inside, kinds.StructType):
            nested.append((inside.cls, join(path, name), inside is not kind))
        takes = expected(field.type).replace("|", "\\|")
        yield f"| `{name}` | {takes} | {_default(field)} | {described(field)} |"
    for inner, where, is_list in nested:
        yield from _table(inner, where, several=is_list)


def _default(field: kinds.Field) -> str:
    if field.required:
        return "required"
    if field.default is None:
        return "none"
    if not isinstance(field.default, str | int | float | tuple):
        return "`{}`"
    return f"`{json.dumps(field.default)}`"
