"""Options that several commands take, spelt once."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import click

from moongate.cli.desk import Desk
from moongate.cli.line import Line
from moongate.home import Home

Command = TypeVar("Command", bound=Callable[..., Any])

RATE_COLUMNS: Final[list[tuple[str, Literal["left", "right"]]]] = [
    ("Requests/min", "right"),
    ("Tokens/min", "right"),
    ("At once", "right"),
]

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
account = click.option("--account", metavar="A", help="Only this account.")


class Rate(click.ParamType[int]):
    """A whole number; ``none`` or 0 for no limit, which is passed on as 0."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = "0" if value == "none" else str(value)
        if not text.isascii() or not text.isdigit():
            self.fail('Use a whole number, or "none" for no limit.', param, ctx)
        return int(text)


def rates(command: Command) -> Command:
    """``--rpm``, ``--tpm`` and ``--concurrency``."""
    for name, meaning in (
        ("concurrency", "Answers at once."),
        ("tpm", "Tokens a minute."),
        ("rpm", "Requests a minute."),
    ):
        command = click.option(f"--{name}", type=Rate(), metavar="N", help=meaning)(command)
    return command


def rate_cells(row: dict[str, Any]) -> list[str]:
    """The rates of a key or an account, in the order of their columns; ``-`` for no limit."""
    counts = (row["rpm"], row["tpm"], row["concurrency"])
    return ["-" if count is None else f"{count:,}" for count in counts]


def rate_words(row: dict[str, Any]) -> list[str]:
    """The rates of a key or an account in words."""
    units = {"rpm": "requests/min", "tpm": "tokens/min", "concurrency": "at once"}
    return [f"{row[name]:,} {unit}" for name, unit in units.items() if row[name] is not None]


def told(**values: Any) -> dict[str, Any]:
    """The values that were given."""
    return {name: value for name, value in values.items() if value is not None}


def place(command: Command) -> Command:
    """``--home`` and ``--config``: where the store lies, and what configures it."""
    command = click.option(
        "--config",
        envvar="MOONGATE_CONFIG",
        show_envvar=True,
        metavar="FILE",
        type=click.Path(path_type=Path, readable=False),
        help="Configuration in TOML.",
    )(command)
    return click.option(
        "--home",
        metavar="DIR",
        type=click.Path(path_type=Path, readable=False),
        help="Home folder.  [env var: MOONGATE_HOME; default: ~/.moongate]",
    )(command)


def desk(home: Path | None, config: Path | None) -> Desk:
    """Where operations are sent: the running server, or the store itself."""
    return Desk(Home.chosen(home, os.environ), config)


def key_id(text: str) -> str:
    """``text`` when it can stand in a path as a key's id."""
    if not text.replace("_", "").isalnum() or not text.isascii():
        raise click.UsageError('A key\'s id looks like "key_…"; see: moongate keys list')
    return text


def remote() -> Line | None:
    """A line to the server that MOONGATE_URL names, for whoever has no home folder of it."""
    url = os.environ.get("MOONGATE_URL")
    return Line(url, os.environ.get("MOONGATE_API_KEY")) if url else None


def account_name(text: str) -> str:
    """``text`` when it can stand in a path as an account's id."""
    if not text.isascii() or not text.replace("_", "").replace(".", "").replace("-", "").isalnum():
        raise click.UsageError("An account is named with letters, digits, _, . and -.")
    return text
