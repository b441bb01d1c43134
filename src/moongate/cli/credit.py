"""``moongate credit``: top up a wallet, or show it."""

import re
from pathlib import Path
from uuid import uuid4

import click

from moongate.cli import options, screen


class _Add(click.Command):
    """Knows a negative amount from an option that does not exist."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" not in args and any(re.match(r"-\$?\.?[0-9]", arg) for arg in args):
            raise click.UsageError("USD: an amount of credit cannot be negative.", ctx)
        return super().parse_args(ctx, args)


@click.group("credit", epilog="Example:  moongate credit show default")
def command() -> None:
    """Top up or show a wallet."""


@command.command(cls=_Add, epilog="Example:  moongate credit add acme 25")
@click.argument("account")
@click.argument("usd")
@click.option("--trial", is_flag=True, help="A gift: booked against promotion, not cash.")
@options.as_json
@options.place
def add(
    *, account: str, usd: str, trial: bool, as_json: bool, home: Path | None, config: Path | None
) -> None:
    """Credit USD dollars to ACCOUNT, which is made when first named."""
    body = {
        "usd": usd.removeprefix("$"),
        "kind": "trial" if trial else "topup",
        "tx": f"credit_{uuid4().hex}",
    }
    path = f"/accounts/{options.account_name(account)}/credit"
    row = options.desk(home, config).call("POST", path, body=body)
    if as_json:
        screen.show_json(row)
        return
    credited, available = screen.usd(row["credited_usd"]), screen.usd(row["available_usd"])
    if row.get("account_created"):
        click.echo(f"Account {row['id']} is new.", err=True)
    click.echo(f"Credited {credited} to {row['id']}; available now: {available}")


@command.command(epilog="Example:  moongate credit show default --json")
@click.argument("account", required=False)
@options.as_json
@options.place
def show(*, account: str | None, as_json: bool, home: Path | None, config: Path | None) -> None:
    """Show what ACCOUNT has posted, held and available; without it, every wallet."""
    desk = options.desk(home, config)
    if account is not None:
        answer = desk.call("GET", f"/accounts/{options.account_name(account)}")
        rows = [answer]
    else:
        answer = desk.call("GET", "/accounts")
        rows = answer["data"]
    if as_json:
        screen.show_json(answer)
        return
    if not rows:
        click.echo("No accounts yet: the first start of `moongate serve` makes one.", err=True)
        return
    screen.show_table(
        [("Account", "left"), ("Posted", "right"), ("Held", "right"), ("Available", "right")],
        [
            (
                row["id"],
                *(screen.usd(row[f"{part}_usd"]) for part in ("posted", "held", "available")),
            )
            for row in rows
        ],
    )
