"""The counter of all replicas in Redis or Valkey: each step is one call of one Lua script.

The server's clock counts, so that a replica's does not matter, and every key carries the account
in braces, so that a step stays in one slot. What piles up while a call is under way goes in the
next one, over a single connection. Nothing is asked twice: a step whose outcome is unknown is
CounterGone, and whoever asked decides. Only ids, limits and counts are sent.
"""

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as NotConnected
from redis.exceptions import NoScriptError, RedisError
from redis.exceptions import TimeoutError as TimedOut

from moongate.core.errors import ConfigurationError
from moongate.core.rates import LEASE_MS, Answer, Ask, CounterGone

SCRIPT: Final = Path(__file__).with_name("rates.lua").read_text("utf-8")
_BATCH_MAX: Final = 64
_TIMEOUT_S: Final = 0.5

_Waiting = tuple[Ask, "asyncio.Future[Answer]"]


class RedisCounter:
    """A :class:`moongate.core.rates.Counter` at ``url``. Raises ConfigurationError for a bad one.

    A call that takes longer than ``timeout_s`` is given up with its connection.
    """

    def __init__(
        self,
        url: str,
        *,
        lease_ms: int = LEASE_MS,
        timeout_s: float = _TIMEOUT_S,
        script: str = SCRIPT,
    ) -> None:
        try:
            self._redis = Redis.from_url(
                re.sub(r"^valkey", "redis", url),
                protocol=2,
                socket_timeout=timeout_s,
                socket_connect_timeout=timeout_s,
                retry=Retry(NoBackoff(), 0),
            )
        except ValueError:
            raise ConfigurationError(
                "rates.redis_url must be like redis://host:6379/0 (or rediss:// for TLS)."
            ) from None
        self._lease_ms, self._script = lease_ms, script
        self._sha = ""
        self._waiting: list[_Waiting] = []
        self._turn: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Nothing to make ready: the first step connects."""

    async def close(self) -> None:
        if self._turn is not None:
            await self._turn
        await self._redis.aclose()

    async def ask(self, ask: Ask) -> Answer:
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((ask, answer))
        if self._turn is None or self._turn.done():
            self._turn = asyncio.create_task(self._send())
        return await answer

    async def _send(self) -> None:
        """Send what waits until nothing does."""
        while self._waiting:
            batch = [one for one in self._waiting[:_BATCH_MAX] if not one[1].done()]
            del self._waiting[:_BATCH_MAX]
            try:
                replies = await self._run([ask for ask, _ in batch])
            except (RedisError, OSError) as error:
                replies = [error] * len(batch)
            for (ask, answer), reply in zip(batch, replies, strict=True):
                if answer.done():
                    continue
                if isinstance(reply, Exception):
                    answer.set_exception(CounterGone(_word(reply)))
                else:
                    limits = tuple(rate.limit for rate in ask.rates)
                    answer.set_result(Answer(tuple(reply[2:]), limits, reply[0], reply[1]))

    async def _run(self, asks: Sequence[Ask]) -> list[Any]:
        """One round trip, or three when the server does not know the script (any more)."""
        if not self._sha:
            self._sha = await self._redis.script_load(self._script)
        replies = await self._call(asks)
        unknown = [n for n, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if unknown:  # it was not run, so it may be asked again
            self._sha = await self._redis.script_load(self._script)
            again = await self._call([asks[n] for n in unknown])
            for n, reply in zip(unknown, again, strict=True):
                replies[n] = reply
        return replies

    async def _call(self, asks: Sequence[Ask]) -> list[Any]:
        async with self._redis.pipeline(transaction=False) as pipe:
            for ask in asks:
                keys = [f"moongate:{{{ask.account}}}:{part.name}" for part in ask.rates]
                keys += [f"moongate:{{{ask.account}}}:{part.name}" for part in ask.rooms]
                figures = [figure for rate in ask.rates for figure in (rate.limit, rate.amount)]
                figures += [room.limit for room in ask.rooms]
                arguments = (ask.kind, self._lease_ms, len(ask.rates), *figures, *ask.ids)
                pipe.evalsha(self._sha, len(keys), *keys, *arguments)
            return await pipe.execute(raise_on_error=False)


def _word(error: Exception) -> str:
    """A word for logs."""
    if isinstance(error, TimedOut):
        return "slow"
    return "unreachable" if isinstance(error, NotConnected | OSError) else "refused"
