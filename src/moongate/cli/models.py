"""``moongate models``: the cards of the models on offer."""

from pathlib import Path
from typing import Any

import click

from moongate.cli import options, screen

_CLASSES = ("input", "cached", "output")


@click.command("models", epilog="Example:  moongate models --json")
@options.as_json
@options.place
def command(*, as_json: bool, home: Path | None, config: Path | None) -> None:
    """Show the models on offer: window, abilities, price, targets, data policy."""
    found = options.desk(home, config).call("GET", "/models")
    if as_json:
        screen.show_json(found)
        return
    for at, row in enumerate(found["data"]):
        if at:
            click.echo("")
        _card(row)


def _card(row: dict[str, Any]) -> None:
    lines = [
        ("aliases", ", ".join(row["aliases"])),
        ("window", f"{screen.tokens(row['context_length'])} tokens"),
        ("abilities", ", ".join(row["abilities"])),
        ("price", _price(row["pricing"])),
        ("targets", ", ".join(f"{to['upstream']} ({to['model']})" for to in row["targets"])),
        ("data policy", row["data_policy"]),
        ("stand-in", row["stand_in"]),
        ("built as", _built(row["architecture"])),
    ]
    click.echo(row["id"])
    for name, text in lines:
        if text:
            screen.show_pair(f"  {name:<13}", text)


def _price(price: dict[str, Any]) -> str:
    parts = (f"{screen.usd(price[f'{name}_per_million_usd'])} {name}" for name in _CLASSES)
    return f"{', '.join(parts)} per million tokens"


def _built(built: dict[str, Any]) -> str:
    total, active = built.get("parameters_total"), built.get("parameters_active")
    if not total or not active:
        return ""
    kind = built.get("type", "parameters")
    return f"{kind}, {total} total, {active} active per token, out {built['released']}"
