"""``moongate statement``: every charge, as a table, JSON or CSV."""

import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from moongate.cli import options, screen

_CSV = (
    "day", "account", "key", "key_name", "model", "price_version", "requests", "uncharged",
    "input_tokens", "cached_tokens", "output_tokens", "searches", "due_nanos", "due_usd",
    "charge_nanos", "charge_usd", "forgiven_nanos", "forgiven_usd", "saved_nanos", "saved_usd",
)  # fmt: skip
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""What a spreadsheet may take for the beginning of a formula."""
_COUNTED = (
    ("Uncached", "input_tokens", True),
    ("Cached", "cached_tokens", True),
    ("Output", "output_tokens", True),
    ("Searches", "searches", False),
)
_CSV_EACH = ("request", "ended", *_CSV[1:], "upstream", "outcome", "estimated")


@click.command("statement", epilog="Example:  moongate statement --from 2026-11-01 --format csv")
@options.account
@click.option("--from", "since", metavar="D", help="First day (UTC), like 2026-11-01.")
@click.option("--to", "until", metavar="D", help="Last day (UTC), included.")
@click.option("--each", is_flag=True, help="A line for each request.")
@click.option(
    "--format",
    "form",
    type=click.Choice(("table", "json", "csv")),
    default="table",
    show_default=True,
    help="How it is printed.",
)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@options.place
def command(
    *,
    account: str | None,
    since: str | None,
    until: str | None,
    each: bool,
    form: str,
    as_json: bool,
    home: Path | None,
    config: Path | None,
) -> None:
    """Show every charge by day, key and model, with tokens and exact money.

    A line's tokens times the prices of its price version are what is due; the charge is that,
    less what was done and not charged. What the cache saved is no part of it: cached tokens
    would have cost so much more uncached. Requests that cost nothing are counted, their tokens
    are not. In CSV a quote (') stands before a name that a spreadsheet would take for a formula.
    """
    query = {"account": account, "from": since, "to": until, "each": "1" if each else None}
    found = options.desk(home, config).call("GET", "/statement", query)
    if as_json or form == "json":
        screen.show_json(found)
    elif form == "csv":
        _csv(found, _CSV_EACH if each else _CSV)
    elif not found["data"]:
        click.echo("No charges in this span.", err=True)
    else:
        _table(found, each=each)


def _csv(found: dict[str, Any], columns: tuple[str, ...]) -> None:
    writer = csv.DictWriter(sys.stdout, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in found["data"]:
        writer.writerow({name: _inert(name, row.get(name, "")) for name in columns})
    writer.writerow({columns[0]: "total", **found["total"]})


def _inert(name: str, value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula: a quote before what might begin one.

    So OWASP advises ("CSV Injection"). A carriage return, which ``csv`` leaves bare, is a space.
    """
    if not isinstance(value, str) or name.endswith("_usd"):
        return value
    quote = "'" if value.startswith(_FORMULA) else ""
    return quote + value.replace("\r", " ")


def _table(found: dict[str, Any], *, each: bool) -> None:
    several = len({row["account"] for row in found["data"]}) > 1
    whole = found["total"]
    columns: list[tuple[str, screen.Justify]] = [("Ended (UTC)" if each else "Day", "left")]
    columns += [("Account", "left")] if several else []
    columns += [("Key", "left"), ("Model", "left")]
    columns += [("Outcome", "left")] if each else [("Requests", "right")]
    rows = []
    for row in found["data"]:
        cells = [row["ended"][:16].replace("T", " ") if each else row["day"]]
        cells += [row["account"]] if several else []
        cells += [row["key_name"] or row["key"], row["model"]]
        cells += [row["outcome"]] if each else [screen.tokens(row["requests"])]
        rows.append(cells)
    foot = ["Total"] + [""] * (2 + several)
    rows.append([*foot, "" if each else screen.tokens(whole["requests"])])
    for title, cells in _figures([*found["data"], whole], whole):
        columns.append((title, "right"))
        rows = [[*row, cell] for row, cell in zip(rows, cells, strict=True)]
    screen.show_table(columns, rows, foot=True)
    if whole["uncharged"]:
        word = "request" if whole["uncharged"] == 1 else "requests"
        click.echo(f"{whole['uncharged']} {word} cost nothing.", err=True)
    if whole["forgiven_nanos"]:
        forgiven = screen.usd(whole["forgiven_usd"])
        click.echo(f"Work worth {forgiven} was done and not charged.", err=True)


def _figures(lines: list[dict[str, Any]], whole: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """The columns of figures; those of searches and of what was not charged where there are any."""
    for title, name, wanted in _COUNTED:
        if wanted or whole[name]:
            yield title, [screen.tokens(line[name]) for line in lines]
    if whole["saved_nanos"]:
        yield "Saved by cache", screen.aligned([line["saved_usd"] for line in lines])
    if whole["forgiven_nanos"]:
        yield "Not charged", screen.aligned([line["forgiven_usd"] for line in lines])
    yield "USD", screen.aligned([line["charge_usd"] for line in lines])
