"""``moongate receipt``: show a request's signed receipt, or do its sums again."""

import re
import sys
from pathlib import Path
from typing import Any, Final

import click

from moongate.cli import options, screen
from moongate.cli.desk import Desk
from moongate.cli.line import Refusal
from moongate.core.money import nanos_to_per_million, nanos_to_usd
from moongate.ledger import receipt

_REQUEST: Final = re.compile(r"req_[0-9A-Za-z_-]{1,80}")
_KEY: Final = re.compile(r"[0-9a-f]{64}")
_BYTES_MAX: Final = 1 << 20
_TITLES: Final = {
    "input": "Uncached input", "cached": "Cached input", "output": "Output", "searches": "Searches",
}  # fmt: skip


@click.group("receipt", epilog="Example:  moongate receipt verify receipt.json")
def command() -> None:
    """Show a signed receipt, or check one."""


@command.command(epilog="Example:  moongate receipt show req_0199c0ffee --out receipt.json")
@click.argument("source", metavar="REQUEST_ID|FILE|-")
@click.option(
    "--out", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False), help="Write it there."
)
@options.as_json
@options.place
def show(
    *, source: str, out: Path | None, as_json: bool, home: Path | None, config: Path | None
) -> None:
    """Show the receipt of a request: what it used, at which price, and what was charged.

    The id stands in the answer's x-request-id; a FILE is shown as it is. With MOONGATE_URL
    and MOONGATE_API_KEY that server is asked for a receipt of your own account.
    """
    if _names_a_request(source):
        found = _fetched(options.desk(home, config), source)
    else:
        found = _read(source)
        for text in receipt.misshapen(found):
            raise Refusal(f"{source} is no receipt: {text}.")
        click.echo("As the file says; `moongate receipt verify` checks it.", err=True)
    if out is not None:
        screen.save(out, screen.as_json(found) + "\n")
        click.echo(f"Written to {out}.", err=True)
    elif as_json:
        screen.show_json(found)
    else:
        _print(found)


@command.command(epilog="Example:  moongate receipt verify receipt.json --key receipts.pub")
@click.argument("source", metavar="FILE|REQUEST_ID|-")
@click.option("--key", metavar="HEX|FILE", help="The public key.  [default: HOME/receipts.pub]")
@options.as_json
@options.place
def verify(
    *, source: str, key: str | None, as_json: bool, home: Path | None, config: Path | None
) -> int:
    """Do a receipt's sums again and check its signature, with nothing but the public key.

    Nothing is asked of a server, unless an id is given instead of a file; then the receipt is
    fetched first. Exits 1 when anything differs, and says what.
    """
    desk = options.desk(home, config)
    fetched = _names_a_request(source)
    found = _fetched(desk, source) if fetched else _read(source)
    public = _public(desk, key, fetched=fetched)
    wrong = list(receipt.differences(found, public))
    name = str(found.get("request")) if isinstance(found, dict) else ""
    name = name if _REQUEST.fullmatch(name) else source
    if as_json:
        screen.show_json({"ok": not wrong, "request": name, "differences": wrong})
    elif wrong:
        click.echo(f"This receipt is NOT sound ({name}):")
        for text in wrong:
            click.echo(f"  {text}")
    else:
        click.echo(
            f"Sound: {name} was charged {screen.usd(found['charge_usd'])}, every sum is right, and "
            f"the key {found['key_id']} signed it."
        )
        _print_saving(found)
    return 1 if wrong else 0


def _names_a_request(source: str) -> bool:
    return _REQUEST.fullmatch(source) is not None and not Path(source).exists()


def _fetched(desk: Desk, request: str) -> dict[str, Any]:
    line = options.remote()
    found = (
        desk.call("GET", f"/receipts/{request}")
        if line is None
        else line.call("GET", f"/v1/receipts/{request}")
    )
    if not isinstance(found, dict):
        raise Refusal("The server's answer is no receipt.")
    return found


def _read(source: str) -> Any:
    """A receipt out of a file or stdin, whatever it holds."""
    name = "stdin" if source == "-" else source
    if source == "-":
        raw = sys.stdin.buffer.read(_BYTES_MAX + 1)
    else:
        try:
            with Path(source).open("rb") as file:
                raw = file.read(_BYTES_MAX + 1)
        except OSError as error:
            raise Refusal(f"{source}: {(error.strerror or 'unreadable').lower()}.") from None
    if len(raw) > _BYTES_MAX:
        raise Refusal(f"{name} is no receipt: it is too large.")
    try:
        return receipt.parse(raw)
    except ValueError:
        raise Refusal(f"{name} is no receipt: it is not one JSON object.") from None


def _public(desk: Desk, key: str | None, *, fetched: bool) -> bytes:
    """The key that is given, else the home folder's, else that of the server that was asked."""
    if key is not None and _KEY.fullmatch(key):
        return bytes.fromhex(key)
    line = options.remote() if fetched and key is None else None
    if line is not None:
        text = str(line.call("GET", "/v1/receipts/key").get("public_key"))
        click.echo("The key is the server's own word; keep it and give it with --key.", err=True)
    else:
        text = _key_file(desk.home.receipt_key if key is None else Path(key), given=key is not None)
    if not _KEY.fullmatch(text):
        raise Refusal("A public key is 64 hex digits; this is none.")
    return bytes.fromhex(text)


def _key_file(path: Path, *, given: bool) -> str:
    try:
        return path.read_text("ascii", "replace").strip()
    except OSError:
        if given:
            raise click.BadParameter(
                "It takes 64 hex digits, or a file that holds them.", param_hint="'--key'"
            ) from None
        raise Refusal(
            f"There is no public key at {path}. The first start of `moongate serve` writes it "
            "into the home folder, and every server shows its own at /v1/receipts/key."
        ) from None


def _print(found: dict[str, Any]) -> None:
    how = ", ".join(
        [f"{found['outcome']} ({found['status']})"]
        + ["streamed"] * found["streamed"]
        + ["counts estimated"] * found["estimated"]
        + ["cached tokens inferred"] * ("cached" in found)
    )
    if "attempts" in found:
        how += f", {found['attempts']} attempts"
    entry = found["entry"]
    told = [
        ("request", found["request"]),
        ("account", f"{found['account']}, key {found['key']}"),
        ("model", f"{found['model']}, served by {found['upstream'] or 'nobody'}"),
        ("ended", f"{screen.minute(found['ended_ms'])} UTC, {how}"),
        ("price", f"version {found['price_version']}"),
        ("ledger", f"entry {entry['no']}, {entry['hash'][:16]}…" if entry else "no entry"),
        ("signed by", f"key {found['key_id']}"),
    ]
    for name, text in told:
        screen.show_pair(f"{name:<11}", text if text.isprintable() else "?")
    click.echo("")
    lines = [line for line in found["lines"] if line["count"]]
    amounts = [line["amount_nanos"] for line in lines]
    usd = screen.aligned([nanos_to_usd(nanos) for nanos in [*amounts, sum(amounts)]])
    screen.show_table(
        [("Class", "left"), ("Count", "right"), ("Unit price", "right"), ("USD", "right")],
        [
            *([*_row(line), amount] for line, amount in zip(lines, usd, strict=False)),
            ["Together", "", "", usd[-1]],
        ],
        foot=True,
    )
    _print_saving(found)
    if found["forgiven_nanos"]:
        forgiven = nanos_to_usd(found["forgiven_nanos"])
        click.echo(
            f"Charged {screen.usd(found['charge_usd'])}; not charged: {screen.usd(forgiven)}"
        )


def _print_saving(found: dict[str, Any]) -> None:
    """What the cache saved: no figure of the receipt, it follows from its lines."""
    less = receipt.saved(found)
    if less > 0:
        click.echo(
            f"Cached input cost {screen.usd(nanos_to_usd(less))} less than uncached would have."
        )


def _row(line: dict[str, Any]) -> list[str]:
    unit = line["unit_nanos"]
    price = (
        f"{screen.usd(nanos_to_usd(unit))} each"
        if line["class"] == "searches"
        else f"{screen.usd(nanos_to_per_million(unit))} a million"
    )
    return [_TITLES[line["class"]], screen.tokens(line["count"]), price]
