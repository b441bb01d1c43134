"""The memory store's audit: every invariant, recomputed from the rows and nothing else."""

from collections import Counter
from collections.abc import Iterator

from moongate.core.chain import breaks
from moongate.core.money import charge
from moongate.core.rows import EntryRow, Finding, HoldState
from moongate.store.memory_tables import Tables


def self_check(tables: Tables) -> Iterator[Finding]:
    """What can be checked without the history: I1 over the accounts, I3 and I4."""
    drift = sum(row.posted_nanos for row in tables.accounts.values())
    if drift:
        yield Finding("I1", "accounts", f"posted sums to {drift}")
    held: Counter[str] = Counter()
    for hold in tables.open_holds():
        for leg in hold.legs:
            held[leg] += hold.amount_nanos
    for row in tables.accounts.values():
        if row.held_nanos != held[row.id]:
            yield Finding("I3", row.id, f"held {row.held_nanos}, open legs {held[row.id]}")
        if row.kind == "wallet" and row.available_nanos < 0:
            yield Finding("I4", row.id, f"available {row.available_nanos}")


def audit(tables: Tables) -> Iterator[Finding]:
    """Every invariant over all rows."""
    yield from self_check(tables)
    yield from _entries(tables)
    yield from _usage(tables)
    yield from _holds(tables)
    yield from _chains(tables)


def _entries(tables: Tables) -> Iterator[Finding]:
    sums: Counter[str] = Counter()
    posted: Counter[str] = Counter()
    paid: Counter[str] = Counter()
    for entry in tables.entries:
        sums[entry.tx] += entry.amount_nanos
        posted[entry.account] += entry.amount_nanos
        if entry.kind == "charge" and entry.seq == 0:
            paid[entry.tx] -= entry.amount_nanos
    for tx, total in sums.items():
        if total:
            yield Finding("I1", tx, f"entries sum to {total}")
    for row in tables.accounts.values():
        if row.posted_nanos != posted[row.id]:
            yield Finding("I2", row.id, f"posted {row.posted_nanos}, entries {posted[row.id]}")
    for id in paid.keys() - tables.usage.keys():
        yield Finding("I5", id, "charged without a usage row")
    for id, used in tables.usage.items():
        if used.charge_nanos != paid[id]:
            yield Finding("I5", id, f"charge {used.charge_nanos}, paid {paid[id]}")


def _usage(tables: Tables) -> Iterator[Finding]:
    forgiven = sum(row.forgiven_nanos for row in tables.usage.values())
    posted = tables.accounts["forgiven"].posted_nanos
    if forgiven != posted:
        yield Finding("I7", "forgiven", f"posted {posted}, usage {forgiven}")
    for id, row in tables.usage.items():
        price = charge(row.usage, tables.prices[row.price_version].price) + row.spoiled_nanos
        total = row.charge_nanos + row.forgiven_nanos
        if total != price:
            yield Finding("I7", id, f"charge and forgiven {total}, price {price}")
        hold = tables.holds.get(id)
        if hold is None or hold.state is HoldState.OPEN or hold.account != row.account:
            yield Finding("I8", id, "a usage row without a resolved hold of its account")
        elif row.charge_nanos > (0 if hold.state is HoldState.VOID else hold.amount_nanos):
            yield Finding("I6", id, f"charge {row.charge_nanos}, hold {hold.amount_nanos}")


def _holds(tables: Tables) -> Iterator[Finding]:
    for hold in tables.holds.values():
        if hold.account not in hold.legs:
            yield Finding("I8", hold.id, "no leg on its own account")
        if hold.state is not HoldState.OPEN and hold.id not in tables.usage:
            yield Finding("I8", hold.id, "resolved without a usage row")


def _chains(tables: Tables) -> Iterator[Finding]:
    for row in tables.accounts.values():
        if row.kind == "wallet":
            chained: list[EntryRow] = [e for e in tables.entries if e.account == row.id]
            chained.sort(key=lambda entry: entry.chain_no or 0)
            for detail in breaks(chained, row.chain_no, row.chain):
                yield Finding("chain", row.id, detail)
