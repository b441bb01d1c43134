"""Which upstreams may be asked: one that fails again and again is left alone for a while.

After ``FAULTS_MAX`` faults in a row it is ejected for ``COOL_S``; the first request after that is
the probe: a success brings it back, a fault ejects it again.
"""

from typing import Final

from moongate.core.ports import Clock

FAULTS_MAX: Final = 5
COOL_S: Final = 10.0


class Health:
    """Consecutive faults per upstream name."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._faults: dict[str, int] = {}
        self._until: dict[str, float] = {}

    def report(self, name: str, *, ok: bool) -> None:
        """Tell how a request to ``name`` went."""
        if ok:
            self._faults.pop(name, None)
            self._until.pop(name, None)
            return
        self._faults[name] = self._faults.get(name, 0) + 1
        if self._faults[name] >= FAULTS_MAX:
            self._until[name] = self._clock.monotonic_s() + COOL_S

    def alive(self, name: str) -> bool:
        """Whether ``name`` may be asked now."""
        return self._until.get(name, 0.0) <= self._clock.monotonic_s()
