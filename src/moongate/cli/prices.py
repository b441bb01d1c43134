"""``moongate prices``: the dated price list. A change is a new row."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click

from moongate.cli import options, screen

_RATES: Final[list[tuple[str, screen.Justify]]] = [
    ("Input", "right"),
    ("Cached", "right"),
    ("Output", "right"),
    ("A search", "right"),
]
_UNIT: Final = "USD per million tokens; a search per call."
_NOTHING: Final = "No prices yet: the first start of `moongate serve` writes them."


@click.group("prices", epilog="Example:  moongate prices list")
def command() -> None:
    """Show the dated price list, or add to it."""


@command.command("list", epilog="Example:  moongate prices list --json")
@options.as_json
@options.place
def list_prices(*, as_json: bool, home: Path | None, config: Path | None) -> None:
    """List the prices in force: USD per million tokens, and per search."""
    found = options.desk(home, config).call("GET", "/prices")
    if as_json:
        screen.show_json(found)
        return
    rows = [row for row in found["data"] if row["state"] == "in_force"]
    if not rows:
        click.echo(_NOTHING, err=True)
        return
    screen.show_table(
        [("Model", "left"), *_RATES, ("Since", "left"), ("Version", "right")],
        [
            (row["model"], *_rates(row), screen.day(row["from_ms"]), str(row["version"]))
            for row in rows
        ],
    )
    click.echo(_UNIT, err=True)
    for row in found["data"]:
        if row["state"] == "upcoming":
            figures = " / ".join(_rates(row)[:3])
            since = screen.minute(row["from_ms"])
            click.echo(f"From {since} UTC {row['model']} costs {figures}.", err=True)


@command.command(epilog="Example:  moongate prices history kimi-k2.5")
@click.argument("model", required=False)
@options.as_json
@options.place
def history(*, model: str | None, as_json: bool, home: Path | None, config: Path | None) -> None:
    """Show every price row of MODEL, or of all models, oldest first."""
    found = options.desk(home, config).call("GET", "/prices", {"model": model})
    if as_json:
        screen.show_json(found)
    elif not found["data"]:
        click.echo(_NOTHING, err=True)
    else:
        _dated(sorted(found["data"], key=lambda row: (row["model"], row["version"])))


@command.command(
    "set",
    epilog="Example:  moongate prices set kimi-k2.5 --input 0.48 --cached 0.10 --output 2.00",
)
@click.argument("model")
@click.option("--input", required=True, metavar="USD", help="Uncached input, a million tokens.")
@click.option("--cached", required=True, metavar="USD", help="Cached input, a million tokens.")
@click.option("--output", required=True, metavar="USD", help="Output, a million tokens.")
@click.option("--search", metavar="USD", help="One web search.  [default: as before]")
@click.option("--from", "since", metavar="ISO", help="When it begins (UTC).  [default: now]")
@options.as_json
@options.place
def set_price(
    *,
    model: str,
    input: str,
    cached: str,
    output: str,
    search: str | None,
    since: str | None,
    as_json: bool,
    home: Path | None,
    config: Path | None,
) -> None:
    """Give MODEL a new price: a new row, at once on every worker, or from a moment on.

    Prices are exact decimals in US dollars. What was charged before keeps its price, and so
    does a request that is running.
    """
    said = {"input": input, "cached": cached, "output": output, "search": search}
    body = {name: text.removeprefix("$") for name, text in said.items() if text is not None}
    body |= {"model": model} | ({"from": since} if since is not None else {})
    row = options.desk(home, config).call("POST", "/prices", body=body)
    if as_json:
        screen.show_json(row)
        return
    if row["repeated"]:
        click.echo("This is its price already; nothing was changed.", err=True)
        _dated([row])
        return
    _dated([row["previous"], row] if row["previous"] else [row])
    if row["until_ms"] is not None:
        click.echo(
            f"Another price was set before to begin on {screen.minute(row['until_ms'])} UTC: "
            "it still will.",
            err=True,
        )


def _dated(rows: Sequence[dict[str, Any]]) -> None:
    """Rows with the span in which each is in force; the model's name stands once if it can."""
    models = {row["model"] for row in rows}
    columns: list[tuple[str, screen.Justify]] = [("Version", "right"), *_RATES]
    columns += [("From (UTC)", "left"), ("Until (UTC)", "left")]
    lines = [
        [str(row["version"]), *_rates(row), screen.minute(row["from_ms"]), _until(row)]
        for row in rows
    ]
    if len(models) > 1:
        columns.insert(0, ("Model", "left"))
        lines = [[row["model"], *line] for row, line in zip(rows, lines, strict=True)]
    screen.show_table(columns, lines)
    click.echo(_UNIT if len(models) > 1 else f"{models.pop()}: {_UNIT}", err=True)


def _until(row: dict[str, Any]) -> str:
    """When a row's time ended, or what it is instead."""
    if row["state"] == "past":
        return screen.minute(row["until_ms"])
    return str(row["state"]).replace("_", " ")


def _rates(row: dict[str, Any]) -> list[str]:
    names = ["input_per_million_usd", "cached_per_million_usd", "output_per_million_usd"]
    return [screen.usd(row[name]) for name in [*names, "search_usd"]]
