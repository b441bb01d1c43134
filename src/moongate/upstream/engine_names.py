"""No name twice in one object: a name that comes again gets a number behind it.

A grammar can bound an object whose names are open, but cannot remember which it has seen. So
the text of each name is held back until it ends; what is sent on is never taken back. The text
is JSON as the grammars write it; whatever is not passes unharmed.
"""

import json


class Names:
    """Reads an answer piece by piece."""

    def __init__(self) -> None:
        self._open: list[set[str] | None] = []
        self._held = ""
        self._in_text = self._escaped = self._awaited = False

    def feed(self, text: str) -> str:
        """What of the answer may be sent on after ``text``."""
        return "".join(map(self._step, text))

    def rest(self) -> str:
        """What is held back still, at the end of the answer."""
        held, self._held = self._held, ""
        return held

    def _step(self, char: str) -> str:
        if self._in_text:
            self._in_text = self._escaped or char != '"'
            self._escaped = char == "\\" and not self._escaped
            if not self._held:
                return char
            self._held += char
            return "" if self._in_text else self._name()
        if char == '"':
            self._in_text = True
            if self._awaited:
                self._held = char
                return ""
        elif char in "{[":
            self._open.append(set() if char == "{" else None)
        elif char in "}]" and self._open:
            self._open.pop()
        if char in "{,:[":
            self._awaited = char in "{," and bool(self._open) and self._open[-1] is not None
        return char

    def _name(self) -> str:
        """The name that has just ended, as it is to be sent."""
        held, names = self.rest(), self._open[-1]
        self._awaited = False
        assert names is not None
        try:
            name = json.loads(held)
        except ValueError:
            return held
        if name not in names:
            names.add(name)
            return held
        count = 2
        while f"{name}_{count}" in names:
            count += 1
        names.add(f"{name}_{count}")
        return f'{held[:-1]}_{count}"'
