"""``moongate credit``: top up a wallet, or show it."""

from pathlib import Path
from uuid import uuid4

import click

from moongate.cli import options, screen


@click.group("credit", epilog="Example:  moongate credit show default")
def command() -> None:
    """Top up or show a wallet."""


@command.command(epilog="Example:  moongate credit add acme 25")
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
