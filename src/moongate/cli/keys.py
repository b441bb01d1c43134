"""``moongate keys``: create, list, rotate, limit, revoke."""

from pathlib import Path
from typing import Any

import click

from moongate.cli import options, screen
from moongate.cli.budgets import PERIODS

POLICIES = ("standard", "strict", "lenient")


@click.group("keys", epilog="Example:  moongate keys create --name laptop")
def command() -> None:
    """Create, list, rotate, limit and revoke API keys."""


@command.command(epilog="Example:  moongate keys create --name ci --expires 2027-01-01")
@click.option("--name", required=True, metavar="N", help="What you call it.")
@click.option(
    "--account",
    default="default",
    show_default=True,
    metavar="A",
    help="Account that pays; made when first named.",
)
@click.option("--project", metavar="P", help="Project within the account.")
@click.option("--budget", metavar="USD", help="What it may spend.")
@click.option("--per", type=click.Choice(PERIODS), help="In which span of time.  [default: month]")
@options.rates
@click.option("--expires", metavar="ISO", help="Last day, or the moment that it ends.")
@click.option("--models", metavar="A,B", help="Only these models.")
@click.option(
    "--policy",
    type=click.Choice(POLICIES),
    default=POLICIES[0],
    show_default=True,
    help="How odd requests are met: strict refuses unknown fields, lenient drops sampling "
    "values that the model fixes.",
)
@click.option("--zero-retention", is_flag=True, help="Only upstreams that keep nothing.")
@click.option("--admin", is_flag=True, help="May call /admin/v1 (the key starts with mga-).")
@options.as_json
@options.place
def create(
    *,
    name: str,
    account: str,
    project: str | None,
    budget: str | None,
    per: str | None,
    rpm: int | None,
    tpm: int | None,
    concurrency: int | None,
    expires: str | None,
    models: str | None,
    policy: str,
    zero_retention: bool,
    admin: bool,
    as_json: bool,
    home: Path | None,
    config: Path | None,
) -> None:
    """Create a key. It is shown once: only a hash of it is kept."""
    body: dict[str, Any] = {
        "name": name,
        "account": account,
        "policy": policy,
        "zero_retention": zero_retention,
        "admin": admin,
        "models": [part.strip() for part in (models or "").split(",") if part.strip()],
    }
    body |= options.told(
        project=project,
        budget=None if budget is None else budget.removeprefix("$"),
        per=per,
        rpm=rpm,
        tpm=tpm,
        concurrency=concurrency,
        expires=expires or None,
    )
    desk = options.desk(home, config)
    made = desk.call("POST", "/keys", body=body)
    if as_json:
        screen.show_json(made)
        return
    click.echo(f"API key: {made['key']}")
    click.echo(f"Id:      {made['id']}")
    click.echo(f"Account: {made['account']}")
    for cap in made["budgets"]:
        click.echo(f"Budget:  {screen.usd(cap['cap_usd'])} per {cap['per']}")
    if made["expires_ms"] is not None:
        click.echo(f"Expires: {screen.minute(made['expires_ms'])} UTC")
    click.echo("It is shown once; only a hash of it is kept.", err=True)
    payer = made["account"]
    if made.get("account_created"):
        click.echo(f"Account {payer} is new.", err=True)
    if desk.call("GET", f"/accounts/{payer}")["available_nanos"] <= 0:
        click.echo(f"It has no credit yet: moongate credit add {payer} 5", err=True)


@command.command("list", epilog="Example:  moongate keys list --account acme")
@options.account
@options.as_json
@options.place
def list_keys(
    *, account: str | None, as_json: bool, home: Path | None, config: Path | None
) -> None:
    """List keys, ended ones included."""
    found = options.desk(home, config).call("GET", "/keys", {"account": account})
    if as_json:
        screen.show_json(found)
        return
    if not found["data"]:
        click.echo("No keys yet. Make one: moongate keys create --name NAME", err=True)
        return
    names = ("Id", "Name", "Account", "Ends", "State")
    screen.show_table(
        [(name, "left") for name in names],
        [
            (
                row["id"],
                row["name"],
                row["account"] + (row["project"] and f"/{row['project']}"),
                row["last4"] and f"…{row['last4']}",
                _state(row),
            )
            for row in found["data"]
        ],
    )


def _state(row: dict[str, Any]) -> str:
    """The key's state, what is special about it, its rates and budgets, and its last use."""
    words = [str(row["state"])]
    if row["state"] == "active" and row["expires_ms"] is not None:
        words = [f"until {screen.day(row['expires_ms'] - 1)}"]
    words += ["admin"] if row["admin"] else []
    words += [row["policy"]] if row["policy"] != POLICIES[0] else []
    words += ["zero retention"] if row["zero_retention"] else []
    words += [f"only {', '.join(row['models'])}"] if row["models"] else []
    words += options.rate_words(row)
    words += [
        f"{screen.usd(cap['spent_usd'])} of {screen.usd(cap['cap_usd'])} per {cap['per']}"
        for cap in row["budgets"]
    ]
    words += [f"used {screen.day(row['last_used_ms'])}"] if row["last_used_ms"] else []
    return ", ".join(words)


@command.command(epilog="Example:  moongate keys rotate key_0199… --overlap 1")
@click.argument("id")
@click.option(
    "--overlap",
    "overlap_hours",
    type=click.IntRange(0),
    metavar="HOURS",
    help="How long the old secret works.  [default: 24]",
)
@options.as_json
@options.place
def rotate(
    *, id: str, overlap_hours: int | None, as_json: bool, home: Path | None, config: Path | None
) -> None:
    """Give a key another secret, shown once. Its id, budgets and spend stay."""
    body = options.told(overlap_hours=overlap_hours)
    path = f"/keys/{options.key_id(id)}/rotate"
    row = options.desk(home, config).call("POST", path, body=body)
    if as_json:
        screen.show_json(row)
        return
    click.echo(f"API key: {row['key']}")
    click.echo("It is shown once; only a hash of it is kept.", err=True)
    until = row["old_secret_until_ms"]
    old = "has ended" if until is None else f"works until {screen.minute(until)} UTC"
    click.echo(f"The secret before it {old}.", err=True)


@command.command(epilog="Example:  moongate keys limit key_0199… --rpm 60 --tpm none")
@click.argument("id")
@options.rates
@options.as_json
@options.place
def limit(
    *,
    id: str,
    rpm: int | None,
    tpm: int | None,
    concurrency: int | None,
    as_json: bool,
    home: Path | None,
    config: Path | None,
) -> None:
    """Change the rates of a key; "none" takes a limit away.

    They hold within a second on every worker.
    """
    body = options.told(rpm=rpm, tpm=tpm, concurrency=concurrency)
    if not body:
        raise click.UsageError("Say which rate: --rpm, --tpm or --concurrency.")
    path = f"/keys/{options.key_id(id)}/limit"
    row = options.desk(home, config).call("POST", path, body=body)
    if as_json:
        screen.show_json(row)
        return
    screen.show_table(
        [("Id", "left"), ("Name", "left"), *options.RATE_COLUMNS],
        [(row["id"], row["name"], *options.rate_cells(row))],
    )


@command.command(epilog="Example:  moongate keys revoke key_0199…")
@click.argument("id")
@options.as_json
@options.place
def revoke(*, id: str, as_json: bool, home: Path | None, config: Path | None) -> None:
    """End a key at once. ID is the key's id, as `keys list` shows it."""
    row = options.desk(home, config).call("POST", f"/keys/{options.key_id(id)}/revoke", body={})
    if as_json:
        screen.show_json(row)
        return
    click.echo(f"{row['id']} ({row['name']}) is revoked.")
