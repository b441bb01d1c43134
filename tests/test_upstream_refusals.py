"""Every way in which an upstream says no, and what it is to us."""

import json
import time
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moongate.core.errors import (
    Refused,
    UpstreamDown,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamTooLong,
)
from moongate.upstream.refusals import STATUSES, TYPES, refusal, retry_after_s

CANARY = "CANARY-text-of-the-other-side"


def moonshot(status: int, kind: str, message: str = CANARY) -> tuple[int, bytes]:
    return status, json.dumps({"error": {"message": message, "type": kind}}).encode()


def openai(status: int, kind: str, code: str | None) -> tuple[int, bytes]:
    error = {"message": CANARY, "type": kind, "param": None, "code": code}
    return status, json.dumps({"error": error}).encode()


ROWS: list[tuple[tuple[int, bytes], type[UpstreamError], str]] = [
    (moonshot(400, "content_filter"), UpstreamRefused, "content_filter"),
    (moonshot(400, "invalid_request_error"), UpstreamRefused, "rejected_by_model"),
    (moonshot(400, "invalid_request_error", "invalid temperature: only 1"), UpstreamRefused,
     "rejected_by_model"),
    (moonshot(401, "invalid_authentication_error"), UpstreamDown, "account"),
    (moonshot(401, "incorrect_api_key_error"), UpstreamDown, "account"),
    (moonshot(403, "permission_denied_error"), UpstreamDown, "account"),
    (moonshot(404, "resource_not_found_error"), UpstreamDown, "model_missing"),
    (moonshot(429, "engine_overloaded_error"), UpstreamOverloaded, "overloaded"),
    (moonshot(429, "exceeded_current_quota_error"), UpstreamDown, "account"),
    (moonshot(403, "exceeded_current_quota_error"), UpstreamDown, "account"),
    (moonshot(429, "rate_limit_reached_error"), UpstreamOverloaded, "rate_limited"),
    (moonshot(500, "server_error"), UpstreamDown, "status_500"),
    (moonshot(500, "unexpected_output"), UpstreamDown, "server_error"),
    (moonshot(499, "client_closed_request"), UpstreamDown, "server_error"),
    (moonshot(503, "server_unavailable"), UpstreamOverloaded, "overloaded"),
    ((504, b"<html>gateway timeout</html>"), UpstreamTimeout, "gateway_timeout"),
    (openai(401, "invalid_request_error", "invalid_api_key"), UpstreamDown, "account"),
    (openai(402, "insufficient_quota", "insufficient_quota"), UpstreamDown, "account"),
    (openai(429, "insufficient_quota", "insufficient_quota"), UpstreamDown, "account"),
    (openai(429, "tokens", "rate_limit_exceeded"), UpstreamOverloaded, "rate_limited"),
    (openai(404, "invalid_request_error", "model_not_found"), UpstreamDown, "model_missing"),
    (openai(400, "invalid_request_error", "model_not_found"), UpstreamDown, "model_missing"),
    (openai(400, "invalid_request_error", None), UpstreamRefused, "rejected_by_model"),
    ((422, b'{"detail":[{"loc":["body"]}]}'), UpstreamRefused, "rejected_by_model"),
    ((413, b""), UpstreamRefused, "rejected_by_model"),
    ((408, b""), UpstreamTimeout, "gateway_timeout"),
    ((429, b""), UpstreamOverloaded, "rate_limited"),
    ((503, b'{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}'),
     UpstreamOverloaded, "overloaded"),
    ((401, b"no"), UpstreamDown, "account"),
    ((403, b"\xff\xfe"), UpstreamDown, "account"),
    ((404, b"<html>"), UpstreamDown, "path_missing"),
    ((404, b'{"object":"error","message":"m","type":"NotFoundError","code":404}'), UpstreamDown,
     "model_missing"),
    ((405, b""), UpstreamDown, "status_405"),
    ((500, b"[" * 100_000), UpstreamDown, "status_500"),
    ((502, b"null"), UpstreamDown, "status_502"),
    ((302, b""), UpstreamDown, "redirect"),
    ((400, b'{"error":"a plain string"}'), UpstreamRefused, "rejected_by_model"),
]  # fmt: skip


REJECTED = [
    # What Moonshot says of a request, in its own words; the client is told ours.
    "Invalid request: {details}",
    "invalid temperature: only 0.6 is allowed for this model",
    "invalid n: only 1 is allowed for this model",
    "thinking is enabled but reasoning_content is missing … at index 3",
    "tool_choice 'required' is incompatible with thinking enabled",
    "tool_choice 'specified' is incompatible with thinking enabled",
    "function name look is duplicated",
    "unsupported image url",
    "text content is empty",
    "tool_call_id call_1 not found",
    "tokenization failed",
    "Invalid purpose: only 'file-extract' accepted",
    "File size is zero, please confirm and re-upload the file",
]
ACCOUNT = [
    (401, "invalid_authentication_error", "Invalid Authentication"),
    (401, "incorrect_api_key_error", "Incorrect API key provided"),
    (403, "permission_denied_error", "The API you are accessing is not open"),
    (403, "permission_denied_error", "You are not allowed to get other user info"),
    (403, "permission_denied_error", "Your IP is not allowed to access"),
    (429, "exceeded_current_quota_error", "Your account org-1 is suspended, check your plan"),
    (429, "exceeded_current_quota_error", "You exceeded your current token quota: 9"),
    (403, "exceeded_current_quota_error", "please check your account balance"),
]
LIMITED = [
    (
        "Your account org-1<ak-1> request reached max concurrency: 3, please try again "
        "after 1 seconds"
    ),
    ("Your account org-1<ak-1> request reached max RPM: 9, please try again after 1 seconds"),
    "Your account org-1<ak-1> request reached organization TPM rate limit, current:9, limit:8",
    "Your account org-1<ak-1> request reached organization TPD rate limit, current:9, limit:8",
]


@pytest.mark.parametrize("message", REJECTED)
def test_moonshots_complaints_are_the_clients_to_mend(message: str) -> None:
    error = refusal(400, {}, moonshot(400, "invalid_request_error", message)[1])
    assert (type(error), error.kind) == (UpstreamRefused, "rejected_by_model")
    told = Refused("rejected_by_model").message
    assert message not in told


@pytest.mark.parametrize(("status", "kind", "message"), ACCOUNT)
def test_trouble_with_our_own_account_there_is_never_the_customers(
    status: int, kind: str, message: str
) -> None:
    error = refusal(status, {"retry-after": "1"}, moonshot(status, kind, message)[1])
    assert (type(error), error.kind) == (UpstreamDown, "account")


@pytest.mark.parametrize("message", LIMITED)
def test_a_limit_there_says_how_long_to_wait_if_only_in_words(message: str) -> None:
    error = refusal(429, {}, moonshot(429, "rate_limit_reached_error", message)[1])
    assert (type(error), error.kind) == (UpstreamOverloaded, "rate_limited")
    assert error.retry_after_s == (1.0 if "seconds" in message else None)
    error = refusal(429, {"retry-after": "7"}, moonshot(429, "x", message)[1])
    assert error.retry_after_s == 7.0


@pytest.mark.parametrize(("reply", "kind", "word"), ROWS)
def test_each_refusal_is_one_error_of_ours(
    reply: tuple[int, bytes], kind: type[UpstreamError], word: str
) -> None:
    status, body = reply
    error = refusal(status, {}, body)
    assert type(error) is kind
    assert error.kind == word
    assert CANARY not in repr(error) + str(error)
    if isinstance(error, UpstreamRefused):
        assert Refused(error.row, **error.facts).status == 400


def test_every_type_and_status_of_the_table_has_a_row_here() -> None:
    bodies = b" ".join(body for (_, body), _, _ in ROWS).decode("latin-1")
    untested = {name for name in TYPES if f'"{name}"' not in bodies}
    assert untested == {
        # Spellings of what stands above, by hosts that follow OpenAI.
        *("authentication_error", "permission_error", "billing_hard_limit_reached"),
        "rate_limit_error",
    }
    assert set(STATUSES) - {status for (status, _), _, _ in ROWS} == {529}


LENGTHS: list[tuple[str, Any, Any]] = [
    ("Input token length too long", "more", "the model's window"),
    ("Your request exceeded model token limit : 262144", "more", 262144),
    ("Invalid request: Your request exceeded model token limit: 131072 (requested: 250001)",
     250001, 131072),
    (("This model's maximum context length is 16384 tokens. However, you requested 122946 tokens "
     "(112946 in the messages, 10000 in the completion). Please reduce the length."),
     122946, 16384),
    (("This model's maximum context length is 8192 tokens. However, you requested 64 output tokens "
     "and your prompt contains at least 8129 input tokens, for a total of at least 8193 tokens."),
     8193, 8192),
    (("This model's maximum context length is 4096 tokens. However, your request has 5000 input "
     "tokens."), 5000, 4096),
    (("Requested token count exceeds the model's maximum context length of 202752 tokens. You "
     "requested a total of 202941 tokens: 170941 tokens from the input messages and 32000 tokens "
     "for the completion."), 202941, 202752),
    ("The input (516368 tokens) is longer than the model's context length (262144 tokens).",
     516368, 262144),
    ("request (9000 tokens) exceeds the available context size (8192 tokens), try increasing it",
     9000, 8192),
]  # fmt: skip


COUNTS = [
    # What it told: the prompt alone, prompt and cap together, and whether the prompt was counted.
    (None, None, True),
    (None, None, True),
    (None, 250_001, True),
    (112_946, 122_946, True),
    (8129, 8193, False),
    (5000, None, True),
    (170_941, 202_941, True),
    (516_368, None, True),
    (9000, None, True),
]


@pytest.mark.parametrize(("length", "counts"), list(zip(LENGTHS, COUNTS, strict=True)))
def test_a_prompt_too_long_is_told_with_its_counts(length: Any, counts: Any) -> None:
    error = refusal(400, {}, moonshot(400, "invalid_request_error", length[0])[1])
    assert isinstance(error, UpstreamTooLong)
    limit = length[2] if isinstance(length[2], int) else None
    assert (error.prompt, error.total, error.exact, error.limit) == (*counts, limit)


@pytest.mark.parametrize(("message", "needs", "limit"), LENGTHS)
def test_a_prompt_too_long_is_told_with_its_numbers(message: str, needs: Any, limit: Any) -> None:
    for body in (
        moonshot(400, "invalid_request_error", message)[1],
        json.dumps({"object": "error", "message": message, "type": "BadRequestError"}).encode(),
    ):
        error = refusal(400, {}, body)
        assert isinstance(error, UpstreamRefused)
        assert error.row == "context_length_exceeded"
        assert error.facts == {"needs": needs, "limit": limit}
        told = Refused(error.row, **error.facts).message
        assert f"exceeded model token limit : {limit}" in told


@pytest.mark.parametrize("status", [400, 500])
def test_llama_cpp_tells_its_numbers_in_fields(status: int) -> None:
    error = {"code": status, "message": "too long", "type": "exceed_context_size_error"}
    body = json.dumps({"error": error | {"n_prompt_tokens": 14429, "n_ctx": 8192}})
    found = refusal(status, {}, body.encode())
    assert isinstance(found, UpstreamRefused)
    assert found.facts == {"needs": 14429, "limit": 8192}


def test_how_long_to_wait() -> None:
    assert retry_after_s({}) is None
    assert retry_after_s({"retry-after": "2"}) == 2.0
    assert retry_after_s({"retry-after": "2", "retry-after-ms": "1500"}) == 1.5
    assert retry_after_s({"retry-after": "99999"}) == 600.0
    assert retry_after_s({"retry-after": "soon"}) is None
    assert retry_after_s({"retry-after": "nan"}) is None
    assert retry_after_s({"retry-after": formatdate(time.time() - 60, usegmt=True)}) == 0.0
    later = retry_after_s({"retry-after": formatdate(time.time() + 60, usegmt=True)})
    assert later is not None
    assert 50 < later <= 60
    error = refusal(429, {"retry-after": "3"}, moonshot(429, "engine_overloaded_error")[1])
    assert error.retry_after_s == 3.0


@given(
    st.integers(100, 599).filter(lambda status: not 200 <= status < 300),
    st.one_of(st.binary(max_size=300), st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["error", "type", "code", "message", "n_ctx"]), inner),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode())),
)  # fmt: skip
def test_any_body_is_some_error(status: int, body: bytes) -> None:
    assert isinstance(refusal(status, {}, body), UpstreamError)
