"""The commands: the operator's hands, and the user's.

``main`` is the entry point. It turns every trouble that is not a fault of ours into one message
and an exit code: 0 done, 1 failed, 2 wrong use, 130 stopped with Ctrl-C. A command's module is
imported when that command is called, so that ``--help`` is quick. No command knows another;
what several need lies in :mod:`moongate.cli.desk`, ``line``, ``options`` and ``screen``.
"""

import os
import shutil
import sys
import textwrap
from collections.abc import Sequence

import click

from moongate.cli.commands import moongate
from moongate.core.errors import MoongateError, Refused

__all__ = ["main", "run"]


def main() -> None:
    """The ``moongate`` command."""
    sys.exit(run(sys.argv[1:]))


def run(argv: Sequence[str]) -> int:
    """Run ``moongate`` with these arguments; returns the exit code."""
    # What a command creates (store, pepper, journal) is this user's alone.
    os.umask(0o077)
    try:
        code = moongate.main(list(argv), prog_name="moongate", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 130
    except BrokenPipeError:
        # The reader (head, a pager) has what it wanted; say nothing at interpreter exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Refused as error:
        return _failed(error.message)
    except MoongateError as error:
        return _failed(getattr(error, "text", str(error)))
    return code if isinstance(code, int) else 0


def _failed(text: str) -> int:
    """Say it on stderr, folded on a terminal."""
    lines = f"moongate: {text}".splitlines()
    if sys.stderr.isatty():
        width = max(40, shutil.get_terminal_size().columns)
        lines = [
            textwrap.fill(
                line, width, subsequent_indent="    ", break_long_words=False,
                break_on_hyphens=False,
            )
            for line in lines
        ]  # fmt: skip
    click.echo("\n".join(lines), err=True)
    return 1
