"""Where a command sends an operation: to the running server, else to an office of its own.

A server that runs on the home folder is reached over its admin socket. Without one the store is
opened here, for one operation, by the very parts that a server is made of.
"""

import asyncio
import os
import socket
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import click

from moongate.cli.line import Line, Refusal, Unanswered
from moongate.core.errors import LedgerUnavailable, Refused
from moongate.home import Home
from moongate.settings import Settings, load

Answer = dict[str, Any]
_BAD_REQUEST = 400
_PLAIN = frozenset({"not_found", "conflict"})
"""Codes that say no more than their message does."""


class Desk:
    """Takes operations of ``/admin/v1`` for one home folder."""

    def __init__(self, home: Home, config: Path | None) -> None:
        self.home = home
        self.config = config

    def settings(self, *, secrets: bool = False) -> Settings:
        """The configuration. Raises ConfigurationError."""
        return load(self.config, os.environ, secrets=secrets)

    @property
    def running(self) -> bool:
        """Whether a server runs on this home folder."""
        return self.line() is not None

    def line(self, timeout_s: float = 60.0) -> Line | None:
        """A line to the server that runs here, or ``None`` when none does."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.settimeout(timeout_s)
                probe.connect(str(self.home.socket))
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            return None
        except PermissionError:
            raise Unanswered(
                f"{self.home.path} belongs to another user: run this as that user, or choose "
                "another with --home or MOONGATE_HOME."
            ) from None
        except OSError as error:
            why = (error.strerror or "no answer").lower()
            raise Unanswered(f"{self.home.socket} cannot be opened: {why}.") from None
        return Line(self.home.socket, timeout_s=timeout_s)

    def server(self) -> Answer | None:
        """What the server that runs here says of itself; ``None`` without one that tells.

        Raises Unanswered when the home folder is another user's.
        """
        line = self.line()
        if line is None:
            return None
        try:
            told = line.call("GET", "/admin/v1/server")
        except (Refusal, Unanswered):
            return None
        return told if isinstance(told, dict) else None

    def call(
        self,
        verb: str,
        path: str,
        query: Mapping[str, str | None] | None = None,
        body: Answer | None = None,
    ) -> Answer:
        """Carry out one operation; parameters that are ``None`` are left out.

        Raises a MoongateError whose text is for the user, and a usage error that names the
        option for a value that the operation does not take.
        """
        said = {name: value for name, value in (query or {}).items() if value is not None}
        line = self.line()
        try:
            if line is not None:
                answer = line.call(verb, f"/admin/v1{path}", said, body)
                assert isinstance(answer, dict)
                return answer
            return asyncio.run(self._here(verb, f"/admin/v1{path}", said, body or {}))
        except Refused as error:
            _refuse(Refusal(error.message, code=error.code, param=error.param, status=error.status))
        except Refusal as error:
            _refuse(error)

    async def _here(self, verb: str, path: str, query: Mapping[str, str], body: Answer) -> Answer:
        # Imported by name and late: the parts of a server take longer to load than a call to one.
        office = import_module("moongate.cli.office")
        try:
            awake = path.endswith("/upstreams")
            settings = self.settings(secrets=awake)
            async with office.opened(settings, self.home, awake=awake) as here:
                _, answer = await here.dispatch(verb, path, query, body)
                assert isinstance(answer, dict)
                return answer
        except LedgerUnavailable:
            raise Refusal(
                "The store cannot be written now: is its disk full or read-only?",
                code="ledger_unavailable",
            ) from None


def _refuse(error: Refusal) -> NoReturn:
    """Raise it as wrong use of an option where it is that, else without what only an API says."""
    if error.status == _BAD_REQUEST:
        name = (error.param or "").partition("[")[0]
        ctx = click.get_current_context(silent=True)
        for param in ctx.command.params if ctx is not None else ():
            if name and (name == param.name or f"--{name}" in param.opts):
                raise click.BadParameter(str(error), ctx, param)
        raise click.UsageError(str(error), ctx)
    if error.code in _PLAIN:
        raise Refusal(str(error), status=error.status)
    raise error
