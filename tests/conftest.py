"""Fixtures that several parts share."""

from collections.abc import Iterator

import pytest

from live_kit import Live, running, short_folder


@pytest.fixture(scope="session")
def live_server() -> Iterator[Live]:
    """One real server on the embedded engine for the whole run: ``.url``, ``.key``, ``.home``."""
    with short_folder() as folder, running(folder / "home") as live:
        yield live
