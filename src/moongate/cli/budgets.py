"""``moongate budgets``: what a key, a project or an account may spend in a span of time."""

from pathlib import Path
from typing import Any, Final

import click

from moongate.cli import options, screen

PERIODS: Final = ("day", "week", "month", "life")
_COLUMNS: Final[list[tuple[str, screen.Justify]]] = [
    ("Budget of", "left"),
    ("Per", "left"),
    ("Since", "left"),
    ("Cap", "right"),
    ("Spent", "right"),
    ("Held", "right"),
    ("Left", "right"),
]


@click.group("budgets", epilog="Example:  moongate budgets set --account acme --per month 20")
def command() -> None:
    """Cap what keys, projects and accounts may spend."""


def subject(command: options.Command) -> options.Command:
    """``--key``, ``--project`` or ``--account``, and ``--per``."""
    for name, metavar, meaning in (
        ("account", "A", "Of an account."),
        ("project", "ACCOUNT/P", "Of a project."),
        ("key", "ID", "Of a key, through its rotations."),
    ):
        command = click.option(f"--{name}", metavar=metavar, help=meaning)(command)
    return click.option(
        "--per",
        type=click.Choice(PERIODS),
        default="month",
        show_default=True,
        help="Calendar day, week (from Monday), month, in UTC; or all time.",
    )(command)


@command.command("list", epilog="Example:  moongate budgets list --account acme")
@options.account
@options.as_json
@options.place
def list_budgets(
    *, account: str | None, as_json: bool, home: Path | None, config: Path | None
) -> None:
    """List budgets with what has been spent in the present day, week or month."""
    found = options.desk(home, config).call("GET", "/budgets", {"account": account})
    if as_json:
        screen.show_json(found)
    elif not found["data"]:
        click.echo("No budgets yet. Make one: moongate budgets set --account A 20", err=True)
    else:
        screen.show_table(_COLUMNS, [_line(row) for row in found["data"]])


@command.command("set", epilog="Example:  moongate budgets set --key key_0199… --per day 2.50")
@click.argument("usd")
@subject
@options.as_json
@options.place
def set_budget(
    *,
    usd: str,
    per: str,
    key: str | None,
    project: str | None,
    account: str | None,
    as_json: bool,
    home: Path | None,
    config: Path | None,
) -> None:
    """Cap a budget at USD dollars, at once on every worker. 0 lets nothing pass.

    What was spent in the present span counts. A lower cap stops new requests and cuts none
    that runs.
    """
    body = options.told(key=key, project=project, account=account)
    body |= {"per": per, "usd": usd.removeprefix("$")}
    row = options.desk(home, config).call("POST", "/budgets", body=body)
    if as_json:
        screen.show_json(row)
    else:
        screen.show_table(_COLUMNS, [_line(row)])


@command.command(epilog="Example:  moongate budgets remove --account acme --per month")
@subject
@options.as_json
@options.place
def remove(
    *,
    per: str,
    key: str | None,
    project: str | None,
    account: str | None,
    as_json: bool,
    home: Path | None,
    config: Path | None,
) -> None:
    """End a budget. One that is made later begins at nothing spent."""
    body = options.told(key=key, project=project, account=account)
    row = options.desk(home, config).call("POST", "/budgets", body=body | {"per": per, "usd": None})
    if as_json:
        screen.show_json(row)
    else:
        click.echo(f"{row['scope']} {row['subject']} has no budget per {row['per']} any more.")


def _line(row: dict[str, Any]) -> list[str]:
    since = "-" if row["window"] == "life" else row["window"]
    figures = [screen.usd(row[f"{name}_usd"]) for name in ("cap", "spent", "held", "left")]
    return [f"{row['scope']} {row['subject']}", row["per"], since, *figures]
