"""The choice among tools is a promise: which functions an answer calls, and whether it must.

An upstream's word for its end is checked against what came: ``tool_choice`` is a request to a
model, and many servers do nothing to hold it. Pure; it refuses to know arguments and clients.
"""

from moongate.core.events import Reason, Text
from moongate.core.request import Request


class Choosing:
    """What one answer to ``request`` may call, for each of its choices.

    ``forced``: it must call, so what is said before its first call is held back. ``never``: it may
    not, so calls are left out of it.
    """

    def __init__(self, request: Request) -> None:
        choice = request.tool_choice
        mode = "auto" if choice is None else choice.mode
        names = {tool.name for tool in request.tools}
        if choice is not None and choice.mode == "named":
            names &= {choice.name or ""}
        self._names = frozenset(names)
        self.forced = mode in ("required", "named")
        self.never = mode == "none"
        self.restart()

    def __repr__(self) -> str:
        return f"Choosing({len(self._names)} functions)"

    def restart(self) -> None:
        """Forget an attempt."""
        self._held: dict[int, list[Text]] = {}
        self._called: set[int] = set()
        self._said: set[int] = set()

    def say(self, event: Text) -> bool:
        """Whether a piece of text may pass now; otherwise it is held back."""
        if self.forced and event.choice not in self._called:
            self._held.setdefault(event.choice, []).append(event)
            return False
        if self.never and not event.text.isspace():
            self._said.add(event.choice)
        return True

    def call(self, name: str, choice: int) -> bool:
        """Note a call of the function ``name``; False when it is not one to be called here."""
        self._called.add(choice)
        return self.never or name in self._names

    def release(self, choice: int) -> list[Text]:
        """What was held back of what was said."""
        return self._held.pop(choice, [])

    def end(self, reason: Reason, choice: int, *, answers: bool) -> Reason | None:
        """The reason to give for a choice that was not cut short; ``None``: it is no answer.

        ``answers``: its text is held to a format elsewhere.
        """
        called = choice in self._called
        if self.never:
            empty = called and not (answers or choice in self._said)
            return None if empty else "stop"
        if not called and (self.forced or reason == "tool_calls"):
            return None
        return "tool_calls" if called else reason
