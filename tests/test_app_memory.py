"""Memory of large bodies: kept for the next one, given back in a quiet moment."""

import asyncio
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from moongate.app import memory
from moongate.app.memory import Quiet
from moongate.upstream.scripted import ScriptedServer
from serving_kit import ONE_UPSTREAM, Served, ask, serve

FREED = """
import os, sys
from moongate.app import memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")

if sys.argv[1] == "kept" and not memory.keep():
    sys.exit("not glibc")
block = b"x" * (16 << 20)
held = resident()
del block
freed = held - resident()
memory.give_back()
print(freed, held - resident())
"""


@pytest.mark.skipif(memory._libc() is None, reason="another C library than glibc is left as it is")
@pytest.mark.parametrize("how", ["kept", "left"])
def test_a_freed_block_is_kept_until_it_is_given_back(how: str) -> None:
    command = [sys.executable, "-c", FREED, how]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    freed, given = map(int, told.split())
    assert given > 15 << 20
    assert (freed < 1 << 20) == (how == "kept")


def test_it_goes_back_once_behind_large_bodies_and_only_when_none_come() -> None:
    large, quiet, taken = memory.LARGE_BYTES, Quiet(100), 100
    steps = [
        *((10, False), (large, False), (5 * large, False), (10, True), (0, False), (10, False)),
        *((large, False), (large - 1, True), (large - 1, False), (large - 1, True)),
    ]
    for came, expected in steps:
        taken += came
        assert quiet.look(taken) == expected, (came, taken)


async def status(served: Served, text: str) -> int:
    """Of one answer to ``text``."""
    head = {"authorization": f"Bearer {served.key}", "content-type": "application/json"}
    data = io.BytesIO(json.dumps(ask(text)).encode())
    url = f"{served.url}/chat/completions"
    async with served.http.post(url, data=data, headers=head) as reply:
        return reply.status


async def test_a_server_gives_back_what_a_large_body_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = asyncio.Event()
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(memory, "PAUSE_S", 0.01)
    monkeypatch.setattr(memory, "give_back", lambda: loop.call_soon_threadsafe(given.set))
    async with (
        ScriptedServer("text ok") as scripted,
        serve(tmp_path, ONE_UPSTREAM.format(kind="vllm", base_url=scripted.base_url)) as served,
    ):
        assert await status(served, "Hello.") == 200
        await asyncio.sleep(0.05)
        assert not given.is_set()
        assert await status(served, "x" * 2 * memory.LARGE_BYTES) in (200, 400)
        async with asyncio.timeout(10):
            await given.wait()
