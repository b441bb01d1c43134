"""Server-sent events: bytes in any chunking to event payloads, and payloads to frames.

The framing is the WHATWG HTML standard's ("Server-sent events"): lines end in LF, CRLF or CR
and in nothing else, so a U+2028 inside JSON never tears an event; a blank line ends an event;
several ``data`` lines are joined with LF; comments are skipped. Unlike the standard's, this reader
refuses a field that it does not know: what is not a field may be a piece of a torn ``data`` line,
and an answer that silently lacks a piece must not look complete. Events are cut on bytes and
decoded by nobody here: this module refuses to know what a payload says.
"""

from typing import Final

from moongate.core.errors import UpstreamProtocolError

DONE: Final = b"[DONE]"
"""The payload that ends an OpenAI-style stream."""

DONE_FRAME: Final = b"data: [DONE]\n\n"
HEARTBEAT: Final = b": keep-alive\n\n"
"""A comment frame: keeps the line warm, and means nothing to a reader."""

EVENT_BYTES_MAX: Final = 16 * 1024 * 1024
_FIELDS: Final = frozenset({b"data", b"event", b"id", b"retry", b""})
"""The standard's fields; a comment is a line whose field has no name."""
_BOM: Final = b"\xef\xbb\xbf"


def frame(payload: bytes) -> bytes:
    """One event that carries ``payload``. Raises ValueError when it holds a line end."""
    if b"\n" in payload or b"\r" in payload:
        raise ValueError("an event's payload cannot hold a line end")
    return b"data: " + payload + b"\n\n"


class Events:
    """Cuts a byte stream into the payloads of its events.

    At most ``event_bytes_max`` bytes of one unfinished event are kept. UpstreamProtocolError:
    ``event_size`` for more, ``line`` for a line that is no field and no comment.
    """

    def __init__(self, event_bytes_max: int = EVENT_BYTES_MAX) -> None:
        self._max = event_bytes_max
        self._rest = bytearray()
        self._after_cr = False
        self._at_start = True

    def feed(self, data: bytes) -> list[bytes]:
        """Take the next bytes; return the payloads of the events that they complete."""
        if self._after_cr or b"\r" in data:
            data = self._with_lf(data)
        rest = self._rest
        if rest:
            joint = rest[-1:] == b"\n" and data[:1] == b"\n"
            rest += data
            if not joint and b"\n\n" not in data:
                self._check(len(rest))
                return []
            data = bytes(rest)
            rest.clear()
        frames = data.split(b"\n\n")
        if last := frames.pop():
            rest += last
            self._check(len(last))
        if self._at_start and frames:
            frames[0] = frames[0].removeprefix(_BOM)
            self._at_start = False
        if len(data) > self._max:
            self._check(max(map(len, frames), default=0))
        payloads: list[bytes] = []
        for piece in frames:
            if piece.startswith(b"data: ") and b"\n" not in piece:
                payloads.append(piece[6:])
            elif (payload := self._payload(piece)) is not None:
                payloads.append(payload)
        return payloads

    def close(self) -> bytes | None:
        """The payload of an event whose blank line never came, or ``None``.

        The standard drops such an event; a reader may still look whether it was the end mark.
        """
        rest = bytes(self._rest)
        self._rest.clear()
        try:
            return self._payload(rest.removeprefix(_BOM) if self._at_start else rest)
        except UpstreamProtocolError:
            return None

    def _with_lf(self, data: bytes) -> bytes:
        """``data`` with LF for every line end; a CRLF torn between two pieces counts once."""
        if self._after_cr and data:
            data = data.removeprefix(b"\n")
            self._after_cr = False
        if data.endswith(b"\r"):
            self._after_cr = True
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    @staticmethod
    def _payload(piece: bytes) -> bytes | None:
        found: list[bytes] = []
        for line in piece.split(b"\n"):
            name, _, value = line.partition(b":")
            if name == b"data":
                found.append(value.removeprefix(b" "))
            elif name not in _FIELDS or b"data: {" in line or b"data:{" in line:
                raise UpstreamProtocolError("line")
        return b"\n".join(found) if found else None

    def _check(self, size: int) -> None:
        if size > self._max:
            raise UpstreamProtocolError("event_size")
