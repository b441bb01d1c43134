"""HTTP to a Moongate server, over its admin socket or by its address. Synchronous.

The standard library's client suffices: a command holds one conversation, and starts quickly.
"""

import http.client
import json
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from moongate.core.errors import MoongateError

_PIECE = 65_536


class Unanswered(MoongateError):
    """The server could not be reached or left; the text is for the user."""


class Refusal(MoongateError):
    """The server answered with an error; the text is its message."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Line:
    """A way to one server: ``where`` is an admin socket or an address ending in ``/v1``."""

    def __init__(self, where: Path | str, key: str | None = None, timeout_s: float = 900.0) -> None:
        self._where = where
        self._key = key
        self._timeout_s = timeout_s
        self._prefix = "/v1"
        if isinstance(where, str):
            parts = urlsplit(where)
            if parts.scheme not in {"http", "https"} or not parts.hostname:
                raise Unanswered(
                    "MOONGATE_URL takes an address like http://127.0.0.1:8000/v1."
                ) from None
            self._prefix = parts.path.rstrip("/")

    def __repr__(self) -> str:
        return "Line()"

    def _connection(self) -> http.client.HTTPConnection:
        if isinstance(self._where, Path):
            return _UnixConnection(self._where, self._timeout_s)
        parts = urlsplit(self._where)
        kind = (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )
        return kind(parts.hostname or "", parts.port, timeout=self._timeout_s)

    def call(
        self, verb: str, path: str, query: Mapping[str, str] | None = None, body: Any = None
    ) -> Any:
        """One exchange in JSON. Raises Unanswered and Refusal."""
        with self.exchange(verb, path, query, body) as response:
            return _decoded(b"".join(response))

    @contextmanager
    def exchange(
        self, verb: str, path: str, query: Mapping[str, str] | None = None, body: Any = None
    ) -> Iterator[Iterator[bytes]]:
        """Send, and yield the body of a good answer piece by piece as it comes."""
        target = path.replace("/v1", self._prefix, 1) if path.startswith("/v1") else path
        if query:
            target += "?" + urlencode(query)
        headers = {"accept": "application/json, text/event-stream"}
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            headers["content-type"] = "application/json"
        if self._key:
            headers["authorization"] = f"Bearer {self._key}"
        connection = self._connection()
        try:
            connection.request(verb, target, data, headers)
            response = connection.getresponse()
            if response.status >= 300:
                raise Refusal(_message(response.status, response.read()))
            yield _pieces(response)
        except (OSError, http.client.HTTPException) as error:
            raise Unanswered(self._trouble(error)) from None
        finally:
            connection.close()

    def _trouble(self, error: OSError | http.client.HTTPException) -> str:
        name = "The server" if isinstance(self._where, Path) else self._where
        match error:
            case TimeoutError():
                return f"{name} did not answer within {self._timeout_s:g} s."
            case ConnectionRefusedError() | FileNotFoundError():
                return f"{name} is not there: nothing listens. Is it running?"
            case PermissionError():
                return f"{name} runs as another user: its socket is not yours to open."
            case ssl.SSLError():
                return f"{name} does not speak TLS as it should."
            case socket.gaierror():
                return f"{name} has a host name that does not resolve."
            case http.client.HTTPException():
                return f"{name} does not speak HTTP as it should, or stopped in mid-answer."
            case _:
                return f"{name} cannot be reached: {(error.strerror or 'it left').lower()}."


def _pieces(response: http.client.HTTPResponse) -> Iterator[bytes]:
    while piece := response.read1(_PIECE):
        yield piece


def _decoded(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        raise Unanswered("The server's answer is not JSON.") from None


def _message(status: int, raw: bytes) -> str:
    """An error body's message and code, as far as it has the known shape."""
    try:
        error = json.loads(raw)["error"]
        text, code, param = str(error["message"]), error.get("code"), error.get("param")
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"The server answered HTTP {status}."
    at = f" (at {param})" if param else ""
    return f"{text}{at} [{code}]" if code else f"{text}{at}"
