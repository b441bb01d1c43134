"""The audit of a prompt cache shared by strangers: who asks in the dark, and how long it takes.

The procedure of Gu et al. ("Auditing Prompt Caching in Language Model APIs", ICML 2025): a victim
sends a prompt, an attacker sends one that begins the same and takes the time to the first token.
If their times differ from those for prompts that nobody has sent, the cache tells on the victim.
"""

import dataclasses
import json
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Literal

import ks_kit
import tiny_kimi
from serving_kit import Served, serve

ACROSS_P_MIN: Final = 0.01
WITHIN_P_MAX: Final = 1e-8
SHARED: Final = 0.95
_BEFORE: Final = 6
_AROUND: Final = 20
"""Tokens of the template before a question and around it, a letter being a token."""

Arm = Literal["across", "within", "miss"]

CONFIG: Final = """
[server]
port = 0

[[upstreams]]
name = "embedded"
kind = "embedded"
data_policy = "self-hosted"

[embedded]
model = "{model}"
"""


@dataclasses.dataclass
class Sample:
    """First-token times (seconds) and cached tokens of the attacker's requests, by arm."""

    times: dict[Arm, list[float]]
    cached: dict[Arm, list[int]]

    def p(self, arm: Arm) -> float:
        """How probable it is that this arm and the misses are of one kind."""
        return ks_kit.p_value(self.times[arm], self.times["miss"])


class Audit:
    """A served Moongate, two organisations, and three keys: B has two."""

    def __init__(self, served: Served, keys: dict[str, str], tokens: int) -> None:
        self._served, self._keys = served, keys
        self._dice = random.Random(time.time_ns())
        self.shared = round(tokens * SHARED)
        self._known = self.shared - _BEFORE
        self._rest = tokens - _AROUND - self._known

    async def sample(self, count: int) -> Sample:
        """``count`` of each arm, in an order that tells nothing."""
        found = Sample({"across": [], "within": [], "miss": []}, {})
        found.cached = {arm: [] for arm in found.times}
        arms = [arm for arm in found.times for _ in range(count)]
        self._dice.shuffle(arms)
        for arm in arms:
            known = self._letters(self._known)
            victim = self._keys["second of B" if arm == "within" else "A"]
            await self._ask(victim, known if arm != "miss" else self._letters(self._known))
            took_s, cached = await self._ask(self._keys["B"], known)
            found.times[arm].append(took_s)
            found.cached[arm].append(cached)
        return found

    async def _ask(self, key: str, known: str) -> tuple[float, int]:
        """Seconds to the first token, and the cached tokens told."""
        text = known + self._letters(self._rest)
        body = {
            "model": "kimi-k2.5",
            "messages": [{"role": "user", "content": text}],
            "max_completion_tokens": 1,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        headers = {"authorization": f"Bearer {key}"}
        took_s, cached = 0.0, None
        began_s = time.perf_counter()
        async with self._served.http.post(
            f"{self._served.url}/chat/completions", json=body, headers=headers
        ) as answer:
            assert answer.status == 200, await answer.text()
            async for line in answer.content:
                if not line.startswith(b"data: {"):
                    continue
                chunk = json.loads(line[6:])
                for choice in chunk["choices"]:
                    # The noise of this model may have no text in its one token: then its end.
                    told = choice["delta"].get("content") or choice.get("finish_reason")
                    if told and not took_s:
                        took_s = time.perf_counter() - began_s
                if chunk.get("usage"):
                    cached = chunk["usage"]["cached_tokens"]
        assert took_s
        assert cached is not None
        return took_s, cached

    def _letters(self, count: int) -> str:
        return "".join(self._dice.choices("abcdefghijklmnopqrstuvwxyz ", k=count))


@asynccontextmanager
async def audited(folder: Path, tokens: int, *, layers: int) -> AsyncIterator[Audit]:
    """A gateway on a tiny model of Kimi's architecture with ``layers`` layers."""
    model = folder / "model.gguf"
    tiny_kimi.write(model, layers=layers)
    async with serve(folder, CONFIG.format(model=model)) as served:
        keys = {}
        for name, account in (("A", "victim"), ("B", "attacker"), ("second of B", "attacker")):
            _, keys[name] = await served.app.keys.create(account=account, name=name)
        for account in ("victim", "attacker"):
            await served.app.store.credit(account, 10**12, "topup", account, 1)
        yield Audit(served, keys, tokens)
