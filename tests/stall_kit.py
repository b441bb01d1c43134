"""How long one step of an event loop keeps everything else waiting, and how many there were."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Probe:
    """``turns``: how often this task had its turn. ``longest_s``: the longest wait for one."""

    def __init__(self) -> None:
        self.turns = 0
        self.longest_s = 0.0

    async def run(self) -> None:
        """Take turns until cancelled."""
        last_s = time.perf_counter()
        while True:
            await asyncio.sleep(0)
            now_s = time.perf_counter()
            self.longest_s = max(self.longest_s, now_s - last_s)
            last_s = now_s
            self.turns += 1


@asynccontextmanager
async def probing() -> AsyncIterator[Probe]:
    """A probe in the running loop while the block runs."""
    probe = Probe()
    task = asyncio.create_task(probe.run())
    await asyncio.sleep(0)
    try:
        yield probe
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
