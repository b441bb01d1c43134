"""Routing by prefix on a simulated fleet, beside the other ways to route, in virtual time.

    .venv/bin/python bench/affinity.py                    16 and 64 upstreams, three seeds
    .venv/bin/python bench/affinity.py --upstreams 16 --seeds 1 --jobs 2

10,000 conversations of 5 to 50 turns, all caches together holding half of the working set. Each
policy gets the same conversations. Printed: cached tokens as a share of those that one cache
without bounds would have had, the load of the busiest upstream over the mean, the wait for the
first token. Then, under our policy, an upstream is added, one removed, one restarted. What is
simulated, and how the figures are defined: bench/README.md. Exit status 1 where a bound fails.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import pairwise, repeat
from pathlib import Path
from statistics import mean, median
from typing import Any

import policies
import servers
from conversations import THINK_MAX_S, Conversation, Plan, draw
from fleet import BLOCK
from ours import Ours
from simulation import WINDOW_S, Change, Policy, Result, Simulation

SHARE_MIN = 0.95
LOAD_MAX = 1.2
RECOVERY_MAX_S = 120
RECOVERED = 0.98
SPELL_S = 300.0
OWN = "Moongate"
POOLED = "all caches in one"
"""No way to route, but what room there is: one upstream with the slots and caches of all."""
POLICIES: dict[str, Callable[[int], Policy]] = {
    "Moongate": lambda _: Ours(),
    "random": policies.Random,
    "round robin": lambda _: policies.RoundRobin(),
    "hash of first message": lambda _: policies.ConsistentHash(policies.first_message),
    "hash of first user message": lambda _: policies.ConsistentHash(policies.first_words),
    "SGLang cache_aware": lambda _: policies.CacheAware(),
    POOLED: lambda _: policies.RoundRobin(),
}


@dataclass(frozen=True)
class Job:
    """A policy on so many upstreams, and where ``changed``, the same again with changes."""

    plan: Plan
    seed: int
    upstreams: int
    policy: str
    blocks: int
    """The working set."""
    changed: bool = False


def working_set(plan: Plan, seed: int) -> tuple[int, int]:
    """Blocks of the working set, and of the conversations that were going on: means at full load.

    The working set at a moment is what was used within the longest pause that a conversation makes
    before it: all that anybody may still ask for. It is taken where nothing is ever evicted.
    """
    talks = draw(plan, seed)
    run = Simulation(talks, 1, plan.slots, None, policies.RoundRobin(), traced=True).run()
    end_s = talks[-1].start_s
    until = {visit[1]: visit[0] for visit in run.visits}
    sets, living = [], []
    for part in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0):
        at_s = end_s * part
        used: dict[tuple[str, int], int] = {}
        alive: dict[tuple[str, int], int] = {}
        for asked_s, talk, own, system, trunk in run.visits:
            if asked_s <= at_s:
                if asked_s > at_s - THINK_MAX_S:
                    used["talk", talk], used["system", system] = own, trunk
                if until[talk] > at_s:
                    alive["talk", talk], alive["system", system] = own, trunk
        sets.append(sum(used.values()))
        living.append(sum(alive.values()))
    return round(mean(sets)), round(mean(living))


def changes(talks: list[Conversation], upstreams: int) -> list[Change]:
    """One more upstream, one less, and one that restarts, at full load and well apart."""
    end_s = talks[-1].start_s
    return [
        Change(0.55 * end_s, "add", f"u{upstreams}"),
        Change(0.7 * end_s, "remove", "u1"),
        Change(0.85 * end_s, "restart", "u2"),
    ]


def recovery_s(run: Result, calm: Result, change: Change, spell_s: float) -> float:
    """Seconds from ``change`` to the end of the last low half minute in ``spell_s``; 0 for none.

    Low is a share below 98% of what it is at the same time in the ``calm`` run, the same one
    without changes: shares go up and down with the conversations by themselves.
    """
    first = int(change.at_s // WINDOW_S)
    low = 0
    for at in range(int(spell_s // WINDOW_S)):
        half_minute = range(first + at, first + at + 3)
        if share(run, half_minute) < RECOVERED * share(calm, half_minute):
            low = at + 3
    return float(low * WINDOW_S)


def share(run: Result, windows: Iterable[int]) -> float:
    """Cached tokens over those of the ideal cache, in ``windows``."""
    found = [run.windows[at] for at in windows if at in run.windows]
    return sum(one[1] for one in found) / max(1, sum(one[2] for one in found))


def imbalance(run: Result, end_s: float) -> dict[str, float]:
    """The busiest upstream over the mean, by three measures; of the time when conversations start.

    ``work``: seconds of slots taken over the run. ``served``: requests. ``windows``: as ``work``,
    in windows of five minutes from half time on: the median window, and the worst.
    """
    marks = [mark for mark in run.loads if mark[0] <= end_s]
    last = marks[-1][1]
    windows = []
    for (_, one), (_, two) in pairwise(marks):
        windows.append(over_mean([two[name][0] - one[name][0] for name in one]))
    late = windows[len(windows) // 2 :]
    return {
        "work": over_mean([load[0] for load in last.values()]),
        "served": over_mean([load[1] for load in last.values()]),
        "windows": median(late),
        "worst_window": max(late),
    }


def over_mean(loads: list[float]) -> float:
    """The largest over the mean."""
    return max(loads) / max(mean(loads), 1e-9)


def play(job: Job) -> dict[str, Any]:
    """Run one job; its figures."""
    plan, pooled = job.plan, job.policy == POOLED
    talks = draw(plan, job.seed)
    count = 1 if pooled else job.upstreams
    capacity = job.blocks // 2 // count

    def fleet(policy: Policy, events: list[Change]) -> Result:
        return Simulation(talks, count, plan.slots // count, capacity, policy, events).run()

    policy = POLICIES[job.policy](job.seed)
    run = fleet(policy, [])
    first = sorted(run.first_token_s)
    found: dict[str, Any] = {
        "policy": job.policy,
        "upstreams": job.upstreams,
        "seed": job.seed,
        "requests": len(first),
        "share": run.cached / run.ideal,
        "ideal_of_prompt": run.ideal / run.prompt,
        "load": imbalance(run, talks[-1].start_s),
        "first_token_p50_s": first[len(first) // 2],
        "first_token_p99_s": first[len(first) * 99 // 100],
        "missing": {why: n / run.ideal for why, n in run.missing.most_common()},
        "cache_tokens": capacity * BLOCK,
    }
    if isinstance(policy, Ours):
        found["decision_us"] = 1e6 * policy.spent_s / policy.decisions
    if job.changed:
        events = changes(talks, count)
        changed = fleet(POLICIES[job.policy](job.seed), events)
        found["recovery_s"] = {one.kind: recovery_s(changed, run, one, SPELL_S) for one in events}
    return found


def failures(found: list[dict[str, Any]]) -> list[str]:
    """The bounds that our policy does not keep, as sentences."""
    wrong = []
    for one in found:
        if one["policy"] != OWN:
            continue
        where = f"{one['upstreams']} upstreams, seed {one['seed']}"
        for kind, seconds in one.get("recovery_s", {}).items():
            if seconds > RECOVERY_MAX_S:
                wrong.append(f"{where}: {seconds:.0f} s to recover from {kind}")
        if one["share"] < SHARE_MIN:
            wrong.append(f"{where}: a share of {one['share']:.3f}")
        if one["load"]["work"] > LOAD_MAX:
            wrong.append(f"{where}: a load of {one['load']['work']:.2f} times the mean")
    return wrong


def table(found: list[dict[str, Any]]) -> None:
    """Print the figures, medians over seeds with the worst seed behind them."""
    form = "{:28} {:>14} {:>14} {:>8} {:>15} {:>9} {:>9}"
    for upstreams in sorted({one["upstreams"] for one in found}):
        print(f"\n{upstreams} upstreams")
        print(form.format("", "cached share", "load", "served", "in 5 min", "ttft p50", "p99 s"))
        for name in POLICIES:
            rows = [one for one in found if (one["policy"], one["upstreams"]) == (name, upstreams)]
            if rows:
                print(form.format(name, *cells(rows)))
        for one in found:
            if one["upstreams"] == upstreams and "recovery_s" in one:
                told = ", ".join(f"{k} {s:.0f} s" for k, s in one["recovery_s"].items())
                print(f"{one['policy']}, seed {one['seed']}, share recovered: {told}")


def cells(rows: list[dict[str, Any]]) -> list[str]:
    """One line of the table."""
    shares = [row["share"] for row in rows]
    loads = [row["load"] for row in rows]
    works = [load["work"] for load in loads]
    in_windows = median(load["windows"] for load in loads)
    return [
        f"{median(shares):.3f} ({min(shares):.3f})",
        f"{median(works):.2f} ({max(works):.2f})",
        f"{median(load['served'] for load in loads):.2f}",
        f"{in_windows:.2f} ({max(load['worst_window'] for load in loads):.2f})",
        f"{median(row['first_token_p50_s'] for row in rows):.2f}",
        f"{median(row['first_token_p99_s'] for row in rows):.2f}",
    ]


def main() -> None:
    """Run it all."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--upstreams", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--conversations", type=int, default=10_000)
    parser.add_argument("--policies", nargs="+", choices=POLICIES, default=list(POLICIES))
    parser.add_argument("--no-changes", action="store_true", help="leave the fleet as it is")
    parser.add_argument("--json", type=Path, default=servers.RESULTS / "affinity.json")
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time")
    args = parser.parse_args()
    most = max(args.upstreams)
    slots = max(most, Plan().slots * args.conversations // Plan().conversations // most * most)
    plan = Plan(conversations=args.conversations, slots=slots)
    found = []
    with ProcessPoolExecutor(args.jobs) as pool:
        sets = dict(
            zip(args.seeds, pool.map(working_set, repeat(plan), args.seeds), strict=True)
        )  # fmt: skip
        for seed, (blocks, living) in sets.items():
            print(f"seed {seed}: working set {blocks * BLOCK:,} tokens, {living * BLOCK:,} living")
        jobs = [
            Job(plan, seed, upstreams, name, sets[seed][0], name == OWN and not args.no_changes)
            for seed in args.seeds
            for upstreams in args.upstreams
            for name in args.policies
        ]
        for one in pool.map(play, jobs):
            found.append(one)
            print(json.dumps(one), file=sys.stderr, flush=True)
    table(found)
    args.json.parent.mkdir(exist_ok=True)
    args.json.write_text(json.dumps(found, indent=1))
    wrong = failures(found)
    for sentence in wrong:
        print(f"FAILED: {sentence}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
