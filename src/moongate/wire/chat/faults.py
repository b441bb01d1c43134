"""What an upstream's error object means in our table; its text is read here and goes no further.

Moonshot tells errors apart by ``error.type`` (its API reference); OpenAI by ``code`` too; vLLM by
a class name in ``type`` and the HTTP status in ``code``; llama.cpp's server by ``type``. An error
that none of them explains is the upstream's own failure.
"""

from typing import Any, Final

FAULTS: Final[dict[str, str]] = {
    # Moonshot
    "content_filter": "content_filter",
    "engine_overloaded_error": "overloaded",
    "rate_limit_reached_error": "overloaded",
    "server_unavailable": "overloaded",
    "invalid_request_error": "rejected_by_model",
    # OpenAI and those who copy it
    "rate_limit_error": "overloaded",
    "rate_limit_exceeded": "overloaded",
    "overloaded_error": "overloaded",
    "timeout": "upstream_timeout",
    # vLLM, SGLang
    "BadRequestError": "rejected_by_model",
    # llama.cpp's server
    "exceed_context_size_error": "rejected_by_model",
    "unavailable_error": "overloaded",
}
"""An error's ``type`` or ``code`` -> a code of ours. What is missing is ``upstream_error``: keys,
permissions and the quota of our own account there are nothing that a client could mend."""

_STATUS: Final = {
    400: "rejected_by_model",
    408: "upstream_timeout",
    429: "overloaded",
    503: "overloaded",
    504: "upstream_timeout",
}
_OWN_TROUBLE: Final = frozenset({"exceeded_current_quota_error", "insufficient_quota"})


def fault_of(error: Any) -> str:
    """The code of ours for an ``error`` object (or anything that stands in its place).

    One of ``content_filter``, ``overloaded``, ``rejected_by_model``, ``upstream_timeout``,
    ``upstream_error``.
    """
    if not isinstance(error, dict):
        return "upstream_error"
    said = [error.get("type"), error.get("code")]
    if any(isinstance(word, str) and word in _OWN_TROUBLE for word in said):
        return "upstream_error"
    for word in said:
        if isinstance(word, str) and word in FAULTS:
            return FAULTS[word]
    status = error.get("code")
    if isinstance(status, str) and status.isascii() and status.isdecimal() and len(status) == 3:
        status = int(status)
    return _STATUS.get(status, "upstream_error") if isinstance(status, int) else "upstream_error"
