"""``moongate statement``: every charge, as a table, JSON or CSV."""

import csv
import sys
from pathlib import Path
from typing import Any

import click

from moongate.cli import options, screen

_CSV = (
    "day", "account", "key", "key_name", "model", "price_version", "requests", "uncharged",
    "input_tokens", "cached_tokens", "output_tokens", "searches", "charge_nanos", "charge_usd",
    "forgiven_nanos", "forgiven_usd",
)  # fmt: skip
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

    A line's charge is its tokens times the prices of its price version; requests that
    failed are counted and cost nothing.
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
    writer.writerows(found["data"])
    writer.writerow({columns[0]: "total", **found["total"]})


def _table(found: dict[str, Any], *, each: bool) -> None:
    several = len({row["account"] for row in found["data"]}) > 1
    searched = found["total"]["searches"] > 0
    columns: list[tuple[str, screen.Justify]] = [("Ended (UTC)" if each else "Day", "left")]
    columns += [("Account", "left")] if several else []
    columns += [("Key", "left"), ("Model", "left")]
    columns += [("Outcome", "left")] if each else [("Requests", "right")]
    columns += [("Uncached", "right"), ("Cached", "right"), ("Output", "right")]
    columns += [("Searches", "right")] if searched else []
    columns += [("USD", "right")]
    rows = []
    for row in found["data"]:
        cells = [row["ended"][:16].replace("T", " ") if each else row["day"]]
        cells += [row["account"]] if several else []
        cells += [row["key_name"] or row["key"], row["model"]]
        cells += [row["outcome"]] if each else [screen.tokens(row["requests"])]
        rows.append(cells + _figures(row, searched=searched))
    whole = found["total"]
    foot = ["Total"] + [""] * (2 + several)
    foot.append("" if each else screen.tokens(whole["requests"]))
    rows.append(foot + _figures(whole, searched=searched))
    screen.show_table(columns, rows, foot=True)
    if whole["uncharged"]:
        word = "request" if whole["uncharged"] == 1 else "requests"
        click.echo(f"{whole['uncharged']} {word} failed and cost nothing.", err=True)


def _figures(row: dict[str, Any], *, searched: bool) -> list[str]:
    names = ["input_tokens", "cached_tokens", "output_tokens"] + ["searches"] * searched
    return [screen.tokens(row[name]) for name in names] + [row["charge_usd"]]
