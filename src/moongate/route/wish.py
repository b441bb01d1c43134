"""A client's own word on where a request goes: four request headers, for those who may.

``x-moongate-upstream: NAME`` and ``x-moongate-only: a,b`` allow these upstreams alone,
``x-moongate-ignore: a,b`` all but these, and ``x-moongate-order: a,b`` has these tried first, in
this order. They choose among the targets that the request may be sent to anyway.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Final

import msgspec

from moongate.core.cards import Target
from moongate.core.errors import Refused

HEADERS: Final = (
    "x-moongate-upstream",
    "x-moongate-only",
    "x-moongate-ignore",
    "x-moongate-order",
)
_NAMES_MAX: Final = 64
_LIST: Final = re.compile(r"[A-Za-z0-9_.,\- ]{1,4096}")


class Wish(msgspec.Struct, frozen=True):
    """What the headers ask for, as upstreams' names by header."""

    only: tuple[tuple[str, ...], ...] = ()
    ignore: tuple[str, ...] = ()
    order: tuple[str, ...] = ()

    def grant(self, targets: Sequence[Target]) -> list[Target]:
        """Those of ``targets`` that are wished for, with the tiers that the wish gives them.

        Raises Refused (400) naming the header that leaves none.
        """
        found = [one for one in targets if all(one.name in names for names in self.only)]
        if targets and not found:
            raise _wrong("x-moongate-only", "leaves no upstream that serves this model")
        kept = [one for one in found if one.name not in self.ignore]
        if found and not kept:
            raise _wrong("x-moongate-ignore", "leaves no upstream that serves this model")
        if not self.order:
            return kept
        first = {name: at - len(self.order) for at, name in reversed([*enumerate(self.order)])}
        return [
            msgspec.structs.replace(one, tier=first[one.name]) if one.name in first else one
            for one in kept
        ]


def read(headers: Mapping[str, str], known: Collection[str], *, allowed: bool) -> Wish | None:
    """The wish in ``headers`` (names in lower case); ``None`` where there is none.

    ``known`` are the names of all upstreams. Raises Refused naming the header: 403 where the key
    may not say it, 400 for what is no name.
    """
    said = {name: headers[name] for name in HEADERS if name in headers}
    if not said:
        return None
    if not allowed:
        raise Refused("insufficient_permissions", next(iter(said)), thing="header")
    names = {header: _names(header, text, known) for header, text in said.items()}
    if len(names.get("x-moongate-upstream", ("",))) != 1:
        raise _wrong("x-moongate-upstream", "takes one name")
    return Wish(
        only=tuple(
            names[header]
            for header in ("x-moongate-upstream", "x-moongate-only")
            if header in names
        ),
        ignore=names.get("x-moongate-ignore", ()),
        order=names.get("x-moongate-order", ()),
    )


def _names(header: str, text: str, known: Collection[str]) -> tuple[str, ...]:
    if not _LIST.fullmatch(text):
        raise _wrong(header, "takes names of upstreams, separated by commas")
    names = tuple(name.strip() for name in text.split(","))
    if len(names) > _NAMES_MAX:
        raise _wrong(header, f"takes at most {_NAMES_MAX} names")
    if not all(name in known for name in names):
        raise _wrong(header, "names an upstream that is not known here")
    return names


def _wrong(header: str, what: str) -> Refused:
    return Refused("invalid_value", header, what=f"{header} {what}.")
