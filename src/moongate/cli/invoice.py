"""``moongate invoice``: an account's month on a page to print."""

from pathlib import Path

import click

from moongate.admin import pages
from moongate.cli import options, screen


@click.command("invoice", epilog="Example:  moongate invoice acme 2026-01 --out acme.html")
@click.argument("account")
@click.argument("month")
@click.option(
    "--out", metavar="F", type=click.Path(path_type=Path, dir_okay=False), help="Write it there."
)
@options.as_json
@options.place
def command(
    *,
    account: str,
    month: str,
    out: Path | None,
    as_json: bool,
    home: Path | None,
    config: Path | None,
) -> None:
    """Print ACCOUNT's invoice of MONTH (YYYY-MM, UTC) as HTML, ready for paper.

    It equals the ledger to the nano-dollar. Who it is from is said in [operator] of the
    configuration.
    """
    path = f"/accounts/{options.account_name(account)}/invoice"
    data = options.desk(home, config).call("GET", path, {"month": month})
    if as_json:
        screen.show_json(data)
        return
    if not data["operator"]["name"]:
        click.echo("Nobody is named as its sender: see [operator] in the configuration.", err=True)
    page = pages.invoice(data)
    if out is None:
        click.echo(page)
        return
    screen.save(out, page)
    charges, closing = screen.usd(data["charges_usd"]), screen.usd(data["closing_usd"])
    click.echo(f"{out}: {charges} charged in {month}; balance {closing}.", err=True)
