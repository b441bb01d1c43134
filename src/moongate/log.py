"""Structured events made of scalars; there is no way to log content.

An event has a name and fields from the closed table :data:`FIELDS`. A number or flag is written
as it is; a string must look like an identifier of ours, else ``?`` stands in its place.
Library loggers and warnings are reduced to the logger's name and an exception's type: their
messages may hold a request's bytes.
"""

import logging
import re
import sys
import time
import warnings
from typing import Final, TextIO

import msgspec

FIELDS: Final = {
    "account": "the account's id",
    "amount_nanos": "nano-dollars",
    "attempt": "which try at an upstream",
    "cached": "cached prompt tokens",
    "code": "an error's code",
    "count": "how many",
    "duration_ms": "milliseconds from acceptance to the end",
    "error": "an exception's type",
    "estimated": "whether counts are ours",
    "first_token_ms": "milliseconds to the first content",
    "input": "uncached prompt tokens",
    "key": "the key's id",
    "kind": "a word for what happened",
    "logger": "a library's logger",
    "model": "the catalogue's id of a model",
    "outcome": "how the request ended",
    "output": "output tokens",
    "request": "the request's id",
    "status": "the HTTP status",
    "streamed": "whether the answer was streamed",
    "upstream": "the upstream's configured name",
    "worker": "which of a server's workers, from 1",
}
"""Every field that a log line may carry. A test compares it with what is published as kept."""

_WORD: Final = re.compile(r"[A-Za-z0-9_.:/\[\]-]{1,128}")

_encode: Final = msgspec.json.Encoder().encode

Scalar = str | int | bool | None


class Log:
    """Writes one line an event: JSON, or ``time event key=value`` for a terminal."""

    def __init__(self, stream: TextIO | None = None, *, as_json: bool | None = None) -> None:
        self._stream = stream or sys.stderr
        self._second = (0, "")
        self._json = not self._stream.isatty() if as_json is None else as_json

    def event(self, name: str, /, **fields: Scalar) -> None:
        """Write one event. Raises KeyError for a field that is not in :data:`FIELDS`."""
        clean: dict[str, Scalar] = {}
        for key, value in fields.items():
            FIELDS[key]
            if value is None:
                continue
            clean[key] = value if not isinstance(value, str) or _WORD.fullmatch(value) else "?"
        second, ms = divmod(time.time_ns() // 1_000_000, 1000)
        if second != self._second[0]:
            self._second = (second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)))
        stamp = self._second[1]
        if self._json:
            line = _encode({"time": f"{stamp}.{ms:03d}Z", "event": name, **clean}).decode()
        else:
            line = f"{stamp[11:]} {name} " + " ".join(f"{k}={v}" for k, v in clean.items())
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            # A closed terminal or a full disk under the log must not fail a request.
            return


class _TypesOnly(logging.Handler):
    """Passes on which library complained and with what type of exception, no message."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[0] if record.exc_info else None
        self._log.event(
            "library", logger=record.name, error=error.__name__ if error is not None else None
        )


def hush(log: Log) -> None:
    """Route every library's logger and warning through ``log``, types only; called once."""
    root = logging.getLogger()
    root.handlers[:] = [_TypesOnly(log)]
    root.setLevel(logging.WARNING)
    logging.raiseExceptions = False

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        del message, filename, lineno, file, line
        log.event("library", logger="warnings", error=category.__name__)

    # What a library warns of may quote a request: aiohttp does, of a form that is ill written.
    warnings.showwarning = show
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # a warning that is told is also remembered, with its text
