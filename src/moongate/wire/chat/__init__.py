"""OpenAI Chat Completions as Kimi speaks it: the platform's native tongue.

``ChatCodec`` is the whole of it for the rest;
``fault_of`` reads an upstream's error object. Wire facts are those of Moonshot's API documentation,
OpenAI's API reference, and the servers of vLLM, SGLang and llama.cpp.
"""

from typing import Any

import msgspec

from moongate.core.errors import Refused
from moongate.core.events import Answer
from moongate.core.money import Bill
from moongate.core.ports import Head, Reader, Writer
from moongate.core.request import Request
from moongate.wire.chat.answer import write_answer
from moongate.wire.chat.chunks import ChatWriter
from moongate.wire.chat.counts import read_counts
from moongate.wire.chat.faults import fault_of
from moongate.wire.chat.read import read_request
from moongate.wire.chat.stream import ChatReader
from moongate.wire.chat.write import write_request

__all__ = [
    "ChatCodec",
    "ChatReader",
    "ChatWriter",
    "fault_of",
    "read_counts",
]


class ChatCodec:
    """The chat dialect; see ``core.ports.Codec``. Without state: one serves everybody."""

    name = "chat"

    def read_request(self, body: bytes) -> Request:
        """Decode a client's body. Raises Refused naming the field path."""
        return read_request(body)

    def write_request(self, request: Request) -> dict[str, Any]:
        """The request as a JSON-able body, unknown fields included."""
        return write_request(request)

    def reader(self) -> Reader:
        """A reader of one streamed answer."""
        return ChatReader()

    def writer(self, head: Head) -> Writer:
        """A writer of one streamed answer."""
        return ChatWriter(head)

    def write_answer(self, answer: Answer, head: Head, bill: Bill) -> bytes:
        """The ``chat.completion`` object as JSON bytes."""
        return write_answer(answer, head, bill)

    def write_error(self, error: Refused) -> bytes:
        """OpenAI's error object as JSON bytes."""
        return msgspec.json.encode(error.body())
