"""The HTTP server: one door, where path, host, credential and method are decided, deny by default.

It is aiohttp's low-level server without its application layer. What its parser refuses is answered
with our error bodies, and none of a request's bytes reach a log. The same door serves the admin
socket, whose file mode (0600) is the credential.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from ipaddress import ip_address
from typing import Any, Final, Literal
from urllib.parse import unquote, urlsplit

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import InvalidHeader, LineTooLong
from aiohttp.web_protocol import RequestHandler

from moongate.access.keys import Keys, Principal
from moongate.core.errors import LedgerUnavailable, Refused
from moongate.core.ids import new_id
from moongate.core.ports import Clock
from moongate.log import Log
from moongate.web.reply import HttpReply, whole
from moongate.web.routes import Route, Router

KEEP_ALIVE_S: Final = 75.0
_HEADERS_MAX: Final = 100
_FIELD_MAX: Final = 8190
HEAD_S: Final = 10.0
_HEADER_WORDS: Final = ("Missing 'Host'", "Duplicate 'Host", "Duplicate 'host", "Invalid header")
_JUDGED_LATER: Final = ("public", "code", "signature")
"""Policies that ask for no key: nobody is asked, or the handler judges what the body carries."""
_encode = msgspec.json.encode


class Hit:
    """One HTTP request at its route. ``principal`` is known unless the gateway is to ask."""

    def __init__(self, request: web.BaseRequest, route: Route, rest: str, id: str) -> None:
        self.request, self.route, self.rest, self.id = request, route, rest, id
        self.principal: Principal | None = None
        self.reply = HttpReply(request)

    def __repr__(self) -> str:
        return f"Hit({self.id}, {self.route.path})"

    def bearer(self) -> str | None:
        """The secret of ``Authorization: Bearer``, if any."""
        scheme, _, secret = self.request.headers.get("authorization", "").partition(" ")
        return secret.strip() if scheme.lower() == "bearer" else None


Handler = Callable[[Hit], Awaitable[web.StreamResponse]]
Count = Callable[[Principal], Awaitable[dict[str, str]]]
"""Takes one request of a key's rates; returns the headers that tell how they stand."""


class Door:
    """Lets requests in: finds the route, checks host and credential, calls the handler.

    ``count`` is asked before the handlers of routes that count requests; the admin socket has none.
    """

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        keys: Keys,
        clock: Clock,
        log: Log,
        *,
        hosts: tuple[str, ...] = (),
        metrics: Literal["loopback", "key", "off"] = "loopback",
        local: Principal | None = None,
        count: Count | None = None,
    ) -> None:
        self._router = Router(handlers=handlers)
        self._handlers, self._keys, self._clock, self._log = handlers, keys, clock, log
        self._hosts = frozenset(host.lower() for host in hosts)
        self._metrics = metrics
        self._principal, self._count = local, count
        self.local = local is not None
        self.closing = False

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer ``request``; what goes wrong becomes an error body, never a page or a trace."""
        id = new_id("req_", self._clock.now_ms())
        try:
            response = await self._enter(request, id)
        except Refused as error:
            response = self._refused(error, id)
        except LedgerUnavailable as error:
            self._log.event("ledger_unavailable", request=id, kind=error.kind)
            response = self._refused(Refused("ledger_unavailable", retry_after_s=2), id)
        except ConnectionError:
            raise
        except Exception as error:  # noqa: BLE001 - the last line: a fault of ours is a 500, logged by type
            self._log.event("fault", request=id, error=type(error).__name__)
            response = self._refused(Refused("internal_error"), id)
        if self.closing:
            response.force_close()
        return response

    async def _enter(self, request: web.BaseRequest, id: str) -> web.StreamResponse:
        path = self._path(request)
        route, rest = self._router.find(request.method, path)
        hit = Hit(request, route, rest, id)
        await self._admit(hit)
        standing = await self._counted(hit)
        response = await self._handlers[route.handler](hit)
        if standing:
            response.headers.update(standing)
        return response

    def _path(self, request: web.BaseRequest) -> str:
        """The decoded path of the raw target; checks the host that the request names."""
        target = request.raw_path
        host = request.headers.get("host", "")
        if not target.startswith("/"):
            parts = urlsplit(target)
            host, target = parts.netloc, parts.path or "/"
        if self._hosts and not self.local and _name(host) not in self._hosts:
            raise Refused("misdirected_request")
        raw = target.partition("?")[0]
        try:
            path = unquote(raw, errors="strict")
        except UnicodeDecodeError:
            raise Refused("invalid_http") from None
        if "\0" in path:
            raise Refused("invalid_http")
        return path

    async def _admit(self, hit: Hit) -> None:
        """Check the credential as the route's policy says."""
        auth = hit.route.auth
        if self._principal is not None:
            hit.principal = self._principal
            return
        if auth == "operator":
            auth = self._operator(hit)
        if auth in _JUDGED_LATER or hit.route.money == "hold":
            return
        hit.principal = await self._keys.identify(hit.bearer())
        if auth == "admin" and not hit.principal.admin:
            raise Refused("insufficient_permissions", thing="endpoint")

    async def _counted(self, hit: Hit) -> dict[str, str]:
        """Take what the route's limit says here; returns the headers of the rates."""
        if hit.route.limit != "requests" or self._count is None or hit.principal is None:
            return {}
        return await self._count(hit.principal)

    def _operator(self, hit: Hit) -> Literal["public", "key"]:
        if self._metrics == "off" or (self._metrics == "loopback" and not _loopback(hit.request)):
            raise Refused("unknown_url")
        return "key" if self._metrics == "key" else "public"

    def _refused(self, error: Refused, id: str) -> web.Response:
        response = whole(
            error.status, _encode(error.body()), {"x-request-id": id, **error.headers()}
        )
        if error.row.close:
            response.force_close()
        return response


def _name(host: str) -> str:
    """The host name without its port, lower case; IPv6 brackets removed."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _loopback(request: web.BaseRequest) -> bool:
    try:
        return ip_address(request.remote or "").is_loopback
    except ValueError:
        return False


class _Protocol(RequestHandler):
    """aiohttp's connection handler, answering what its parser refuses in our words.

    A head that is not whole after ``HEAD_S`` is answered 408; so is a connection that says nothing.
    """

    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._has_head():
            self._stop_timer()
        elif self._head_timer is None:
            self._await_head()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def _has_head(self) -> bool:
        return bool(self._messages) or self._current_request is not None

    def _await_head(self) -> None:
        loop = asyncio.get_running_loop()
        self._head_timer = loop.call_later(HEAD_S, self._head_is_late)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self.transport is None or self._has_head():
            return
        error = Refused("request_timeout")
        body = _encode(error.body())
        self.transport.write(
            b"HTTP/1.1 408 Request Timeout\r\nserver: moongate\r\nconnection: close\r\n"
            b"content-type: application/json\r\nx-request-id: %s\r\ncontent-length: %d\r\n\r\n%s"
            % (_fresh_id().encode(), len(body), body)
        )
        self.force_close()
        self.transport.close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - it may hold the request's bytes
    ) -> web.StreamResponse:
        if request.writer.output_size > 0:
            self.force_close()
            raise ConnectionError("the response has begun")
        error = Refused(_parser_code(exc) if status < 500 else "internal_error")
        response = whole(error.status, _encode(error.body()), {"x-request-id": _fresh_id()})
        response.force_close()
        return response

    def log_debug(self, *args: Any, **kw: Any) -> None:
        """Say nothing: the text may hold the request's bytes."""

    def log_exception(self, *args: Any, **kw: Any) -> None:  # noqa: ARG002 - see below
        """Pass on the exception's type alone, through the library's logger."""
        error = kw.get("exc_info")
        self.logger.warning("connection", exc_info=error if isinstance(error, Exception) else None)


def _fresh_id() -> str:
    return new_id("req_", time.time_ns() // 1_000_000)


def _parser_code(exc: BaseException | None) -> str:
    """The error table's code for what aiohttp's parser refused; its text is matched, not shown."""
    said = getattr(exc, "message", "")
    if isinstance(exc, LineTooLong) or said.startswith("Too many headers"):
        return "oversized_header"
    if isinstance(exc, InvalidHeader) or said.startswith(_HEADER_WORDS):
        return "invalid_header"
    return "invalid_http"


class Server(web.Server):
    """aiohttp's low-level server with our connection handler and limits."""

    def __init__(self, door: Door) -> None:
        super().__init__(door, handler_cancellation=True)
        self._options: dict[str, Any] = {
            "access_log": None,
            "auto_decompress": False,
            "keepalive_timeout": KEEP_ALIVE_S,
            "lingering_time": 2.0,
            "max_field_size": _FIELD_MAX,
            "max_headers": _HEADERS_MAX,
            "max_line_size": _FIELD_MAX,
        }

    def __call__(self) -> RequestHandler:
        return _Protocol(self, loop=asyncio.get_running_loop(), **self._options)
