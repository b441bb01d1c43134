"""Breaks one guard at a time in a copy of the tree, and looks whether its named test turns red.

    .venv/bin/python scripts/mutations.py             all of them
    .venv/bin/python scripts/mutations.py cover cas   those whose name holds one of these words

The tree itself is never touched. A mutation whose text is no longer in the tree, and one whose test
stays green, fail the run: a guard without a test that misses it is a guard by luck.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
STORE = "src/moongate/store"
POSTGRES = f"{STORE}/migrations/postgres/0002_moves.sql"
POSTGRES_SETTLE = f"{STORE}/migrations/postgres/0004_attempts.sql"
LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv", ".cache", ".*_cache", ".hypothesis", "__pycache__", "node_modules", "results"
)


class Mutation(NamedTuple):
    """One guard taken away: ``before`` becomes ``after`` in ``file``, and ``test`` must fail."""

    name: str
    file: str
    before: str
    after: str
    test: str


MUTATIONS = (
    Mutation(
        "balance guard, SQLite",
        f"{STORE}/queries.sql",
        "account.posted_nanos - account.held_nanos + account.credit_limit_nanos >= want.nanos",
        "true",
        "tests/test_store_contract_budgets.py",
    ),
    Mutation(
        "balance guard, PostgreSQL",
        POSTGRES,
        "      AND account.posted_nanos - account.held_nanos + account.credit_limit_nanos"
        " >= need.nanos;",
        "      AND true;",
        "tests/test_store_contract_budgets.py",
    ),
    Mutation(
        "compare-and-set of settle, SQLite",
        f"{STORE}/queries.sql",
        "WHERE hold.id = done.id AND hold.state = 0\n",
        "WHERE hold.id = done.id\n",
        "tests/test_ledger_book.py::test_settling_again_returns_the_first_bill[sqlite]",
    ),
    Mutation(
        "compare-and-set of settle, PostgreSQL",
        POSTGRES_SETTLE,
        "WHERE hold.id = done.hold AND hold.state = 0\n",
        "WHERE hold.id = done.hold\n",
        "tests/test_ledger_book.py::test_settling_again_returns_the_first_bill[postgres]",
    ),
    Mutation(
        "fsync before the answer",
        f"{STORE}/opening.py",
        'db.pragma("synchronous", "FULL")',
        'db.pragma("synchronous", "OFF")',
        "tests/test_store_power.py::test_200_crash_images",
    ),
    Mutation(
        "number of a slice, SQLite",
        f"{STORE}/holding.py",
        "            and row.slice_no == extension.slice_no - 1\n",
        "",
        "tests/test_store_contract_money.py::test_an_extension_is_granted_once[sqlite]",
    ),
    Mutation(
        "number of a slice, PostgreSQL",
        POSTGRES,
        " AND hold.state = 0 AND hold.slice_no = ask.slice_no - 1\n",
        " AND hold.state = 0\n",
        "tests/test_store_contract_money.py::test_an_extension_is_granted_once[postgres]",
    ),
    Mutation(
        "hold of the paid route",
        "src/moongate/ledger/book.py",
        "            amount_nanos=wanted,\n",
        "            amount_nanos=0,\n",
        "tests/test_gateway_race.py",
    ),
    Mutation(
        "cover rule",
        "src/moongate/cover.py",
        "            return count <= self._held.cover\n",
        "            return True\n",
        "tests/test_gateway_cover.py::test_a_wallet_that_runs_dry_ends_the_answer_with_length",
    ),
    Mutation(
        "journal beside the store",
        "src/moongate/ledger/book.py",
        "            await self.journal.write(settlement)\n",
        "            pass\n",
        "tests/test_ledger_journal.py",
    ),
    Mutation(
        "settle before the last bytes",
        "src/moongate/gateway.py",
        "        bill = await self._book(job, held, outcome)\n",
        "        if outcome == 'done':\n"
        "            await self._tell(job, outcome, self.book.bill(held, job.used()))\n"
        "        bill = await self._book(job, held, outcome)\n",
        "tests/test_ledger_matrix.py::test_a_gateway_that_dies"
        "[sqlite-upstream done, before the settle]",
    ),
    Mutation(
        "one charge for one Idempotency-Key",
        f"{STORE}/holding.py",
        "        elif n in used:\n            answers[n] = used[n]\n",
        "",
        "tests/test_gateway_many.py::test_one_key_fifty_times_at_one_server_is_one_charge",
    ),
    Mutation(
        "no charge above its hold",
        "src/moongate/ledger/told.py",
        "    charged = min(due, held_nanos)\n",
        "    charged = due\n",
        "tests/test_ledger_book.py::test_charge_and_forgiven_are_the_price_and_never_above_the_hold",
    ),
    Mutation(
        "nothing for a failed answer",
        "src/moongate/gateway.py",
        'charged = outcome in {"done", "credit_stop"} or (',
        'charged = outcome in {"done", "credit_stop", "upstream_error"} or (',
        "tests/test_gateway_no_charge.py::test_a_fault_of_an_upstream[cut-3-True]",
    ),
    Mutation(
        "own leases before any expire",
        "src/moongate/ledger/sweep.py",
        "        if running := self._book.running():\n"
        "            await self._store.renew(running, at_ms)\n",
        "",
        "tests/test_gateway_many.py::test_a_clock_that_jumps_on_one_machine_expires_nothing_early",
    ),
    Mutation(
        "salt of an organisation",
        "src/moongate/upstream/quirks.py",
        '        out["cache_salt"] = ask.tenant\n',
        '        out["cache_salt"] = "everybody"\n',
        "tests/test_upstream_salts.py",
    ),
    Mutation(
        "slot erased on hand-over",
        "src/moongate/upstream/engine_slots.py",
        "            if slot.tenant not in (None, tenant):\n"
        "                await self._clear(slot)\n",
        "",
        "tests/test_engine_cache.py",
    ),
    Mutation(
        "engine that ignores salts",
        "src/moongate/upstream/salts.py",
        '        if self.verdict == "shared":\n',
        "        if False:\n",
        "tests/test_upstream_salts.py",
    ),
    Mutation(
        "key of a route",
        "src/moongate/web/routes.py",
        '"GET", "/v1/usage", "usage", "key",',
        '"GET", "/v1/usage", "usage", "public",',
        "tests/test_web_billing.py",
    ),
)


def tried(mutation: Mutation, folder: Path) -> str:
    """What became of one mutation, in a word: ``red`` is what is wanted."""
    tree = folder / "tree"
    shutil.copytree(ROOT, tree, ignore=LEFT_OUT)
    try:
        file = tree / mutation.file
        text = file.read_text("utf-8")
        if mutation.before not in text:
            return "not there"
        file.write_text(text.replace(mutation.before, mutation.after), "utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not full",
             mutation.test],
            cwd=tree,
            env={**os.environ, "PYTHONPATH": str(tree / "src")},
            capture_output=True,
            check=False,
            text=True,
            timeout=600,
        )  # fmt: skip
    finally:
        shutil.rmtree(tree)
    # 1: a test failed. Anything else (no such test, a crash of pytest itself) proves nothing.
    return {0: "survived", 1: "red"}.get(done.returncode, f"pytest ended with {done.returncode}")


def main() -> int:
    """Try the mutations that were asked for; 0 only when each turned its test red."""
    parser = argparse.ArgumentParser(
        description="Breaks guards and looks whether a test misses it."
    )
    parser.add_argument("words", nargs="*", help="only mutations whose name holds one of these")
    words = parser.parse_args().words
    chosen = [one for one in MUTATIONS if not words or any(word in one.name for word in words)]
    results = []
    with tempfile.TemporaryDirectory() as name:
        for mutation in chosen:
            began = time.monotonic()
            result = tried(mutation, Path(name))
            results.append(result)
            print(
                f"{result:10} {mutation.name:40} {time.monotonic() - began:5.1f} s  "
                f"{mutation.test}",
                flush=True,
            )
    print(f"{results.count('red')} of {len(chosen)} guards are missed by their test when gone")
    return 0 if chosen and set(results) == {"red"} else 1


if __name__ == "__main__":
    sys.exit(main())
