"""Text that is held back until it is clear what it is; each part remembers what it came as."""

from itertools import groupby
from typing import cast

import msgspec

from moongate.core.events import Event, Text, Thinking
from moongate.core.sealed import size_of

Kind = type[Text] | type[Thinking]


class Held:
    """A queue of characters. ``text`` is all of it, in order."""

    def __init__(self) -> None:
        self.text = ""
        self._runs: list[tuple[Kind, str]] = []

    def __repr__(self) -> str:
        return f"Held({size_of(self.text)})"

    @property
    def kind(self) -> Kind:
        """What the first character came as. There must be one."""
        return self._runs[0][0]

    @property
    def run(self) -> int:
        """How many characters from the first one came as the same."""
        return len(self._runs[0][1])

    def put(self, kind: Kind, text: str) -> None:
        """Add ``text``, which is not empty, at the end."""
        if self._runs and self._runs[-1][0] is kind:
            self._runs[-1] = (kind, self._runs[-1][1] + text)
        else:
            self._runs.append((kind, text))
        self.text += text

    def take(self, length: int) -> str:
        """Remove so many characters from the front."""
        taken, self.text = self.text[:length], self.text[length:]
        while length:
            kind, run = self._runs[0]
            if length < len(run):
                self._runs[0] = (kind, run[length:])
                break
            length -= len(run)
            del self._runs[0]
        return taken

    def clear(self) -> None:
        """Forget all of it."""
        self.take(len(self.text))


def joined(events: list[Event]) -> list[Event]:
    """``events`` with neighbours of one kind of text in one piece."""
    whole: list[Event] = []
    for kind, some in groupby(events, type):
        if kind is Text or kind is Thinking:
            first, *rest = cast("list[Text | Thinking]", list(some))
            text = "".join([first.text, *(one.text for one in rest)])
            whole.append(msgspec.structs.replace(first, text=text))
        else:
            whole += some
    return whole
