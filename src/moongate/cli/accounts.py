"""``moongate accounts``: who pays, at what rates, and the way in for buyers: invitations."""

from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from moongate.cli import options, screen


@click.group("accounts", epilog="Example:  moongate accounts invite acme --credit 5")
def command() -> None:
    """List, limit and invite accounts."""


@command.command("list", epilog="Example:  moongate accounts list --json")
@options.as_json
@options.place
def list_accounts(*, as_json: bool, home: Path | None, config: Path | None) -> None:
    """List accounts with their balance and rates."""
    found = options.desk(home, config).call("GET", "/accounts")
    if as_json:
        screen.show_json(found)
    elif not found["data"]:
        click.echo("No accounts yet: the first start of `moongate serve` makes one.", err=True)
    else:
        _show(found["data"])


@command.command(epilog="Example:  moongate accounts limit acme --rpm 600 --tpm none")
@click.argument("account")
@options.rates
@options.as_json
@options.place
def limit(
    *,
    account: str,
    rpm: int | None,
    tpm: int | None,
    concurrency: int | None,
    as_json: bool,
    home: Path | None,
    config: Path | None,
) -> None:
    """Change the rates of ACCOUNT, over all its keys; "none" takes a limit away.

    They hold within a second on every worker.
    """
    body = options.told(rpm=rpm, tpm=tpm, concurrency=concurrency)
    if not body:
        raise click.UsageError("Say which rate: --rpm, --tpm or --concurrency.")
    path = f"/accounts/{options.account_name(account)}/limit"
    row = options.desk(home, config).call("POST", path, body=body)
    if as_json:
        screen.show_json(row)
    else:
        _show([row])


def _show(rows: list[dict[str, Any]]) -> None:
    screen.show_table(
        [("Account", "left"), ("Available", "right"), *options.RATE_COLUMNS],
        [(row["id"], screen.usd(row["available_usd"]), *options.rate_cells(row)) for row in rows],
    )


@command.command(epilog="Example:  moongate accounts invite acme --name laptop --credit 5")
@click.argument("account")
@click.option("--name", metavar="N", help="What the key will be called.  [default: ACCOUNT]")
@click.option(
    "--expires",
    "expires_hours",
    type=click.IntRange(1),
    metavar="HOURS",
    help="How long it is good.  [default: 168]",
)
@click.option("--credit", metavar="USD", help="Trial credit for the account, at once.")
@options.as_json
@options.place
def invite(
    *,
    account: str,
    name: str | None,
    expires_hours: int | None,
    credit: str | None,
    as_json: bool,
    home: Path | None,
    config: Path | None,
) -> None:
    """Print a one-time link that makes a key of ACCOUNT, which is made when first named.

    Whoever opens it first gets the key. Send it over a channel that you trust.
    """
    usd = None if credit is None else credit.removeprefix("$")
    body = options.told(name=name, expires_hours=expires_hours, credit=usd)
    path = f"/accounts/{options.account_name(account)}/invites"
    row = options.desk(home, config).call("POST", path, body=body)
    if as_json:
        screen.show_json(row)
        return
    click.echo(row["link"])
    if row["account_created"]:
        click.echo(f"Account {account} is new.", err=True)
    until = screen.minute(row["expires_ms"])
    click.echo(f"It is shown once, works once, and until {until} UTC.", err=True)
    if _here_only(row["link"]):
        click.echo(
            "This address works on this machine only: set server.public_url to the one that "
            "buyers use.",
            err=True,
        )


def _here_only(link: str) -> bool:
    host = urlsplit(link).hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


@command.command(epilog="Example:  moongate accounts invites acme")
@click.argument("account", required=False)
@options.as_json
@options.place
def invites(*, account: str | None, as_json: bool, home: Path | None, config: Path | None) -> None:
    """List invitations, to ACCOUNT or all. Old ones are forgotten."""
    found = options.desk(home, config).call("GET", "/invites", {"account": account})
    if as_json:
        screen.show_json(found)
    elif not found["data"]:
        click.echo("No invitations. Make one: moongate accounts invite ACCOUNT", err=True)
    else:
        names = ("Account", "Name", "State", "Until (UTC)", "Key")
        screen.show_table(
            [(name, "left") for name in names],
            [
                (
                    row["account"],
                    row["name"],
                    row["state"],
                    screen.minute(row["expires_ms"]),
                    row["key"] or "-",
                )
                for row in found["data"]
            ],
        )
