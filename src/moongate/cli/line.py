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
_DOCTOR = "See `moongate doctor`."
_UNCHARGED = f"Nothing was charged. {_DOCTOR}"
_HINTS = {
    "ledger_unavailable": _DOCTOR,
    "internal_error": _DOCTOR,
    "upstream_error": _UNCHARGED,
    "upstream_timeout": _UNCHARGED,
    "overloaded": _UNCHARGED,
}


class Unanswered(MoongateError):
    """The server could not be reached or left; the text is for the user."""


class Refusal(MoongateError):
    """The server answered with an error; the text is its message, without a full account of it.

    ``code``, ``param`` and ``status`` are the answer's own. ``text`` is what a person is told:
    the message, what to do about it, and the code.
    """

    def __init__(
        self, message: str, *, code: str = "", param: str | None = None, status: int = 0
    ) -> None:
        super().__init__(message)
        self.code, self.param, self.status = code, param, status

    @property
    def text(self) -> str:
        """The message, its field, a remedy and the code, as far as there are any."""
        told = f"{self} (at {self.param})" if self.param else str(self)
        parts = [told, _HINTS.get(self.code, ""), f"[{self.code}]" if self.code else ""]
        return " ".join(part for part in parts if part)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Line:
    """A way to one server: ``where`` is an admin socket or an address.

    An address without a path means its ``/v1``. Raises Unanswered for what is no address and
    for a key that no header can carry; neither text shows the key.
    """

    def __init__(self, where: Path | str, key: str | None = None, timeout_s: float = 900.0) -> None:
        self._where = where
        self._key = _checked(key)
        self._timeout_s = timeout_s
        self._prefix = "/v1"
        self._secure, self._host = False, ""
        self._port: int | None = None
        if isinstance(where, str):
            self._read(where)

    def _read(self, address: str) -> None:
        """Take an address apart once, so that nothing later can stumble over it."""
        try:
            parts = urlsplit(address)
            self._host, self._port = parts.hostname or "", parts.port
            self._host.encode("idna")
            fine = address.isascii() and address.isprintable() and " " not in address
        except ValueError:
            fine = False
        if not fine or parts.scheme not in {"http", "https"} or not self._host:
            raise Unanswered("MOONGATE_URL takes an address like http://127.0.0.1:8000/v1.")
        if "@" in parts.netloc:
            raise Unanswered("MOONGATE_URL takes no user and password; see MOONGATE_API_KEY.")
        self._secure = parts.scheme == "https"
        self._prefix = parts.path.rstrip("/") or "/v1"

    def __repr__(self) -> str:
        return "Line()"

    def _connection(self) -> http.client.HTTPConnection:
        if isinstance(self._where, Path):
            return _UnixConnection(self._where, self._timeout_s)
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        return kind(self._host, self._port, timeout=self._timeout_s)

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
            target += "?" + urlencode(query, errors="replace")
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
                raise _refusal(response.status, response.read())
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


def refusal(error: Any, status: int = 0) -> Refusal:
    """An error object as what it says, as far as it has the known shape."""
    if not isinstance(error, dict) or "message" not in error:
        return Refusal(
            "The answer failed." if not status else f"The server answered HTTP {status}."
        )
    param = error.get("param")
    return Refusal(
        str(error["message"]),
        code=str(error.get("code") or ""),
        param=str(param) if param else None,
        status=status,
    )


def _refusal(status: int, raw: bytes) -> Refusal:
    try:
        body = json.loads(raw)
    except ValueError:
        body = None
    return refusal(body.get("error") if isinstance(body, dict) else None, status)


def _checked(key: str | None) -> str | None:
    """``key`` when a header can carry it. The text never shows it."""
    key = (key or "").strip()
    if not key.isascii() or (key and not key.isprintable()):
        raise Unanswered(
            "MOONGATE_API_KEY is no API key: it holds a line break or a character beyond ASCII."
        )
    return key or None
