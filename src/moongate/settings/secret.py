"""What can be shown: tables, a secret that cannot slip out, URLs without passwords.

A secret comes from the environment or from a file, never from the configuration itself. Only
:meth:`Secret.reveal` gives it away, so a search for that word finds every use.
"""

import re
from typing import Any, Final

import msgspec

HIDDEN: Final = "<secret>"

_PASSWORD: Final = re.compile(r"(?<=://)([^/@:]*):[^/]*@")
_IN_QUERY: Final = re.compile(
    r"(?i)([?&][^=&#]*(?:pass|pw|token|secret|key|sig|auth|cred)[^=&#]*)=[^&#]*"
)
_CAPABILITY: Final = re.compile(r"(?<=://)([^/?#]+)[/?#].+")
_CAPABILITIES: Final = frozenset({"webhook_url"})
"""Addresses whose path is a secret at many receivers: only their host is shown."""


class Secret:
    """A string whose ``repr`` and ``str`` are ``<secret>``; it cannot be pickled."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The secret itself, for the one who sends it."""
        return self._text

    def __repr__(self) -> str:
        return HIDDEN

    def __reduce__(self) -> str:
        raise TypeError("a secret is not copied")


def without_password(url: str) -> str:
    """``url`` with ``<secret>`` for the password before its host, and for those in its query."""
    if "://" not in url:
        return url
    return _IN_QUERY.sub(rf"\1={HIDDEN}", _PASSWORD.sub(rf"\1:{HIDDEN}@", url))


def shown(value: object) -> Any:
    """``value`` as plain JSON-able data for people: secrets and passwords hidden."""
    match value:
        case Secret():
            return HIDDEN
        case msgspec.Struct():
            return {name: _field(name, getattr(value, name)) for name in value.__struct_fields__}
        case tuple() | list():
            return [shown(item) for item in value]
        case dict():
            return {str(key): shown(item) for key, item in value.items()}
        case str():
            return without_password(value)
        case _:
            return value


def _field(name: str, value: object) -> Any:
    if name in _CAPABILITIES and isinstance(value, str):
        return _CAPABILITY.sub(rf"\1/{HIDDEN}", value)
    return shown(value)


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """A table of the file; its ``repr`` hides secrets."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({shown(self)})"
