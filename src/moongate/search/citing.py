"""Citations: where an answer's text names one of its sources, as `[^1^]`, `[^1]` or `[1]`.

The text stays as the model wrote it; beside it stand the places. An answer that names none of the
sources that it was given has them all at its end, so that nobody has to guess where it came from.
"""

import re
from collections.abc import Iterable
from itertools import islice
from typing import Final

from moongate.core.events import Citation
from moongate.core.ports import Source

_MARK: Final = re.compile(r"\[\^(\d{1,3})\^?\]|\[(\d{1,3})\]")
_TAIL: Final = 12
CITATIONS_MAX: Final = 200


class Citing:
    """Follows one answer's text. ``anywhere``: the text is prose, in which marks are looked for."""

    def __init__(self, *, anywhere: bool) -> None:
        self._anywhere = anywhere
        self._sources: dict[int, Source] = {}
        self._tail = ""
        self._at = 0
        self._count = 0

    def __repr__(self) -> str:
        return f"Citing({len(self._sources)} sources)"

    def add(self, sources: Iterable[Source]) -> None:
        """More sources that the model was given."""
        for source in sources:
            self._sources[source.id] = source

    @property
    def next_id(self) -> int:
        """The id of the next source."""
        return max(self._sources, default=0) + 1

    def feed(self, text: str) -> list[Citation]:
        """The citations that end in the piece ``text``; indexes count the answer's characters."""
        window, base = self._tail + text, self._at - len(self._tail)
        seen = len(self._tail)
        self._at += len(text)
        self._tail = window[-_TAIL:]
        if not (self._anywhere and self._sources and "]" in text):
            return []
        out: list[Citation] = []
        for mark in _MARK.finditer(window):
            source = self._sources.get(int(mark[1] or mark[2]))
            if source is None or mark.end() <= seen or self._count >= CITATIONS_MAX:
                continue
            if mark[2] and _indexes(window[: mark.start()][-1:]):
                continue
            self._count += 1
            place = base + mark.start(), base + mark.end()
            out.append(Citation(source.url, source.title, *place))
        return out

    def rest(self) -> list[Citation]:
        """Every source, at the end, where the text named none."""
        if self._count:
            return []
        at = self._at if self._anywhere else 0
        shown = islice(self._sources.values(), CITATIONS_MAX)
        return [Citation(one.url, one.title, at, at) for one in shown]


def _indexes(before: str) -> bool:
    """Whether a bracket behind ``before`` is an index in code rather than a mark."""
    return before.isalnum() or before in ("_", ")", "]") if before else False
