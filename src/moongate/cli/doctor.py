"""``moongate doctor``: the configuration that is in effect, and whether everything is well."""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import msgspec

from moongate import __version__
from moongate.cli import options, screen
from moongate.cli.check import Check
from moongate.cli.checks import look_around
from moongate.cli.desk import Desk
from moongate.core.errors import ConfigurationError
from moongate.settings import Settings

_INDENT = 28
_MARKS = {"ok": ("ok  ", "green"), "warning": ("warn", "yellow"), "broken": ("FAIL", "red")}


@click.command("doctor", epilog="Example:  moongate doctor --config moongate.toml")
@options.as_json
@click.option("--search", is_flag=True, help="Also make one real search of the web.")
@options.place
def command(*, as_json: bool, search: bool, home: Path | None, config: Path | None) -> int:
    """Check everything that can be checked, beside a running server or without one.

    Prints the effective configuration with secrets hidden (the running server's own, where
    one runs), then looks at store, disk, clock, prices, upstreams, what each model can do where
    it is served, engine and data policies. Exits 1 if something is broken.
    """
    desk = options.desk(home, config)
    server = desk.server()
    checks, settings = _configuration(desk, server)
    effective = settings.effective() if settings is not None else {}
    origin = settings.origin if settings is not None else ""
    if not as_json:
        click.echo(f"Moongate {__version__}\n")
        if settings is not None:
            click.echo(f"Configuration: {origin}\n")
            for line in toml(effective):
                screen.show_folded(f"  {line}".rstrip())
        click.echo("Checks\n")
        _tell(checks)
    if settings is not None:
        for check in look_around(desk, settings, server, search=search):
            checks.append(check)
            if not as_json:
                _tell([check])
    broken = sum(check.state == "broken" for check in checks)
    if as_json:
        found = [msgspec.to_builtins(check) for check in checks]
        screen.show_json(
            {"ok": not broken, "from": origin, "configuration": effective, "checks": found}
        )
    else:
        warned = sum(check.state == "warning" for check in checks)
        click.echo(f"\n{_count(broken, 'failure').capitalize()}, {_count(warned, 'warning')}.")
    return 1 if broken else 0


def _configuration(
    desk: Desk, server: dict[str, Any] | None
) -> tuple[list[Check], Settings | None]:
    """The configuration in effect, the running server's own where it tells, and what is wrong."""
    runs: Settings | None = None
    if server is not None:
        # Another version's tables may not fit ours: then the file has to do.
        with suppress(ValueError, KeyError):
            runs = Settings.told(server["configuration"], server["configuration_from"])
    if runs is not None and desk.config is None:
        return [], runs
    try:
        settings = desk.settings(secrets=not desk.running)
    except ConfigurationError as error:
        return [Check("configuration", "broken", str(error))], runs
    if runs is None:
        return [], settings
    checks = []
    if _compared(settings) != _compared(runs):
        detail = (
            f"{settings.origin} says otherwise than the server that runs ({runs.origin}), whose "
            "configuration is shown: stop it and start it anew to change it."
        )
        checks.append(Check("configuration", "warning", detail))
    return checks, runs


def _compared(settings: Settings) -> dict[str, Any]:
    """What a restart would change: all but secrets, and what the command line may have said."""
    tables = settings.effective()
    for said in ("host", "port", "workers"):
        del tables["server"][said]
    credentials = [one for table in tables["upstreams"] for one in table["credentials"]]
    for table in (*tables["upstreams"], *credentials, tables["search"]):
        table.pop("api_key", None)
    tables["topups"].pop("stripe_secret", None)
    return tables


def _tell(checks: list[Check]) -> None:
    for check in checks:
        word, colour = _MARKS[check.state]
        mark = click.style(word, fg=colour) if screen.colours() else word
        first, *rest = check.detail.splitlines()
        screen.show_pair(f"  {mark}  {check.name:<19} ", first, indent=_INDENT)
        for line in rest:
            screen.show_pair(" " * _INDENT, line.strip())


def _count(count: int, word: str) -> str:
    return f"{count or 'no'} {word}{'s' * (count != 1)}"


def toml(tables: dict[str, Any]) -> Iterator[str]:
    """The effective configuration as the file would say it."""
    for name, table in tables.items():
        for one in table if isinstance(table, list) else [table]:
            yield f"[[{name}]]" if isinstance(table, list) else f"[{name}]"
            nested = {key: value for key, value in one.items() if _is_table(key, value)}
            for key, value in one.items():
                if value is not None and key not in nested:
                    yield f"{key} = {_inline(value)}"
            for key, inner in nested.items():
                yield f"[{name}.{key}]"
                yield from (f"{at} = {_inline(value)}" for at, value in inner.items())
            yield ""


def _is_table(key: str, value: object) -> bool:
    return key == "agreement" and isinstance(value, dict)


def _inline(value: object) -> str:
    if isinstance(value, dict):
        inside = ", ".join(f"{key} = {_inline(item)}" for key, item in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, list):
        return f"[{', '.join(_inline(item) for item in value)}]"
    return json.dumps(value, ensure_ascii=False)
