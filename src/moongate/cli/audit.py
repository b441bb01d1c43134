"""``moongate audit``: whether what must always be true is true."""

from pathlib import Path

import click

from moongate.cli import options, screen


@click.group("audit", epilog="Example:  moongate audit ledger")
def command() -> None:
    """Check the ledger's invariants."""


@command.command(epilog="Example:  moongate audit ledger --json")
@options.as_json
@options.place
def ledger(*, as_json: bool, home: Path | None, config: Path | None) -> int:
    """Check every row of the ledger: sums, holds, charges, prices, and each wallet's hash chain.

    Works beside a running server or without one. Exits 1 when something does not hold, with
    the rows where it shows.
    """
    found = options.desk(home, config).call("GET", "/ledger/audit")
    findings = found["findings"]
    if as_json:
        screen.show_json(found)
    elif not findings:
        click.echo("Every invariant of the ledger holds.")
    else:
        screen.show_table(
            [("Invariant", "left"), ("Where", "left"), ("What is wrong", "left")],
            [(one["invariant"], one["where"], one["detail"]) for one in findings],
        )
        word = "finding" if len(findings) == 1 else "findings"
        click.echo(f"The ledger is not sound: {len(findings)} {word}.", err=True)
    return 0 if found["ok"] else 1
