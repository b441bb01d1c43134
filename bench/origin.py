"""The origin: a server that writes the hour of birth into every token.

It speaks just enough of the chat API to stand behind nginx and behind Moongate alike, and as
little as it can besides, so that what is measured is what stands in front of it. A token's text is
the monotonic clock in nanoseconds; on one machine the client reads the same clock.

    python bench/origin.py          prints its port; ends when its standard input closes

The model's name says what it does: ``small`` answers SMALL_TOKENS at once, ``paced-N`` sends N
tokens, one every PACE_S.
"""

import asyncio
import sys
import time
from collections.abc import Callable

import uvloop

SMALL_TOKENS = 16
PACE_S = 0.1
ENDS = 4_096
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\n"
STREAM_HEAD = HEAD % b"text/event-stream" + b"transfer-encoding: chunked\r\n\r\n"
FRAME = (
    b'data: {"id":"chatcmpl-0123456789abcdef01234567","object":"chat.completion.chunk",'
    b'"created":1769472000,"model":"origin","choices":[{"index":0,"delta":{%s},'
    b'"finish_reason":%s}]%s}\n\n'
)
WHOLE = (
    b'{"id":"chatcmpl-0123456789abcdef01234567","object":"chat.completion","created":1769472000,'
    b'"model":"origin","choices":[{"index":0,"message":{"role":"assistant","content":"%s"},'
    b'"finish_reason":"stop"}],%s}'
)
USAGE = b'"usage":{"prompt_tokens":12,"completion_tokens":%d,"total_tokens":%d}'
MODELS = b'{"object":"list","data":[{"id":"small","object":"model"}]}'


def chunk(data: bytes) -> bytes:
    """``data`` as one piece of a chunked body."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def token() -> bytes:
    """A frame whose text is the time."""
    return FRAME % (b'"content":"%d "' % time.monotonic_ns(), b"null", b"")


def last(count: int) -> bytes:
    """The frames that end a stream."""
    finish = FRAME % (b"", b'"stop"', b"," + USAGE % (count, count + 12))
    return finish + b"data: [DONE]\n\n"


class Origin(asyncio.Protocol):
    """One connection: requests one after another."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.buffer = bytearray()
        self.need = 0
        self.timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Keep the transport."""
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - any end is an end
        """Stop the stream under way."""
        if self.timer is not None:
            self.timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Collect a request; answer it when it is whole."""
        self.buffer += data
        if len(self.buffer) < self.need:
            return  # a large body is not looked at again with each piece
        end = self.buffer.find(b"\r\n\r\n") + 4
        if end < 4:
            return
        head = bytes(self.buffer[:end])
        length = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line[15:])
        self.need = end + length
        if len(self.buffer) >= self.need:
            body = bytes(self.buffer[end : self.need])
            del self.buffer[: self.need]
            self.need = 0
            self.answer(head, body)

    def answer(self, head: bytes, body: bytes) -> None:
        """Answer one request. What says how stands at a body's two ends."""
        first, last_part = body[:ENDS], body[-ENDS:]
        if head.startswith(b"GET"):
            self.send(MODELS)
        elif b'"paced-' in first:
            self.transport.write(STREAM_HEAD)
            count = int(first.split(b'"paced-')[1].split(b'"')[0])
            self.pace(count, count, self.loop.time())
        elif b'"stream":true' in last_part.replace(b" ", b""):
            frames = b"".join(token() for _ in range(SMALL_TOKENS)) + last(SMALL_TOKENS)
            self.transport.write(STREAM_HEAD + chunk(frames) + b"0\r\n\r\n")
        else:
            text = b"".join(b"%d " % time.monotonic_ns() for _ in range(SMALL_TOKENS))
            self.send(WHOLE % (text, USAGE % (SMALL_TOKENS, SMALL_TOKENS + 12)))

    def send(self, body: bytes) -> None:
        """Send a whole JSON answer."""
        head = HEAD % b"application/json"
        self.transport.write(head + b"content-length: %d\r\n\r\n%s" % (len(body), body))

    def pace(self, left: int, count: int, due_s: float) -> None:
        """Send one token now and the next when it is due, by a clock that does not drift."""
        if left:
            self.transport.write(chunk(token()))
            due_s += PACE_S
            self.timer = self.loop.call_at(due_s, self.pace, left - 1, count, due_s)
        else:
            self.transport.write(chunk(last(count)) + b"0\r\n\r\n")


async def serve(protocol: Callable[[], asyncio.Protocol]) -> None:
    """Serve on a free loopback port until standard input closes."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(protocol, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    uvloop.run(serve(Origin))
