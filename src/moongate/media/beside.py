"""Reading beside the server: a process for each document, ended in time. See ``reader``."""

import asyncio
import sys

from moongate.media import reader


async def read(kind: str, data: bytes, total_s: float) -> tuple[int, bytes]:
    """How the reader of ``data`` ended, and what it wrote. Raises TimeoutError."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-B", "-X", "utf8", reader.__file__, kind),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={},
        cwd="/",
    )
    try:
        async with asyncio.timeout(total_s):
            text, _ = await child.communicate(data)
    finally:
        if child.returncode is None:
            child.kill()
            assert child.stdout is not None
            await child.stdout.read()  # a pipe that waits to be read would keep its end back
            await child.wait()
    assert child.returncode is not None
    return child.returncode, text
