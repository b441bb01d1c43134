"""Fixtures that several parts share."""

from collections.abc import Iterator

import pytest

from engine_kit import model_cache
from live_kit import Live, running, short_folder


@pytest.fixture(scope="session")
def live_server() -> Iterator[Live]:
    """One real server on the embedded engine for the whole run: ``.url``, ``.key``, ``.home``."""
    with short_folder() as folder:
        home, models = folder / "home", model_cache() / "models"
        home.mkdir(mode=0o700)
        models.mkdir(parents=True, exist_ok=True)
        (home / "models").symlink_to(models)  # fetched once, not once a run
        with running(home) as live:
            yield live
