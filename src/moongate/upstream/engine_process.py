"""The engine's life: its process is started, watched, started again, and ended with ours.

A crash of the engine never takes the gateway along. What was in flight fails at its own
connection; who comes meanwhile waits for the new process for a short time. Restarts back off.
This module knows processes and their one line of greeting, nothing of requests.
"""

import asyncio
import contextlib
import json
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from moongate.core.errors import ConfigurationError, UpstreamDown

START_S: Final = 120.0
"""Seconds until a model must be loaded; a large one of the operator's own takes its time."""
READY_WAIT_S: Final = 10.0
_BACKOFF_S: Final = (0.2, 1.0, 2.0, 5.0, 10.0, 30.0)
_CALM_S: Final = 60.0
"""Seconds of service after which the next crash counts as the first."""
_STOP_S: Final = 3.0
_NOTICE_S: Final = 1.0

_SENTENCES: Final = {
    "libgomp": "libgomp.so.1 is missing, which the embedded engine links. "
    "On Debian or Ubuntu run: apt-get install libgomp1",
    "import": "The package xllamacpp cannot be loaded on this machine. "
    "Install Moongate's requirements again: pip install -r requirements/run.txt",
    "load": "The embedded engine cannot load the model file {model}. The file is damaged, of an "
    "architecture that it does not know, or larger than the free memory. Name another GGUF "
    "under [embedded] model, or leave that empty for the stand-in.",
    "signal": "The embedded engine was ended by signal {signal} while it loaded {model}: "
    "its processor code (AVX2) or the free memory do not fit this machine. Configure another "
    'upstream, for instance kind = "openai" with a base_url.',
    "slow": "The embedded engine did not load {model} within {seconds} seconds.",
}


class Work(msgspec.Struct, frozen=True):
    """What a child is to serve. ``n_ctx`` is the tokens of all ``slots`` together."""

    model: Path
    projector: Path | None
    slots: int
    n_ctx: int


class EngineProcess:
    """A child process that is there whenever it can be."""

    def __init__(
        self, work: Work, on_restart: Callable[[], None], report: Callable[[str], None]
    ) -> None:
        self._work = work
        self._on_restart = on_restart
        self._report = report
        self._up = asyncio.Event()
        self._child: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None
        self._closed = False
        self.address = ""
        self.api_key = secrets.token_urlsafe(32)
        self.restarts = 0

    @property
    def pid(self) -> int | None:
        """The child's process id while there is one."""
        return self._child.pid if self._child else None

    @property
    def up(self) -> bool:
        """Whether it serves now."""
        return self._up.is_set()

    async def start(self) -> None:
        """Start and wait until it serves. Raises ConfigurationError."""
        await self._spawn()
        self._watch = asyncio.create_task(self._supervise(), name="engine-watch")

    async def ready(self) -> None:
        """Wait for a short time until it serves. Raises UpstreamDown."""
        if self._closed:
            raise UpstreamDown("closed")
        if not self._up.is_set():
            try:
                await asyncio.wait_for(self._up.wait(), READY_WAIT_S)
            except TimeoutError:
                raise UpstreamDown("engine_restarting", retry_after_s=5) from None

    async def gone(self) -> bool:
        """Whether the child is gone; waits for a moment until a crash can be seen."""
        child = self._child
        if child is None:
            return True
        try:
            await asyncio.wait_for(child.wait(), _NOTICE_S)
        except TimeoutError:
            return False
        if self._child is child:
            self._up.clear()
        return True

    async def close(self) -> None:
        """End the child; kill it when it does not go."""
        self._closed = True
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
            self._watch = None
        await self._end()

    async def _spawn(self) -> None:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "moongate.upstream.engine_child"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={**os.environ, "OMP_WAIT_POLICY": "passive"},
        )
        self._child = child
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(self._settings())
        try:
            async with asyncio.timeout(START_S):
                line = await child.stdout.readline()
        except TimeoutError:
            await self._end()
            raise self._failed("slow") from None
        except BaseException:
            await self._end()
            raise
        hello = json.loads(line) if line else {}
        if "address" not in hello:
            code = await child.wait()
            self._child = None
            raise self._failed(hello.get("error") or ("signal" if code < 0 else "import"), code)
        self.address = hello["address"]
        self._up.set()

    def _settings(self) -> bytes:
        fields = {
            "model": str(self._work.model),
            "projector": str(self._work.projector or ""),
            "slots": self._work.slots,
            "n_ctx": self._work.n_ctx,
            "api_key": self.api_key,
            "parent": os.getpid(),
        }
        return json.dumps(fields).encode() + b"\n"

    async def _supervise(self) -> None:
        failures = 0
        while True:
            assert self._child is not None
            began = time.monotonic()
            await self._child.wait()
            self._up.clear()
            self._report("engine_died")
            if time.monotonic() - began > _CALM_S:
                failures = 0
            while not self._up.is_set():
                await asyncio.sleep(_BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)])
                failures += 1
                self.restarts += 1
                self._on_restart()
                with contextlib.suppress(ConfigurationError, OSError):
                    await self._spawn()
                    self._report("engine_restarted")

    async def _end(self) -> None:
        self._up.clear()
        child, self._child = self._child, None
        if child is None or child.returncode is not None:
            return
        assert child.stdin is not None
        child.stdin.close()
        try:
            await asyncio.wait_for(child.wait(), _STOP_S)
        except TimeoutError:
            child.kill()
            await child.wait()

    def _failed(self, kind: str, code: int = 0) -> ConfigurationError:
        name = signal.Signals(-code).name if code < 0 else ""
        text = _SENTENCES.get(kind, _SENTENCES["load"])
        return ConfigurationError(
            text.format(model=self._work.model, signal=name, seconds=int(START_S))
        )
