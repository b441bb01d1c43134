"""What the embedded engine's prompt cache pays: time to the first token, cold and from the cache.

    .venv/bin/python bench/engine_cache.py [--rounds 5] [--home DIR]

A system prompt of 1,500 tokens that nobody has sent, then the same one with another question, over
HTTP through the whole gateway. Bound: a repeated prefix takes at most 0.15 of the cold time. The
table shows also what the cache costs those who do not use it: cold times with it empty and full.
"""

import argparse
import json
import random
import shutil
import sys
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import servers

RATIO_MAX = 0.15
PREFIX_TOKENS = 1_500


class Teller:
    """Asks, and takes the time to the first token."""

    def __init__(self, server: servers.Server, seed: int) -> None:
        self._server = server
        self._dice = random.Random(seed)
        self.words = PREFIX_TOKENS // 4

    def fresh(self) -> str:
        """A system prompt that nobody has sent."""
        return " ".join(str(self._dice.randrange(10_000)) for _ in range(self.words))

    def ask(self, system: str, question: str) -> dict[str, Any]:
        """Seconds to the first token, and the usage that was told."""
        body = {
            "model": "kimi-k2.5",
            "messages": [
                {"role": "system", "content": system},
                {"role": "user", "content": question},
            ],
            "max_completion_tokens": 4,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        request = urllib.request.Request(
            f"{self._server.url}/chat/completions",
            json.dumps(body).encode(),
            {"authorization": f"Bearer {self._server.key}", "content-type": "application/json"},
        )
        first_s, usage = 0.0, {}
        began = time.perf_counter()
        with urllib.request.urlopen(request, timeout=300) as answer:
            for line in answer:
                if not line.startswith(b"data: {"):
                    continue
                chunk = json.loads(line[6:])
                if any(choice["delta"].get("content") for choice in chunk["choices"]):
                    first_s = first_s or time.perf_counter() - began
                usage = chunk.get("usage") or usage
        return {"first_s": first_s or time.perf_counter() - began, **usage}


def measure(teller: Teller, rounds: int) -> dict[str, Any]:
    """Cold and warm first tokens, in pairs; the first pair warms up."""
    told = teller.ask(teller.fresh(), "Question 0")["prompt_tokens"]
    teller.words = round(teller.words * PREFIX_TOKENS / told)
    cold, warm = [], []
    for _ in range(rounds):
        system = teller.fresh()
        cold.append(teller.ask(system, "Question 1"))
        warm.append(teller.ask(system, "Question 2"))
    return {"cold": cold, "warm": warm}


def main() -> None:
    """Measure, print, write; the exit code says whether the bound holds."""
    parser = argparse.ArgumentParser(description="Measures the embedded engine's prompt cache.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--home", type=Path, help="take the model file from this home folder")
    parser.add_argument("--json", type=Path, default=servers.RESULTS / "engine_cache.json")
    options = parser.parse_args()
    figures: dict[str, Any] = {}
    for state, kept in (("cache", 8192), ("no cache", 0)):
        with ExitStack() as stack:
            folder = stack.enter_context(servers.folder())
            if options.home is not None:
                shutil.copytree(options.home / "models", folder / "home" / "models")
                (folder / "home").chmod(0o700)
            config = CONFIG.format(tokens=kept)
            server = stack.enter_context(servers.moongate(folder, config))
            figures[state] = measure(Teller(server, kept + 1), options.rounds)
    cold, warm = figures["cache"]["cold"], figures["cache"]["warm"]
    cold_s, warm_s = (median(one["first_s"] for one in some) for some in (cold, warm))
    bare_s = median(one["first_s"] for one in figures["no cache"]["cold"])
    ratio = warm_s / cold_s
    hits = all(one["cached_tokens"] > 0.9 * one["prompt_tokens"] for one in warm)
    holds = ratio <= RATIO_MAX and hits
    print(
        f"prompt: {cold[-1]['prompt_tokens']} tokens, of which {warm[-1]['cached_tokens']} cached"
    )
    print(f"first token, cold                      {cold_s:>8.3f} s")
    print(f"first token, prefix in the cache       {warm_s:>8.3f} s")
    print(f"first token, cold, nothing kept at all {bare_s:>8.3f} s")
    verdict = "holds" if holds else "BROKEN"
    print(
        f"cached / cold                          {ratio:>8.3f}   of {RATIO_MAX} allowed: {verdict}"
    )
    figures |= {"cold_s": cold_s, "warm_s": warm_s, "nothing_kept_s": bare_s, "ratio": ratio}
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(figures, indent=1))
    print(f"written to {options.json}")
    sys.exit(0 if holds else 1)


CONFIG = """
[[upstreams]]
name = "embedded"
kind = "embedded"
data_policy = "self-hosted"

[embedded]
cache_tokens = {tokens}
"""


if __name__ == "__main__":
    main()
