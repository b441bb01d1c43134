"""``moongate serve``: run the API, and tell people what they need at the start."""

import os
from pathlib import Path

import click

from moongate.app import run
from moongate.cli.opening import Announcer
from moongate.home import Home
from moongate.settings import load


@click.command("serve", epilog="Example:  moongate serve --port 8080")
@click.option(
    "--home",
    metavar="DIR",
    type=click.Path(path_type=Path, readable=False),
    help="Home folder.  [env var: MOONGATE_HOME; default: ~/.moongate]",
)
@click.option(
    "--config",
    envvar="MOONGATE_CONFIG",
    show_envvar=True,
    metavar="FILE",
    type=click.Path(path_type=Path, readable=False),
    help="Configuration in TOML.",
)
@click.option("--host", metavar="H", help="Address to listen on.  [default: 127.0.0.1]")
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    metavar="PORT",
    help="Port to listen on; 0 takes a free one.  [default: 8000]",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    metavar="N",
    help="Processes; more than one needs a PostgreSQL store.  [default: 1]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per event.")
def command(
    *,
    home: Path | None,
    config: Path | None,
    host: str | None,
    port: int | None,
    workers: int | None,
    as_json: bool,
) -> int:
    """Run the API.

    The first start makes the home folder, an account with trial credit and one API key,
    which is shown once. Ctrl-C or SIGTERM lets running answers end, then stops.
    """
    settings = load(config, os.environ).with_server(host=host, port=port, workers=workers)
    opened = Home.chosen(home, os.environ).open()
    return run(settings, opened, Announcer(as_json=as_json))
