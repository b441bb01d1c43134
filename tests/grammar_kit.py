"""Every stream that our writer ends in a test's own process, held against the grammar."""

import json
from typing import Any

import pytest

from moongate.wire.chat.chunks import ChatWriter
from wire_kit import check_stream


def watch(patch: pytest.MonkeyPatch) -> list[str]:
    """Hold what each writer writes against the grammar from now on; returns the complaints."""
    complaints: list[str] = []
    begin, write, end, fail = (
        ChatWriter.__init__, ChatWriter.write, ChatWriter.end, ChatWriter.fail
    )  # fmt: skip

    def watched_begin(self: Any, head: Any) -> None:
        begin(self, head)
        self._sent = bytearray()

    def watched_write(self: Any, events: Any) -> bytes:
        data = write(self, events)
        self._sent += data
        return data

    def watched_end(self: Any, finishes: Any, bill: Any) -> bytes:
        data = end(self, finishes, bill)
        _note(complaints, check_stream, bytes(self._sent) + data, self._include_usage)
        return data

    def watched_fail(self: Any, error: Any) -> bytes:
        data = fail(self, error)
        _note(complaints, check_broken, bytes(self._sent) + data, self._include_usage)
        return data

    patch.setattr(ChatWriter, "__init__", watched_begin)
    patch.setattr(ChatWriter, "write", watched_write)
    patch.setattr(ChatWriter, "end", watched_end)
    patch.setattr(ChatWriter, "fail", watched_fail)
    return complaints


def check_broken(data: bytes, *, include_usage: bool) -> None:
    """Assert the grammar of a stream that broke off: an error event, and no end mark."""
    *chunks, last = [json.loads(frame[6:]) for frame in data.decode().split("\n\n")[:-1]]
    assert set(last) == {"error"}
    assert set(last["error"]) == {"message", "type", "param", "code"}
    for chunk in chunks:
        assert len(chunk["choices"]) == 1, "no surprise chunk"
        assert chunk["choices"][0]["finish_reason"] is None, "it was no complete answer"
        assert ("usage" in chunk) == include_usage
        assert chunk.get("usage") is None


def _note(complaints: list[str], check: Any, data: bytes, include_usage: bool) -> None:
    """Remember what is wrong; raised inside a server it would be taken for a fault of ours."""
    try:
        check(data, include_usage=include_usage)
    except AssertionError as error:
        complaints.append(f"{error}: {data[-400:]!r}")
