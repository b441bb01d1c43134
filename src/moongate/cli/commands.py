"""The table of commands. Each one's module is imported only when it is called."""

import difflib
from importlib import import_module
from typing import Final

import click

from moongate import __version__

COMMANDS: Final = {
    "serve": "Run the API.",
    "doctor": "Check configuration, store, upstreams, engine and clock.",
    "keys": "Create, list, rotate, limit and revoke API keys.",
    "accounts": "List, limit and invite accounts.",
    "budgets": "Cap what keys, projects and accounts may spend.",
    "credit": "Top up or show a wallet.",
    "statement": "Show every charge by day, key and model.",
    "receipt": "Show a signed receipt, or check one.",
    "invoice": "Print an account's invoice of a month.",
    "prices": "Show the dated price list, or add to it.",
    "models": "Show the models on offer.",
    "audit": "Check the ledger's invariants.",
    "ask": "Ask the model for one answer.",
}
"""Command -> the first line of its help. The module is ``moongate.cli.<command>``."""


class Commands(click.Group):
    """A group whose commands live in modules of their own."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        if cmd_name not in COMMANDS:
            return None
        command = import_module(f"moongate.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0] if args else ""
        if name and not name.startswith("-") and name not in COMMANDS:
            near = difflib.get_close_matches(name, COMMANDS, n=1)
            hint = f' Did you mean "{near[0]}"?' if near else ""
            raise click.UsageError(f'There is no command "{name}".{hint}', ctx)
        return super().resolve_command(ctx, args)


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
    epilog="Example:  moongate serve",
)
@click.version_option(__version__, message="moongate %(version)s")
def moongate() -> None:
    """Your own Kimi K2.5 API: OpenAI-compatible, metered to the nano-dollar.

    Commands work beside a running server, which they find in the home folder
    (MOONGATE_HOME, else ~/.moongate), or without one. Exit codes: 0 done, 1 failed,
    2 wrong use.
    """
