"""What `doctor` looks at where several processes may share: store, pepper, replicas and rates."""

import asyncio
from collections.abc import Iterator
from importlib import import_module
from typing import Any, Final

from moongate.cli.check import Check, asked
from moongate.cli.desk import Desk
from moongate.core.errors import MoongateError
from moongate.settings import Settings

NAMES: Final = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}
SLOW_MS: Final = 50.0
"""Every answer waits for two commits; above this they are felt."""


def store_checks(desk: Desk, settings: Settings, server: dict[str, Any] | None) -> Iterator[Check]:
    """The store, the ledger in it, and who counts rates."""
    answer, trouble = asked(desk, "store", "/store")
    if trouble is not None:
        yield trouble
        return
    yield _store(answer)
    yield from _ledger(desk)
    # An office, or a server, opens no store that was set up with another pepper.
    yield Check("pepper", "ok", "the one that the store was set up with")
    if settings.store.file(desk.home.path) is None:
        count = answer["replicas"]
        yield Check("replicas", "ok", f"{count} process{'es' * (count != 1)} served lately")
        yield _rates(settings, server)


def _store(answer: dict[str, Any]) -> Check:
    detail = (
        f"{NAMES.get(answer['kind'], answer['kind'])} {answer['version']}: "
        f"{answer['look_ms']:.2f} ms a look, {answer['commit_ms']:.2f} ms a commit"
    )
    if answer["commit_ms"] > SLOW_MS:
        return Check("store", "warning", f"{detail}. Every answer waits for two commits.")
    return Check("store", "ok", detail)


def _ledger(desk: Desk) -> Iterator[Check]:
    answer, trouble = asked(desk, "ledger", "/ledger/audit")
    if trouble is not None:
        yield trouble
        return
    if answer["ok"]:
        yield Check("ledger", "ok", "every invariant holds")
    for found in answer["findings"][:10]:
        yield Check(
            "ledger",
            "broken",
            f"invariant {found['invariant']} does not hold at {found['where']}: {found['detail']}",
        )


def _rates(settings: Settings, server: dict[str, Any] | None) -> Check:
    """Whether the counter that all replicas share answers."""
    name = "Redis" if settings.rates.redis_url else "PostgreSQL"
    try:
        if server is not None:
            gone = bool(server.get("rates_degraded"))
        else:
            # Imported by name and late, as the desk does with the parts of a server.
            gone = bool(asyncio.run(import_module("moongate.app.rates").trouble(settings)))
    except MoongateError as error:
        return Check("rates", "broken", str(error))
    if gone:
        return Check(
            "rates",
            "warning",
            f"{name} does not answer: meanwhile each process keeps to its share of every limit.",
        )
    return Check("rates", "ok", f"counted in {name} for all replicas")
