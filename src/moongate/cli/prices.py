"""``moongate prices``: the dated price list."""

from pathlib import Path

import click

from moongate.cli import options, screen


@click.group("prices", epilog="Example:  moongate prices list")
def command() -> None:
    """Show the dated price list."""


@command.command("list", epilog="Example:  moongate prices list --json")
@options.as_json
@options.place
def list_prices(*, as_json: bool, home: Path | None, config: Path | None) -> None:
    """List the prices in force: USD per million tokens, and per search."""
    found = options.desk(home, config).call("GET", "/prices")
    if as_json:
        screen.show_json(found)
        return
    rows = [row for row in found["data"] if row["in_force"]]
    if not rows:
        click.echo("No prices yet: the first start of `moongate serve` writes them.", err=True)
        return
    screen.show_table(
        [
            ("Model", "left"),
            ("Input", "right"),
            ("Cached", "right"),
            ("Output", "right"),
            ("A search", "right"),
            ("Since", "left"),
            ("Version", "right"),
        ],
        [
            (
                row["model"],
                screen.usd(row["input_per_million_usd"]),
                screen.usd(row["cached_per_million_usd"]),
                screen.usd(row["output_per_million_usd"]),
                screen.usd(row["search_usd"]),
                screen.day(row["from_ms"]),
                str(row["version"]),
            )
            for row in rows
        ],
    )
    click.echo("USD per million tokens; a search per call.", err=True)
