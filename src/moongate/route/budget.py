"""The retry budget: when everything fails, asking twice for each request makes it worse.

Within a sliding window retries may be ``RATIO`` of the requests, and ``RETRIES_MIN`` in any case.
"""

from collections import deque
from typing import Final

from moongate.core.ports import Clock

WINDOW_S: Final = 30.0
RATIO: Final = 0.2
RETRIES_MIN: Final = 10


class RetryBudget:
    """Requests and retries of one process, counted by the second."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seconds: deque[list[int]] = deque()  # second, requests, retries

    def request(self) -> None:
        """A request was sent for the first time."""
        self._now()[1] += 1

    def take(self) -> bool:
        """Whether one may be sent again now; it counts."""
        now = self._now()
        requests = sum(one[1] for one in self._seconds)
        if sum(one[2] for one in self._seconds) >= max(RETRIES_MIN, int(requests * RATIO)):
            return False
        now[2] += 1
        return True

    def _now(self) -> list[int]:
        second = int(self._clock.monotonic_s())
        while self._seconds and self._seconds[0][0] <= second - WINDOW_S:
            self._seconds.popleft()
        if not self._seconds or self._seconds[-1][0] != second:
            self._seconds.append([second, 0, 0])
        return self._seconds[-1]
