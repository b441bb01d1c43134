"""The application: every part put together, started, served and stopped."""

from moongate.app.application import Application
from moongate.app.starting import run

__all__ = ["Application", "run"]
