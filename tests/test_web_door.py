"""The door: one place decides, deny by default, and every refusal is a JSON error of ours."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import jsonschema
import pytest

from moongate.core.errors import ROWS, ConfigurationError, Refused
from moongate.upstream.scripted import ScriptedServer
from moongate.web.openapi import document
from moongate.web.routes import ROUTES, Route, Router, check
from serving_kit import ONE_UPSTREAM, Served, ask, serve

ERROR = document()["components"]["schemas"]["Error"]


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with (
        ScriptedServer("text ok") as scripted,
        serve(
            tmp_path,
            ONE_UPSTREAM.format(kind="moonshot", base_url=scripted.base_url).replace(
                "port = 0", "port = 0\nbody_bytes_max = 20000"
            ),
        ) as running,
    ):
        yield running


async def raw(served: Served, data: bytes, *, timeout_s: float = 5) -> tuple[int, bytes]:
    """Send bytes as they are; status and body of the first answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.app.port)
    writer.write(data)
    await writer.drain()
    async with asyncio.timeout(timeout_s):
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1])
            for line in head.lower().split(b"\r\n")
            if line.startswith(b"content-length")
        )
        body = await reader.readexactly(length)
    writer.close()
    return int(head.split()[1]), body


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nope", 404, "unknown_url"),
        ("GET", "/v1/chat/completions/", 404, "unknown_url"),
        ("POST", "/v1/models", 405, "method_not_allowed"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("GET", "/v1/models", 401, "missing_api_key"),
        ("GET", "/admin/v1/keys", 401, "missing_api_key"),
        ("POST", "/v1/chat/completions", 415, "unsupported_media_type"),
    ],
)
async def test_refusals_by_path_method_and_credential(
    served: Served, method: str, path: str, status: int, code: str
) -> None:
    base = served.url.removesuffix("/v1")
    async with served.http.request(method, base + path) as reply:
        body = await reply.json()
        assert (reply.status, body["error"]["code"]) == (status, code)
        assert reply.headers["x-request-id"].startswith("req_")
        jsonschema.validate(body, ERROR)
        if status == 405:
            assert reply.headers["allow"]


@pytest.mark.parametrize("key", ["", "mg-short", "mg-" + "0" * 33, "sk-" + "a" * 40])
async def test_one_answer_for_every_bad_key(served: Served, key: str) -> None:
    reply = await served.post(ask(), authorization=f"Bearer {key}")
    assert reply.status == 401
    assert (await reply.json())["error"]["code"] in {"invalid_api_key", "missing_api_key"}
    if key:
        assert key not in await reply.text()


async def test_a_revoked_and_an_expired_key_look_unknown(served: Served) -> None:
    row, secret = await served.app.keys.create(account="default", name="gone")
    assert (await served.post(ask(), authorization=f"Bearer {secret}")).status == 200
    assert await served.app.keys.revoke(row.id)
    revoked = await served.post(ask(), authorization=f"Bearer {secret}")
    _, old = await served.app.keys.create(account="default", name="old", expires_ms=1)
    expired = await served.post(ask(), authorization=f"Bearer {old}")
    unknown = await served.post(ask(), authorization="Bearer nonsense")
    texts = [(await reply.json())["error"] for reply in (revoked, expired, unknown)]
    assert texts[0] == texts[1] == texts[2]


async def test_an_ordinary_key_is_no_admin_key(served: Served) -> None:
    base = served.url.removesuffix("/v1")
    headers = {"authorization": f"Bearer {served.key}"}
    async with served.http.get(f"{base}/admin/v1/keys", headers=headers) as reply:
        assert (reply.status, (await reply.json())["error"]["code"]) == (
            403,
            "insufficient_permissions",
        )
    _, admin = await served.app.keys.create(account="default", name="op", admin=True)
    assert admin.startswith("mga-")
    headers = {"authorization": f"Bearer {admin}"}
    async with served.http.get(f"{base}/admin/v1/keys", headers=headers) as reply:
        assert reply.status == 200
        text = await reply.text()
        assert "mac" not in text
        assert served.key not in text


async def test_a_key_for_other_models_may_not_use_this_one(served: Served) -> None:
    _, key = await served.app.keys.create(account="default", name="m", models=("other",))
    reply = await served.post(ask(), authorization=f"Bearer {key}")
    assert (reply.status, (await reply.json())["error"]["param"]) == (403, "model")


async def test_bodies_are_bounded_while_they_are_read(served: Served) -> None:
    big = json.dumps(ask("x" * 30_000)).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {served.key}\r\n"
        "content-type: application/json\r\n"
    ).encode()
    declared = head + f"content-length: {len(big)}\r\n\r\n".encode()
    status, body = await raw(served, declared)
    assert (status, json.loads(body)["error"]["code"]) == (413, "request_too_large")
    chunked = head + b"transfer-encoding: chunked\r\n\r\n" + f"{len(big):x}\r\n".encode() + big
    status, body = await raw(served, chunked + b"\r\n")
    assert (status, json.loads(body)["error"]["code"]) == (413, "request_too_large")
    reply = await served.post(ask(), **{"content-encoding": "gzip"})
    assert (reply.status, (await reply.json())["error"]["code"]) == (
        415,
        "unsupported_content_encoding",
    )


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"CANARY\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: a\r\nCANARY\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"CANARY" * 3000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\nhost: a\n\n", 400),
        (
            (
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n"
                b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n"
            ),
            400,
        ),
        (
            (
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n"
                b"content-length: 6\r\n\r\nhello"
            ),
            400,
        ),
        (b"GET /%00CANARY HTTP/1.1\r\nhost: a\r\n\r\n", 400),
        (b"GET /%ff%fe HTTP/1.1\r\nhost: a\r\n\r\n", 400),
    ],
)
async def test_malformed_http_is_refused_in_our_words(
    served: Served, data: bytes, status: int
) -> None:
    got, body = await raw(served, data)
    assert got == status
    jsonschema.validate(json.loads(body), ERROR)
    assert b"CANARY" not in body
    assert "CANARY" not in served.log.getvalue()


async def test_an_absolute_target_is_read_by_its_path(served: Served) -> None:
    got, body = await raw(served, b"GET http://somewhere/healthz HTTP/1.1\r\nhost: a\r\n\r\n")
    assert (got, json.loads(body)["status"]) == (200, "ok")


async def test_only_allowed_hosts_are_answered(tmp_path: Path) -> None:
    async with ScriptedServer("text ok") as scripted:
        config = ONE_UPSTREAM.format(kind="moonshot", base_url=scripted.base_url)
        config = config.replace("port = 0", 'port = 0\nhosts = ["api.example"]')
        async with serve(tmp_path, config) as served:
            status, body = await raw(served, b"GET /healthz HTTP/1.1\r\nhost: evil\r\n\r\n")
            assert (status, json.loads(body)["error"]["code"]) == (421, "misdirected_request")
            status, _ = await raw(
                served, b"GET /healthz HTTP/1.1\r\nhost: API.example:8000\r\n\r\n"
            )
            assert status == 200


BAD = [
    (b"", "invalid_json", None),
    (b'{"model":', "invalid_json", None),
    (b"{} {}", "invalid_json", None),
    (b'{"a": NaN}', "invalid_json", None),
    (b"\xef\xbb\xbf{}", "invalid_json", None),
    (b'{"model":"\xff"}', "invalid_unicode", None),
    (b"[" * 5000, "json_too_complex", None),
    (b'{"model":"a","model":"b"}', "duplicate_key", "model"),
    (b'{"model":"kimi-k2.5"}', "missing_required_parameter", "messages"),
    (b'{"model":"kimi-k2.5","messages":"hi"}', "invalid_type", "messages"),
    (b'{"model":"kimi-k2.5","messages":[{"role":"king","content":"x"}]}', "invalid_value",
     "messages[0].role"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "code", "param"), BAD)
async def test_bad_bodies_name_the_field_and_lose_nothing(
    served: Served, data: bytes, code: str, param: str | None
) -> None:
    headers = {"authorization": f"Bearer {served.key}", "content-type": "application/json"}
    url = f"{served.url}/chat/completions"
    async with served.http.post(url, data=data, headers=headers) as reply:
        body = await reply.json()
    assert (reply.status, body["error"]["code"], body["error"]["param"]) == (400, code, param)
    jsonschema.validate(body, ERROR)
    assert await served.usage() == []


@pytest.mark.parametrize(
    ("more", "status", "param", "message"),
    [
        ({"temperature": "hot"}, 400, "temperature", None),
        ({"temperature": 0.5}, 400, "temperature", "invalid temperature: only 1 is allowed"),
        ({"temperature": 1.0}, 200, None, None),
        (
            {"temperature": 1.0, "thinking": {"type": "disabled"}},
            400,
            "temperature",
            "only 0.6 is allowed",
        ),
        ({"n": 2}, 400, "n", "only 1 is allowed"),
        ({"max_tokens": 0}, 400, "max_tokens", "integer from 1 to"),
        ({"max_tokens": 10**30}, 400, "max_tokens", None),
        ({"tool_choice": "required"}, 400, "tool_choice", None),
        (
            {"messages": [{"role": "user", "content": [
                {"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}]}]},
            400,
            "messages[0].content[0].image_url",
            "cannot be fetched",
        ),
        ({"web_search_options": 7}, 400, "web_search_options", "must be an object"),
        ({"web_search_options": {"search_context_size": "vast"}}, 400,
         "web_search_options.search_context_size", "must be one of low, medium, high"),
        ({"frobnicate": 1}, 200, None, None),
    ],
)  # fmt: skip
async def test_fields_of_the_wrong_kind(
    served: Served, more: dict[str, object], status: int, param: str | None, message: str | None
) -> None:
    reply = await served.post(ask(**{"messages": ask()["messages"], **more}))
    assert reply.status == status, await reply.text()
    if status != 200:
        error = (await reply.json())["error"]
        assert error["param"] == param
        assert message is None or message in error["message"]
        assert "hot" not in error["message"]


async def test_models_health_metrics_and_reference(served: Served) -> None:
    base = served.url.removesuffix("/v1")
    headers = {"authorization": f"Bearer {served.key}"}
    async with served.http.get(f"{served.url}/models", headers=headers) as reply:
        (card,) = (await reply.json())["data"]
    assert card["id"] == "kimi-k2.5"
    assert card["context_length"] == 262_144
    assert card["pricing"]["input"] == "0.48"
    assert (card["pricing"]["cached_nanos"], card["pricing"]["output_nanos"]) == (100, 2000)
    assert "search" in card["abilities"]
    url = f"{served.url}/models/moonshotai%2FKimi-K2.5"
    async with served.http.get(url, headers=headers) as reply:
        assert (await reply.json())["id"] == "kimi-k2.5"
    async with served.http.get(f"{served.url}/models/none", headers=headers) as reply:
        assert reply.status == 404
    await served.post(ask())
    async with served.http.get(f"{base}/metrics") as reply:
        text = await reply.text()
    assert (
        'moongate_requests_total{model="kimi-k2.5",outcome="done",upstream="moonshot"} 1.0' in text
    )
    async with served.http.get(f"{base}/openapi.json") as reply:
        described = await reply.json()
    assert described["openapi"].startswith("3.1")
    facts = dict.fromkeys(
        [
            *("thing", "dimension", "byte", "limit", "what", "needs"),
            *("keyword", "ability", "formats", "wanted", "why"),
        ],
        1,
    )
    error = described["components"]["schemas"]["Error"]["properties"]["error"]
    told = error["properties"]["code"]["enum"]
    assert set(told) == {Refused(key, **facts).code for key in ROWS}
    assert not {"stream_interrupted", "oversized_header"} & set(told)  # words of ours
    for path in ("/healthz", "/readyz", "/"):
        async with served.http.get(base + path) as reply:
            assert reply.status == 200


async def test_readyz_says_no_while_draining(served: Served) -> None:
    served.app.draining = True
    base = served.url.removesuffix("/v1")
    async with served.http.get(f"{base}/readyz") as reply:
        assert (reply.status, (await reply.json())["error"]["code"]) == (503, "draining")
    served.app.draining = False


async def test_the_admin_socket_needs_no_key_and_only_its_owner_can_open_it(
    served: Served,
) -> None:
    import aiohttp

    path = served.app.home.socket
    assert path.stat().st_mode & 0o777 == 0o600
    connector = aiohttp.UnixConnector(path=str(path))
    async with aiohttp.ClientSession(connector=connector) as http:
        async with http.get("http://localhost/admin/v1/accounts/default") as reply:
            assert (await reply.json())["posted_nanos"] == 5_000_000_000
        async with http.post("http://localhost/v1/chat/completions", json=ask()) as reply:
            assert reply.status == 200
    (row,) = await served.usage()
    assert (row.account, row.key) == ("default", "key_local")


async def test_a_taken_port_is_a_sentence(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        config = ONE_UPSTREAM.format(kind="moonshot", base_url="http://127.0.0.1:9/v1")
        with pytest.raises(ConfigurationError, match=f"Port {port} .* is taken"):
            async with serve(tmp_path, config.replace("port = 0", f"port = {port}")):
                pass


def test_a_route_without_a_policy_stops_the_start() -> None:
    check(ROUTES)
    for field in ("auth", "money", "limit", "keeps"):
        whole = {"auth": "key", "money": "free", "limit": "none", "keeps": "nothing"}
        with pytest.raises(ConfigurationError, match=f"no {field} policy"):
            Router((Route("GET", "/x", "x", **(whole | {field: None})),))  # type: ignore[arg-type]  # that is the test
    with pytest.raises(ConfigurationError, match="needs a key and the gate"):
        check((Route("GET", "/x", "x", "public", "hold", "gate", "nothing"),))


def test_paths_match_whole_or_not_at_all() -> None:
    router = Router()
    assert router.find("HEAD", "/healthz")[0].handler == "healthz"
    for path in ("//healthz", "/healthz/", "/v1/models/", "/V1/models", ""):
        with pytest.raises(Refused):
            router.find("GET", path)


async def test_a_slow_head_is_408_and_closed(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moongate.web.server.HEAD_S", 0.2)
    for start in (b"GET /healthz HTTP/1.1\r\nHo", b""):
        reader, writer = await asyncio.open_connection("127.0.0.1", served.app.port)
        writer.write(start)
        async with asyncio.timeout(5):
            answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"x-request-id: req_" in answer
        assert b'"request_timeout"' in answer
        writer.close()
    # A whole head is not hurried, nor is a connection between two requests.
    reader, writer = await asyncio.open_connection("127.0.0.1", served.app.port)
    for _ in range(2):
        writer.write(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        await reader.readexactly(int(head.lower().split(b"content-length:")[1].split()[0]))
        await asyncio.sleep(0.4)
    writer.close()


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"GET / HTTP/1.1\r\nhost: a\r\n" + b"x: y\r\n" * 101 + b"\r\n", 431, "invalid_header"),
        (b"GET / HTTP/1.1\r\n\r\n", 400, "invalid_header"),
        (b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", 400, "invalid_header"),
        (b"GET / HTTP/1.1\r\nhost: a\r\nx: a\0b\r\n\r\n", 400, "invalid_header"),
    ],
)
async def test_headers_have_their_own_row(
    served: Served, data: bytes, status: int, code: str
) -> None:
    got, body = await raw(served, data)
    assert (got, json.loads(body)["error"]["code"]) == (status, code)


async def test_too_large_closes_the_connection(served: Served) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.app.port)
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
        + f"authorization: Bearer {served.key}\r\ncontent-length: 30000\r\n\r\n".encode()
    )
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 413")
    assert b"connection: close" in head.lower()
    writer.close()


async def test_who_waits_for_100_continue_gets_it(served: Served) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.app.port)
    payload = json.dumps(ask()).encode()
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
        b"expect: 100-continue\r\n"
        + f"authorization: Bearer {served.key}\r\ncontent-length: {len(payload)}\r\n\r\n".encode()
    )
    async with asyncio.timeout(2):
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
        writer.write(payload)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    writer.close()


async def test_a_deep_admin_body_is_a_400(served: Served) -> None:
    _, admin = await served.app.keys.create(account="default", name="op", admin=True)
    base = served.url.removesuffix("/v1")
    headers = {"authorization": f"Bearer {admin}", "content-type": "application/json"}
    url = f"{base}/admin/v1/keys"
    async with served.http.post(url, data=b"[" * 5000, headers=headers) as reply:
        assert (reply.status, (await reply.json())["error"]["code"]) == (400, "json_too_complex")


async def test_a_key_sees_its_own_models_only(served: Served) -> None:
    _, key = await served.app.keys.create(account="default", name="m", models=("other",))
    headers = {"authorization": f"Bearer {key}"}
    async with served.http.get(f"{served.url}/models", headers=headers) as reply:
        assert (await reply.json())["data"] == []
    async with served.http.get(f"{served.url}/models/kimi-k2.5", headers=headers) as reply:
        assert reply.status == 404
