"""Which places may be asked: one that fails again and again is left alone for a while.

After ``FAULTS_MAX`` faults in a row it is ejected: for ``COOL_S`` at first, twice as long after
each trial that failed, a minute at most. A first token that comes too late is a fault as well. When
its time is over, one request is the trial: a success brings it back, a fault ejects it again; one
whose end nobody tells gives way to the next after ``COOL_S``. A look at it that goes well brings
the trial at once. A place may also ask for a rest, and an operator may drain it.
"""

from collections.abc import Callable
from typing import Final, Literal

from moongate.core.ports import Clock

FAULTS_MAX: Final = 5
COOL_S: Final = 10.0
COOL_MAX_S: Final = 60.0
REST_MAX_S: Final = 30.0
"""The longest rest that a place is given on its own word."""
_NEWER: Final = 0.2  # the weight of the newest first-token time in their mean


class Health:
    """Faults in a row and first-token times, by place. ``told`` hears which place is ejected."""

    def __init__(self, clock: Clock, told: Callable[[str], None] = lambda _: None) -> None:
        self._clock, self._told = clock, told
        self._faults: dict[str, int] = {}
        self._cool_s: dict[str, float] = {}
        self._until: dict[str, float] = {}
        self._trials: dict[str, float] = {}
        self._rests: dict[str, float] = {}
        self._first_token_s: dict[str, float] = {}
        self._draining: set[str] = set()

    def report(self, name: str, *, ok: bool, first_token_s: float | None = None) -> None:
        """Tell how a request to ``name`` went, and after how many seconds its content began."""
        if first_token_s is not None:
            before = self._first_token_s.get(name, first_token_s)
            self._first_token_s[name] = before + _NEWER * (first_token_s - before)
        if ok:
            for known in (self._faults, self._cool_s, self._until, self._trials):
                known.pop(name, None)
            return
        self._faults[name] = self._faults.get(name, 0) + 1
        tried = self._trials.pop(name, None) is not None
        if self._faults[name] >= FAULTS_MAX and (tried or name not in self._until):
            cool_s = min(2 * self._cool_s[name], COOL_MAX_S) if tried else COOL_S
            self._cool_s[name] = cool_s
            self._until[name] = self._clock.monotonic_s() + cool_s
            self._told(name)

    def alive(self, name: str) -> bool:
        """Whether ``name`` may be asked now."""
        until_s, now_s = self._until.get(name), self._clock.monotonic_s()
        if until_s is None:
            return True
        trial_s = self._trials.get(name)
        return now_s >= until_s and (trial_s is None or now_s >= trial_s + COOL_S)

    def state(self, name: str) -> Literal["up", "full", "draining", "ejected"]:
        """How it stands with ``name``; ``full`` while it rests."""
        if not self.alive(name):
            return "ejected"
        if name in self._draining:
            return "draining"
        return "full" if self._rests.get(name, 0.0) > self._clock.monotonic_s() else "up"

    def begin(self, name: str) -> None:
        """A request goes to ``name``: its trial, where one is due."""
        if name in self._until and self.alive(name):
            self._trials[name] = self._clock.monotonic_s()

    def rest(self, name: str, wait_s: float) -> None:
        """Leave ``name`` alone for so long, as it asked."""
        self._rests[name] = self._clock.monotonic_s() + min(wait_s, REST_MAX_S)

    def drain(self, name: str, *, on: bool = True) -> None:
        """Send nothing to ``name`` while another can answer; or again."""
        (self._draining.add if on else self._draining.discard)(name)

    def ejected(self) -> list[str]:
        """The places that are ejected and not yet due for a trial: to be looked at."""
        now_s = self._clock.monotonic_s()
        return [name for name, until_s in self._until.items() if until_s > now_s]

    def looked(self, name: str) -> None:
        """A look at ``name`` went well: its trial is due."""
        if name in self._until:
            self._until[name] = self._clock.monotonic_s()

    def first_token_s(self, name: str) -> float | None:
        """The recent first-token time of ``name``, in seconds; ``None`` before the first."""
        return self._first_token_s.get(name)
