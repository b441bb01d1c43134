"""The scripted upstream as a command: ``python -m moongate.upstream.scripted FILE --port 0``.

It prints one line, its base URL, and serves until it is stopped (SIGINT or SIGTERM).
"""

import argparse
import asyncio
import signal
import sys
from pathlib import Path

from moongate.upstream.frames import Chaos, Look
from moongate.upstream.prompts import Script, echo, rounds, story
from moongate.upstream.scripted import ScriptedServer
from moongate.upstream.transcript import PLACEMENTS, TranscriptError, parse


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and serve. Exits 2 where a transcript cannot be read."""
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        script = _script(given)
    except OSError as error:
        parser.error(f"{given.file}: {error.strerror}")
    except TranscriptError as error:
        parser.error(f"{given.file}: {error}")
    server = ScriptedServer(
        script,
        look=Look(model=given.model, usage=given.usage, ids=given.ids, reasoning=given.reasoning),
        models=(given.model,),
        chaos=None if given.chaos is None else Chaos(given.chaos, delay=0.05),
        cache=given.cache,
        api_key=given.api_key,
        refuse=given.refuse,
        host=given.host,
        port=given.port,
    )
    asyncio.run(_serve(server))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m moongate.upstream.scripted",
        description="A local server that speaks Kimi's chat stream from a transcript.",
    )
    parser.add_argument("file", nargs="?", help="a transcript; without one it echoes")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--model", default="kimi-k2.5")
    parser.add_argument("--usage", choices=PLACEMENTS, default="both")
    parser.add_argument("--ids", choices=("functions", "short", "call"), default="functions")
    parser.add_argument("--reasoning", default="reasoning_content", help="the field's name")
    parser.add_argument("--rounds", action="store_true", help="choose the turn by the round")
    parser.add_argument("--story", type=int, metavar="TOKENS", help="an answer of so many tokens")
    parser.add_argument("--interval", type=float, default=0.0, metavar="S", help="between tokens")
    parser.add_argument("--cache", action="store_true", help="report repeated prefixes as cached")
    parser.add_argument("--chaos", type=int, metavar="SEED", help="cut frames at random bytes")
    parser.add_argument("--refuse", action="store_true", help="answer 400 where Moonshot would")
    parser.add_argument("--api-key", help="demand this bearer key")
    return parser


def _script(given: argparse.Namespace) -> Script:
    if given.story is not None:
        return story(given.story, given.interval)
    if given.file is None:
        return echo
    text = Path(given.file).read_text(encoding="utf-8")
    return rounds(text) if given.rounds else parse(text)


async def _serve(server: ScriptedServer) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, stop.set)
    async with server:
        sys.stdout.write(f"{server.base_url}\n")
        sys.stdout.flush()
        await stop.wait()
