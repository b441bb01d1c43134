"""One look of `doctor`: what was looked at, how it went, and a sentence."""

from typing import Any, Literal

import msgspec

from moongate.cli.desk import Desk
from moongate.core.errors import MoongateError

State = Literal["ok", "warning", "broken"]


class Check(msgspec.Struct, frozen=True):
    """One look: its name, how it went, and a sentence."""

    name: str
    state: State
    detail: str


def asked(desk: Desk, name: str, path: str) -> tuple[dict[str, Any], Check | None]:
    """What an operation answers, or the look ``name`` that it failed."""
    try:
        return desk.call("GET", path), None
    except MoongateError as error:
        return {}, Check(name, "broken", str(error))
