"""A relay between Moongate and its engine that times the engine.

    python bench/relay.py ENGINE_PORT      prints its own port

Whatever comes goes on unchanged. An exchange lasts from the first byte that went to the engine to
the last that came from it. A line on standard input asks for the sum since the last line, in
microseconds; its end ends the relay.
"""

import asyncio
import sys
import time

import uvloop

SPENT_NS = [0]


async def pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, times_ns: list[int]
) -> None:
    """Pass bytes on, noting when."""
    while data := await reader.read(65536):
        times_ns.append(time.monotonic_ns())
        writer.write(data)
    if writer.can_write_eof():
        writer.write_eof()


def relay(port: int) -> asyncio.Server:
    """The handler of one connection, to the engine at ``port``."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", port)
        sent: list[int] = []
        came: list[int] = []
        there = asyncio.create_task(pump(reader, up_writer, sent))
        try:
            await pump(up_reader, writer, came)
        except ConnectionError:
            pass  # Moongate hung up first: what was timed stands
        finally:
            there.cancel()
            up_writer.close()
            writer.close()
            if sent and came:
                SPENT_NS[0] += came[-1] - sent[0]

    return asyncio.start_server(handle, "127.0.0.1", 0)


def answer_questions() -> None:
    """Print what was spent, a line for each line."""
    for _ in sys.stdin:
        spent_ns, SPENT_NS[0] = SPENT_NS[0], 0
        print(spent_ns // 1000, flush=True)


async def main() -> None:
    """Relay until standard input closes."""
    server = await relay(int(sys.argv[1]))
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, answer_questions)
    server.close()


if __name__ == "__main__":
    uvloop.run(main())
