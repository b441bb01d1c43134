"""Configuration: one frozen :class:`Settings` from a TOML file; the environment for secrets only.

Every key is read and checked before anything starts, all mistakes are told at once, and each
with the key's path and what to write instead. This package refuses to know what the settings
are for: ``app`` and ``cli`` hand plain values to the parts. It opens no network and writes
nothing.
"""

from moongate.settings.load import load
from moongate.settings.secret import Secret
from moongate.settings.tree import Settings

__all__ = ["Secret", "Settings", "load"]
