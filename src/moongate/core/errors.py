"""Every error that we can say, in one tree and one table.

    MoongateError
    ├── Refused              an answer of ours to the client: one row of ROWS
    ├── UpstreamError        an upstream let us down; the gateway turns it into a Refused
    │   ├── UpstreamDown         no connection, 5xx, or our own account there is the trouble
    │   ├── UpstreamOverloaded   429 or 503: try elsewhere or later
    │   ├── UpstreamTimeout      it stayed silent too long
    │   ├── UpstreamProtocolError  it sent what its dialect does not allow
    │   │   └── NotAsPromised        its model's answer is not what was asked
    │   └── UpstreamRefused      a 400 that is the client's to fix; carries the row's code
    │       └── UpstreamTooLong      prompt and cap do not fit there; carries its own numbers
    ├── FetchError           something at an address that a client named did not come
    │   ├── UrlRefused           the address, or one on the way, may not be fetched
    │   └── FetchFailed          it may be, and did not come: silence, a status, its size
    ├── ClientLeft           the client hung up, or read too slowly
    ├── LedgerUnavailable    the store cannot commit now; nothing was charged
    └── ConfigurationError   start-up cannot go on; the text is for the operator

No message repeats input: it names field paths and limits only. ``param`` is a path built by
our readers out of names that match ``[A-Za-z0-9_.-]{1,64}``.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

_NAME = re.compile(r"[A-Za-z0-9_.$-]{1,64}")


def safe_name(name: str) -> str:
    """``name`` when it is a plain identifier, else ``?``: what clients chose is not echoed."""
    return name if _NAME.fullmatch(name) else "?"


class Row(msgspec.Struct, frozen=True):
    """One row of the error table. ``retry`` is what ``x-should-retry`` says, if anything."""

    status: int
    type: str
    message: str
    retry: bool | None = None
    close: bool = False


_IRE: Final = "invalid_request_error"
_USED: Final = "This Idempotency-Key was used before."

ROWS: Final[dict[str, Row]] = {
    "missing_api_key": Row(401, "authentication_error", "You didn't provide an API key."),
    "invalid_api_key": Row(401, "authentication_error", "Incorrect API key provided."),
    "insufficient_permissions": Row(403, "permission_error", "This key may not use this {thing}."),
    "insufficient_quota": Row(
        402, "insufficient_quota", "Insufficient credits for this request.", retry=False
    ),
    "invalid_idempotency_key": Row(400, _IRE, "Idempotency-Key is not valid."),
    "idempotency_mismatch": Row(422, "idempotency_error", _USED, retry=False),
    "idempotency_in_progress": Row(409, "idempotency_error", _USED),
    "idempotency_completed": Row(409, "idempotency_error", _USED, retry=False),
    "rate_limit_exceeded": Row(429, "rate_limit_error", "Rate limit reached for {dimension}."),
    "unknown_url": Row(404, _IRE, "Unknown request URL."),
    "method_not_allowed": Row(405, _IRE, "Method not allowed."),
    "unsupported_media_type": Row(415, _IRE, "Use {wanted}."),
    "unsupported_content_encoding": Row(415, _IRE, "Compressed bodies are not accepted."),
    "invalid_json": Row(400, _IRE, "Body is not valid JSON (byte {byte})."),
    "invalid_unicode": Row(400, _IRE, "Body is not valid UTF-8 text."),
    "json_too_complex": Row(400, _IRE, "JSON is too deeply nested or too large."),
    "request_too_large": Row(413, _IRE, "Request body exceeds {limit} bytes.", close=True),
    "duplicate_key": Row(400, _IRE, "Duplicate field."),
    "model_not_found": Row(404, _IRE, "The model does not exist or is not available."),
    "missing_required_parameter": Row(400, _IRE, "{what}"),
    "invalid_type": Row(400, _IRE, "{what}"),
    "invalid_value": Row(400, _IRE, "{what}"),
    "invalid_tool_call_id": Row(400, _IRE, "No tool call with this id precedes it."),
    "context_length_exceeded": Row(
        400,
        _IRE,
        "Request needs {needs} tokens; the limit is {limit}. "
        "Your request exceeded model token limit : {limit}",
    ),
    "unsupported_schema": Row(400, _IRE, "Schema feature not supported: {keyword}."),
    "unsupported_ability": Row(400, _IRE, "This model does not take {ability} here."),
    "unsuitable_prefix": Row(400, _IRE, "No answer of the format asked for begins like that."),
    "image_url_not_allowed": Row(400, _IRE, "This URL cannot be fetched."),
    "image_fetch_failed": Row(400, _IRE, "The image could not be downloaded."),
    "invalid_image": Row(400, _IRE, "The image is not valid or too large."),
    "invalid_video": Row(400, _IRE, "The video is not valid or too large."),
    "unsupported_image": Row(400, _IRE, "This model reads pictures as {formats} only."),
    "file_not_found": Row(400, _IRE, "No file of yours has this id: {why}."),
    "unknown_parameter": Row(400, _IRE, "Unknown parameter."),
    "content_filter": Row(400, _IRE, "The request was rejected by the model's content filter."),
    "rejected_by_model": Row(400, _IRE, "The model's server refused this request as invalid."),
    "invalid_header": Row(400, _IRE, "Invalid or oversized headers.", close=True),
    "oversized_header": Row(431, _IRE, "Invalid or oversized headers.", close=True),
    "invalid_http": Row(400, _IRE, "Malformed HTTP request.", close=True),
    "misdirected_request": Row(421, _IRE, "Unknown host."),
    "request_timeout": Row(408, _IRE, "Timed out reading the request.", close=True),
    "not_found": Row(404, _IRE, "There is no such {thing}."),
    "conflict": Row(409, _IRE, "{what}"),
    "invalid_signature": Row(400, _IRE, "The signature is missing, wrong or too old."),
    "invalid_invitation": Row(
        404, _IRE, "This invitation is not known, was used, or has expired. Ask for a new one."
    ),
    "payments_unavailable": Row(
        502, "server_error", "The payment page cannot be opened now; nothing was paid."
    ),
    "upstream_error": Row(502, "server_error", "The model is unavailable."),
    "overloaded": Row(503, "server_error", "The model is unavailable."),
    "upstream_timeout": Row(504, "server_error", "The model is unavailable."),
    "stream_interrupted": Row(502, "server_error", "The model stream was interrupted."),
    "ledger_unavailable": Row(
        503, "server_error", "Billing is temporarily unavailable; nothing was charged."
    ),
    "no_room": Row(503, "server_error", "There is no room for uploads now; try again later."),
    "draining": Row(503, "server_error", "The server is shutting down; try again."),
    "no_zdr_route": Row(403, "permission_error", "No upstream meets this key's data policy."),
    "search_failed": Row(502, "server_error", "The search failed: {why}. Nothing was charged."),
    "internal_error": Row(500, "server_error", "An internal error occurred; nothing was charged."),
}
"""Code -> row. Facts in braces are filled from scalars that we computed, never from input."""

_SPELLING: Final = {"stream_interrupted": "upstream_error", "oversized_header": "invalid_header"}

CODES: Final = frozenset(_SPELLING.get(key, key) for key in ROWS)
"""Every code that a client can see."""


class MoongateError(Exception):
    """The root of the tree."""


class Refused(MoongateError):
    """What the client is told: a row of :data:`ROWS`, the field at fault, a time to wait.

    ``retry_after_s`` becomes ``retry-after`` and ``retry-after-ms``; ``headers`` go out as well
    (values of ours only). ``facts`` fill the row's message. Raises KeyError for an unknown code.
    """

    def __init__(
        self,
        code: str,
        param: str | None = None,
        *,
        retry_after_s: float | None = None,
        headers: Mapping[str, str] | None = None,
        **facts: Any,
    ) -> None:
        self.row = ROWS[code]
        self.key = code
        self.param = param
        self.retry_after_s = retry_after_s
        self._headers = dict(headers or {})
        self.message = self.row.message.format(**facts)
        super().__init__(code)

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.row.status

    @property
    def code(self) -> str:
        """The code as clients see it."""
        return _SPELLING.get(self.key, self.key)

    def headers(self) -> dict[str, str]:
        """The response headers that belong to this error."""
        out = dict(self._headers)
        if self.retry_after_s is not None:
            out["retry-after"] = str(max(1, -int(-self.retry_after_s // 1)))
            out["retry-after-ms"] = str(max(1, round(self.retry_after_s * 1000)))
        if self.row.retry is not None:
            out["x-should-retry"] = "true" if self.row.retry else "false"
        return out

    def body(self) -> dict[str, dict[str, str | None]]:
        """The OpenAI error object."""
        return {
            "error": {
                "message": self.message,
                "type": self.row.type,
                "param": self.param,
                "code": self.code,
            }
        }


class UpstreamError(MoongateError):
    """An upstream let us down. ``kind`` is a word for logs; ``retriable`` before any byte."""

    code = "upstream_error"
    retriable = True
    unhealthy: bool = True
    """Whether it speaks against the upstream's health: five in a row eject it for a while."""

    def __init__(self, kind: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(kind)
        self.kind = kind
        self.retry_after_s = retry_after_s


class UpstreamDown(UpstreamError):
    """No connection, a 5xx, or our own account there is the trouble (``kind`` tells which)."""


class UpstreamOverloaded(UpstreamError):
    """429 or 503: it has no room now."""

    code = "overloaded"


class UpstreamTimeout(UpstreamError):
    """It stayed silent longer than its first-token or idle limit."""

    code = "upstream_timeout"
    retriable = False


class UpstreamProtocolError(UpstreamError):
    """It sent something that its dialect does not allow, or stopped without an end."""

    retriable = False


class NotAsPromised(UpstreamProtocolError):
    """The model's answer is not what was asked: no fault of the upstream's health."""

    unhealthy = False

    def __init__(self) -> None:
        super().__init__("not_as_promised")


class UpstreamRefused(UpstreamError):
    """It refused the request itself: ``row`` is the code of :data:`ROWS` that the client gets."""

    retriable = False

    def __init__(self, row: str, **facts: str | int) -> None:
        super().__init__(row)
        self.row = row
        self.facts: dict[str, Any] = dict(facts)


class UpstreamTooLong(UpstreamRefused):
    """Prompt and output cap do not fit in its window, as it counts: tokens, as far as it told them.

    ``prompt`` is the prompt alone, or the least that it is where not ``exact``; ``total`` is prompt
    and cap together. ``facts`` fill row 22, should the client be told.
    """

    def __init__(
        self,
        *,
        needs: int | None = None,
        limit: int | None = None,
        prompt: int | None = None,
        total: int | None = None,
        exact: bool = True,
    ) -> None:
        super().__init__(
            "context_length_exceeded",
            needs="more" if needs is None else needs,
            limit="the model's window" if limit is None else limit,
        )
        self.limit, self.prompt, self.total, self.exact = limit, prompt, total, exact


class FetchError(MoongateError):
    """What is at an address that a client named did not come. ``kind`` is a word for logs."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


class UrlRefused(FetchError):
    """The address may not be fetched: its scheme, port or host, or what lies behind its name."""


class FetchFailed(FetchError):
    """It may be fetched, and did not come: unknown, silent, another status than 200, too large."""


class ClientLeft(MoongateError):
    """The client hung up, or read too slowly: nobody is there to answer."""


class LedgerUnavailable(MoongateError):
    """The store cannot commit now (gone, full, read-only): ``kind`` is a word for logs."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


class ConfigurationError(MoongateError):
    """Start-up cannot go on. The text is written for the operator: what is wrong, what to do."""
