"""One gateway on a store that its first argument names, for benchmarks that compare stores.

    python bench/gate.py sqlite|memory FOLDER     FOLDER holds moongate.toml, and gets the home

Prints the start-up events as JSON lines, gives the default account money and its key room enough.
"""

import asyncio
import json
import sys
from pathlib import Path

import uvloop

from moongate.app.application import Application
from moongate.core.rows import Quota
from moongate.home import Home
from moongate.log import hush
from moongate.settings import load
from moongate.store.memory import MemoryStore


async def serve(kind: str, folder: Path) -> None:
    """Serve until standard input closes."""
    told = []
    app = Application(
        load(folder / "moongate.toml", {}).with_server(port=0),
        Home(folder / "home").open(),
        told.append,
        store=MemoryStore() if kind == "memory" else None,
    )
    hush(app.log)
    await app.start()
    await app.store.credit("default", 10**15, "topup", "bench", 1)
    for row in await app.store.keys():
        await app.store.key_quota(row.id, Quota(concurrency=10_000))
    for event in told:
        print(json.dumps(event), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await app.close()


if __name__ == "__main__":
    sys.setswitchinterval(0.002)
    uvloop.run(serve(sys.argv[1], Path(sys.argv[2])))
