"""How an upstream says no, read into our error tree: by ``error.type``, then by status.

A pure table over status, headers and body. What the upstream wrote is read for its type and for
numbers, and goes no further: no exception here holds a word of it.

Sources: Moonshot API documentation (errors), OpenAI API reference (error codes), the error bodies
of vLLM, SGLang and the llama.cpp server.
"""

import re
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Final

import msgspec

from moongate.core.errors import (
    UpstreamDown,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamTooLong,
)

BODY_BYTES_MAX: Final = 65_536
_MESSAGE_CHARS_MAX: Final = 4_096
_RETRY_AFTER_S_MAX: Final = 600.0

_Make = Callable[[float | None], UpstreamError]


def _account(_wait: float | None) -> UpstreamError:
    return UpstreamDown("account")


def _missing(_wait: float | None) -> UpstreamError:
    return UpstreamDown("model_missing")


def _server(_wait: float | None) -> UpstreamError:
    return UpstreamDown("server_error")


def _busy(wait: float | None) -> UpstreamError:
    return UpstreamOverloaded("overloaded", retry_after_s=wait)


def _limited(wait: float | None) -> UpstreamError:
    return UpstreamOverloaded("rate_limited", retry_after_s=wait)


def _filtered(_wait: float | None) -> UpstreamError:
    return UpstreamRefused("content_filter")


def _rejected(_wait: float | None) -> UpstreamError:
    return UpstreamRefused("rejected_by_model")


def _late(_wait: float | None) -> UpstreamError:
    return UpstreamTimeout("gateway_timeout")


TYPES: Final[dict[str, _Make]] = {
    # Moonshot
    "content_filter": _filtered,
    "invalid_authentication_error": _account,
    "incorrect_api_key_error": _account,
    "permission_denied_error": _account,
    "exceeded_current_quota_error": _account,
    "resource_not_found_error": _missing,
    "engine_overloaded_error": _busy,
    "rate_limit_reached_error": _limited,
    "unexpected_output": _server,
    "server_unavailable": _busy,
    "client_closed_request": _server,
    # OpenAI and hosts that follow it
    "authentication_error": _account,
    "permission_error": _account,
    "invalid_api_key": _account,
    "insufficient_quota": _account,
    "billing_hard_limit_reached": _account,
    "model_not_found": _missing,
    "rate_limit_error": _limited,
    "rate_limit_exceeded": _limited,
    # llama.cpp server
    "unavailable_error": _busy,
}
"""``error.type`` or ``error.code`` -> what it means to us. Comes before the status."""

STATUSES: Final[dict[int, _Make]] = {
    400: _rejected,
    401: _account,
    402: _account,
    403: _account,
    404: _missing,
    408: _late,
    413: _rejected,
    422: _rejected,
    429: _limited,
    503: _busy,
    504: _late,
    529: _busy,
}
"""Status -> what it means to us where the type says nothing; the rest is a down upstream."""

_LENGTH_CODES: Final = frozenset({"context_length_exceeded", "exceed_context_size_error"})
_LENGTH_WORDS: Final = re.compile(
    r"exceeded model token limit|input token length too long|maximum context length"
    r"|longer than the model's context length|exceeds? the (?:available|model's) context"
    r"|maximum model length|max_model_len|model context window limit",
    re.IGNORECASE,
)
_LIMITS: Final = (
    re.compile(r"token limit ?: ?(\d{1,10})", re.IGNORECASE),
    re.compile(r"context length (?:is|of) (\d{1,10})", re.IGNORECASE),
    re.compile(r"context (?:length|size|window limit) \((\d{1,10})(?: tokens)?\)", re.IGNORECASE),
)
_TOTALS: Final = (
    re.compile(r"a total of (?:at least )?(\d{1,10})", re.IGNORECASE),
    re.compile(r"requested:? ?(\d{1,10})(?: tokens|\))", re.IGNORECASE),
    re.compile(r"maximum output tokens \((\d{1,10})\)", re.IGNORECASE),
)
_PROMPTS: Final = (
    re.compile(r"(\d{1,10}) in the (?:messages|prompt)\b", re.IGNORECASE),
    re.compile(r"(\d{1,10}) tokens from the input", re.IGNORECASE),
    re.compile(r"(?:input|request) \((\d{1,10}) tokens\)", re.IGNORECASE),
    re.compile(
        r"(?:contains|has|resulted in)(?: at least)? (\d{1,10})(?: input)? token", re.IGNORECASE
    ),
)
_AT_LEAST: Final = re.compile(r"contains at least \d", re.IGNORECASE)
"""vLLM stops counting as soon as it is too much: what it says then is no count."""

# Moonshot says it in words; it needs no header then.
_AFTER: Final = re.compile(r"try again after (\d{1,6}) seconds?", re.IGNORECASE)


def refusal(status: int, headers: Mapping[str, str], body: bytes) -> UpstreamError:
    """The error that a reply with a status outside 200-299 stands for; ``body`` may be cut."""
    error = _envelope(body)
    words = [str(error.get(name)) for name in ("type", "code")]
    message = error.get("message")
    message = message[:_MESSAGE_CHARS_MAX] if isinstance(message, str) else ""
    if _LENGTH_CODES.intersection(words) or (
        status in (400, 413, 422) and _LENGTH_WORDS.search(message)
    ):
        return _too_long(error, message)
    wait = retry_after_s(headers)
    if wait is None and status == 429 and (told := _AFTER.search(message)):
        wait = min(float(told[1]), _RETRY_AFTER_S_MAX)
    for word in words:
        if word in TYPES:
            return TYPES[word](wait)
    if status == 404 and not error:
        return UpstreamDown("path_missing")
    if status in STATUSES:
        return STATUSES[status](wait)
    return UpstreamDown("redirect" if 300 <= status < 400 else f"status_{status}")


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, from ``retry-after-ms`` or ``retry-after`` (a number or a date).

    ``None`` when neither is there or readable; never negative, at most ten minutes.
    """
    wait = _number(headers.get("retry-after-ms"))
    if wait is not None:
        wait /= 1000
    else:
        given = headers.get("retry-after")
        wait = _number(given)
        if wait is None and given is not None:
            wait = _until(given)
    return None if wait is None else min(max(wait, 0.0), _RETRY_AFTER_S_MAX)


def _number(text: str | None) -> float | None:
    if text is None or re.fullmatch(r"\d{1,9}(?:\.\d{1,6})?", text.strip()) is None:
        return None
    return float(text)


def _until(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, OverflowError):
        return None


def _envelope(body: bytes) -> dict[str, Any]:
    """The error object of ``body`` in any of the shapes in use; empty when there is none."""
    try:
        whole = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    if not isinstance(whole, dict):
        return {}
    inner = whole.get("error", whole)
    if isinstance(inner, str):
        return {"message": inner}
    return inner if isinstance(inner, dict) else {}


def _too_long(error: dict[str, Any], message: str) -> UpstreamTooLong:
    """Context exceeded, with the numbers where they are told; the words stand in otherwise."""
    prompt = _count(error.get("n_prompt_tokens")) or _find(_PROMPTS, message)
    total = _find(_TOTALS, message)
    return UpstreamTooLong(
        needs=total or prompt,
        limit=_count(error.get("n_ctx")) or _find(_LIMITS, message),
        prompt=prompt,
        total=total,
        exact=_AT_LEAST.search(message) is None,
    )


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 < value < 10**10 else None


def _find(patterns: tuple[re.Pattern[str], ...], message: str) -> int | None:
    for pattern in patterns:
        found = pattern.search(message)
        if found is not None:
            return int(found[1])
    return None
