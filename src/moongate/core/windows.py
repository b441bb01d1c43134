"""A budget's windows: which one a moment falls into, and what its account is called.

Windows are in UTC. A charge falls into the window in which its request was admitted.
"""

from datetime import UTC, datetime, timedelta

from moongate.core.rows import Per


def window(per: Per, at_ms: int) -> str:
    """The day on which the window of ``at_ms`` begins, ``YYYY-MM-DD``; ``life`` for all time."""
    if per == "life":
        return "life"
    day = datetime.fromtimestamp(at_ms // 1000, UTC).date()
    if per == "week":
        day -= timedelta(days=day.weekday())
    elif per == "month":
        day = day.replace(day=1)
    return day.isoformat()


def window_id(budget: str, per: Per, at_ms: int) -> str:
    """The id of the account that counts ``budget`` in the window of ``at_ms``."""
    return f"{budget}/{window(per, at_ms)}"
