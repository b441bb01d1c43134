"""The load generator: a process of its own, the same for everything that it is pointed at.

    python bench/load.py small URL KEY MODEL --connections 16 --seconds 5
    python bench/load.py paced URL KEY MODEL --connections 1000
    python bench/load.py small URL KEY MODEL --connections 1 --code 1000000

``small``: each connection sends an unstreamed request as soon as the answer to the last has come.
``paced``: each connection opens one stream; a token's delay is the clock at arrival less the clock
that the origin wrote into it. Prints one JSON object; durations are microseconds.
"""

import argparse
import asyncio
import base64
import json
import os
import re
import struct
import sysconfig
import time
import zlib
from pathlib import Path
from urllib.parse import urlsplit

import uvloop

BORN = re.compile(rb'"content":"(\d{9,}) "')
USED = re.compile(rb'"completion_tokens": ?(\d+)')
LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
# Tokens of the first two seconds tell about the start, not about the stream.
WARM_NS = 2_000_000_000


def picture(size: int) -> bytes:
    """A png of one pixel and ``size`` bytes of noise beside it."""
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)),
        (b"noIs", os.urandom(size)),
        (b"IDAT", zlib.compress(b"\0\0")),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


def content(options: argparse.Namespace) -> object:
    """What the user says: a sentence, the source of this Python, or pictures of noise."""
    if options.image:
        size = options.image // options.pictures * 3 // 4
        shown = (base64.b64encode(picture(size)).decode() for _ in range(options.pictures))
        urls = ({"url": f"data:image/png;base64,{data}"} for data in shown)
        return [{"type": "image_url", "image_url": url} for url in urls]
    if not options.code:
        return options.prompt
    said = ""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    while len(said) < options.code:
        said += "".join(file.read_text(errors="replace") for file in files)
    return said[: options.code]


def request(options: argparse.Namespace) -> bytes:
    """The bytes of one chat request."""
    place = urlsplit(options.url)
    body = json.dumps(
        {
            "model": options.model,
            "messages": [{"role": "user", "content": content(options)}],
            "max_completion_tokens": options.tokens,
            "stream": options.kind == "paced",
        }
    ).encode()
    head = (
        f"POST {place.path}/chat/completions HTTP/1.1\r\nhost: {place.netloc}\r\n"
        f"authorization: Bearer {options.key}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Client(asyncio.Protocol):
    """What both kinds share: a connection, and a future for its end."""

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self.buffer = b""
        self.delays_ns: list[int] = []
        self.faults = 0
        self.tokens = 0
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Send the first request."""
        self.transport = transport
        self.start()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - any end is an end
        """A connection that ends early is a fault."""
        if not self.over.done():
            self.faults += 1
            self.over.set_result(None)

    def finish(self) -> None:
        """Done with this connection."""
        if not self.over.done():
            self.over.set_result(None)
        self.transport.close()

    def start(self) -> None:
        """Send one request."""
        self.began_ns = time.monotonic_ns()
        self.transport.write(self.payload)


class Small(Client):
    """Unstreamed requests, one after another, until ``until_s``."""

    until_s = 0.0

    def data_received(self, data: bytes) -> None:
        """Look for the answer's end."""
        self.buffer += data
        head, found, body = self.buffer.partition(b"\r\n\r\n")
        if not found:
            return
        length = LENGTH.search(head)
        whole = len(body) >= int(length[1]) if length else body.endswith(b"0\r\n\r\n")
        if not whole:
            return
        self.buffer = b""
        if not head.startswith(b"HTTP/1.1 200"):
            self.faults += 1
        self.delays_ns.append(time.monotonic_ns() - self.began_ns)
        self.tokens += int((USED.search(body) or [0, 0])[1])
        if time.monotonic() < self.until_s:
            self.start()
        else:
            self.finish()


class Paced(Client):
    """One stream; each token's delay."""

    def data_received(self, data: bytes) -> None:
        """Note the delay of each token that arrived."""
        now_ns = time.monotonic_ns()
        *frames, self.buffer = (self.buffer + data).split(b"\n\n")
        for frame in frames:
            if born := BORN.search(frame):
                if now_ns - self.began_ns > WARM_NS:
                    self.delays_ns.append(now_ns - int(born[1]))
            elif b"[DONE]" in frame:
                self.finish()
            elif b'"error"' in frame:
                self.faults += 1


def percentile(ordered: list[int], share: float) -> float:
    """The value in microseconds below which ``share`` of ``ordered`` lies."""
    if not ordered:
        return float("nan")
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] / 1000


async def drive(options: argparse.Namespace) -> dict[str, float]:
    """Run one kind of load and sum it up."""
    loop = asyncio.get_running_loop()
    place = urlsplit(options.url)
    payload = request(options)
    Small.until_s = time.monotonic() + options.seconds
    kind = Small if options.kind == "small" else Paced
    clients: list[Client] = []
    began_s = time.monotonic()
    for number in range(options.connections):
        _, client = await loop.create_connection(lambda: kind(payload), place.hostname, place.port)
        clients.append(client)
        if options.kind == "paced" and number % 10 == 9:
            await asyncio.sleep(0.01)  # a thousand streams open within a second, not at once
    await asyncio.gather(*(client.over for client in clients))
    passed_s = time.monotonic() - began_s
    delays = sorted(delay for client in clients for delay in client.delays_ns)
    return {
        "count": len(delays),
        "per_s": round(len(delays) / passed_s, 1),
        "p50_us": round(percentile(delays, 0.50), 1),
        "p99_us": round(percentile(delays, 0.99), 1),
        "max_us": round(percentile(delays, 1), 1),
        "tokens": sum(client.tokens for client in clients),
        "faults": sum(client.faults for client in clients),
    }


def main() -> None:
    """Read the command line, drive, print."""
    parser = argparse.ArgumentParser(description="Drives a chat API.")
    parser.add_argument("kind", choices=("small", "paced"))
    parser.add_argument("url")
    parser.add_argument("key")
    parser.add_argument("model")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--tokens", type=int, default=1024, help="the most that are asked for")
    parser.add_argument("--prompt", default="Name three moons.")
    parser.add_argument("--code", type=int, default=0, help="a prompt of so many characters")
    parser.add_argument("--image", type=int, default=0, help="a picture of so many characters")
    parser.add_argument("--pictures", type=int, default=1, help="so many, as large together")
    print(json.dumps(uvloop.run(drive(parser.parse_args()))))


if __name__ == "__main__":
    main()
