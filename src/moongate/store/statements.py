"""The named statements of each engine and its numbered migrations, as text.

No statement is built from pieces anywhere: values reach SQL as bound parameters only.
"""

import re
from importlib.resources import files
from typing import Any, Final

import apsw

_HERE: Final = files("moongate.store")
_NAME: Final = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def read_queries(text: str) -> dict[str, str]:
    """Name -> statement, of a text in which ``-- name: NAME`` opens each."""
    pieces = _NAME.split(text)
    return {
        name: body.strip() for name, body in zip(pieces[1::2], pieces[2::2], strict=True)
    }  # the piece before the first name is the file's own comment


def read_migrations(engine: str) -> dict[int, str]:
    """Number -> script of ``sqlite`` or ``postgres``, in the order in which they are applied."""
    found = {
        int(entry.name.split("_", 1)[0]): entry.read_text("utf-8")
        for entry in _HERE.joinpath("migrations", engine).iterdir()
        if entry.name.endswith(".sql")
    }
    return dict(sorted(found.items()))


SQL: Final[dict[str, str]] = read_queries(_HERE.joinpath("queries.sql").read_text("utf-8"))
"""Every statement of SQLite's that runs after the migrations, by name."""

POSTGRES: Final[dict[str, str]] = read_queries(_HERE.joinpath("postgres.sql").read_text("utf-8"))
"""The same of PostgreSQL."""

AUDITS: Final = tuple(SQL[name] for name in sorted(SQL) if name.startswith("audit_"))
"""The invariants; each returns rows of (name, where, detail) for what breaks it."""


def run(db: apsw.Connection, name: str, /, **values: Any) -> list[Any]:
    """The rows that a statement of ``queries.sql`` returns, run to its end.

    ``values`` may hold more than it binds.
    """
    return db.execute(SQL[name], values).fetchall()
