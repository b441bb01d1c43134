"""A model's dated price rows in order: which is in force, which are to come, which never will be.

The rule is one line: among the rows that have begun, the latest begun; of two that begin at the
same moment, the later written. Everyone who shows or takes a price asks here.
"""

from collections.abc import Iterable, Sequence

from moongate.core.rows import PriceRow


def schedule(rows: Iterable[PriceRow]) -> dict[str, list[PriceRow]]:
    """Each model's rows in the order in which they take force; each holds until the next begins.

    A row that was replaced before it began (a later one begins at the same moment) is left out.
    """
    found: dict[str, list[PriceRow]] = {}
    for row in sorted(rows, key=lambda row: (row.from_ms, row.version)):
        due = found.setdefault(row.model, [])
        if due and due[-1].from_ms == row.from_ms:
            due.pop()
        due.append(row)
    return found


def at(due: Sequence[PriceRow], at_ms: int) -> PriceRow | None:
    """The row of one model's schedule that is in force at a moment."""
    return next((row for row in reversed(due) if row.from_ms <= at_ms), None)


def after(due: Sequence[PriceRow], at_ms: int) -> list[PriceRow]:
    """The rows of one model's schedule that begin later than a moment, soonest first."""
    return [row for row in due if row.from_ms > at_ms]


def percent_under(part_nanos: int, whole_nanos: int) -> str | None:
    """By how many per cent ``part`` lies under ``whole``, with one decimal, rounded half to even.

    ``"79.2"`` for 100 and 480; negative where it lies above; ``None`` where there is no whole.
    Computed in integers: the figure is for reading, nothing is charged by it.
    """
    if whole_nanos <= 0:
        return None
    tenths, rest = divmod((whole_nanos - part_nanos) * 1000, whole_nanos)
    if rest * 2 > whole_nanos or (rest * 2 == whole_nanos and tenths % 2):
        tenths += 1
    sign = "-" if tenths < 0 else ""
    return f"{sign}{abs(tenths) // 10}.{abs(tenths) % 10}"
