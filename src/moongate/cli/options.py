"""Options that several commands take, spelt once."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from moongate.cli.desk import Desk
from moongate.home import Home

Command = TypeVar("Command", bound=Callable[..., Any])

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
account = click.option("--account", metavar="A", help="Only this account.")


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


def account_name(text: str) -> str:
    """``text`` when it can stand in a path as an account's id."""
    if not text.isascii() or not text.replace("_", "").replace(".", "").replace("-", "").isalnum():
        raise click.UsageError("An account is named with letters, digits, _, . and -.")
    return text
