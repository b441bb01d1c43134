"""An upstream over HTTP against a real server: streams, silence, cuts, refusals, leaving."""

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moongate.core.errors import (
    ConfigurationError,
    UpstreamDown,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamProtocolError,
    UpstreamRefused,
    UpstreamTimeout,
)
from moongate.core.events import Failed, Started, Text
from moongate.core.money import Counts
from moongate.core.request import Request
from moongate.upstream import http
from moongate.upstream.frames import Chaos, Look
from moongate.upstream.scripted import ScriptedServer
from upstream_kit import KEY, an_ask, an_upstream, events_of, running, told

MOONS = """
think Three of them.
text Io, Europa
text  and "Ganymede" 🌙
tool get_weather {"city":"Oslo","days":3}
tool search_web {"q":"moons"}
usage prompt=600 cached=300 completion=9 reasoning=1
"""


@asynccontextmanager
async def raw_server(answer: bytes, *, close: bool = True) -> AsyncIterator[str]:
    """A socket that answers any request with these bytes."""
    tasks: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
            if not close:
                await reader.read()
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        server.close()
        for task in tasks:
            if task is not None:
                task.cancel()
        await asyncio.gather(*(task for task in tasks if task), return_exceptions=True)
        await asyncio.sleep(0)


async def raised(script: str, **fields: Any) -> UpstreamError:
    async with ScriptedServer(script) as server, running(server.base_url, **fields) as upstream:
        with pytest.raises(UpstreamError) as found:
            await events_of(upstream)
        assert found.value.__suppress_context__ or found.value.__context__ is None
        return found.value


async def test_a_stream_arrives_whole_and_the_request_is_allowed() -> None:
    async with ScriptedServer(MOONS, api_key=KEY) as server, running(server.base_url) as upstream:
        events = await events_of(upstream)
        assert isinstance(events[0], Started)
        answer, counts = told(events)
        choice = answer.choices[0]
        assert choice.thinking == "Three of them."
        assert choice.text == 'Io, Europa and "Ganymede" 🌙'
        assert [call.id for call in choice.calls] == [
            "functions.get_weather:0",
            "functions.search_web:1",
        ]
        assert choice.calls[0].arguments == '{"city":"Oslo","days":3}'
        assert choice.reason == "tool_calls"
        assert counts == Counts(prompt=600, completion=9, cached=300, reasoning=1)
        assert server.violations == []
        seen = server.requests[0]
        assert seen.headers["x-request-id"] == "req_1"
        assert seen.headers["authorization"] == f"Bearer {KEY}"
        assert seen.headers["accept-encoding"] == "identity"
        assert seen.body["stream"] is True
        assert "cookie" not in seen.headers


async def test_the_first_batch_comes_with_the_head() -> None:
    async with (
        ScriptedServer("silence") as server,
        running(server.base_url) as upstream,
        aclosing(upstream.stream(an_ask())) as batches,
    ):
        assert [type(event) for event in await anext(batches)] == [Started]


async def test_each_piece_comes_when_it_is_said() -> None:
    script = "text one\ndelay 0.3\ntext two"
    async with ScriptedServer(script) as server, running(server.base_url) as upstream:
        arrived: dict[str, float] = {}
        async with aclosing(upstream.stream(an_ask())) as batches:
            async for batch in batches:
                for event in batch:
                    if isinstance(event, Text):
                        arrived[event.text] = time.monotonic()
        assert arrived["two"] - arrived["one"] > 0.2


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32))
def test_random_byte_cuts_change_nothing(seed: int) -> None:
    async def ask(chaos: Chaos | None) -> Any:
        async with (
            ScriptedServer(MOONS, chaos=chaos) as server,
            running(server.base_url) as upstream,
        ):
            return told(await events_of(upstream))

    async def both() -> None:
        assert await ask(Chaos(seed)) == await ask(None)

    asyncio.run(both())


@pytest.mark.parametrize("usage", ["choice", "top", "both", "nested", "every"])
@pytest.mark.parametrize("reasoning", ["reasoning_content", "reasoning"])
async def test_usage_and_reasoning_are_found_wherever_they_stand(
    usage: Any, reasoning: str
) -> None:
    look = Look(usage=usage, reasoning=reasoning)
    async with (
        ScriptedServer(MOONS, look=look, rules=False) as server,
        running(server.base_url, "vllm") as upstream,
    ):
        answer, counts = told(await events_of(upstream))
        assert counts == Counts(prompt=600, completion=9, cached=300, reasoning=1)
        assert answer.choices[0].thinking == "Three of them."


async def test_no_usage_is_no_usage() -> None:
    look = Look(usage="none")
    async with (
        ScriptedServer("text a", look=look) as server,
        running(server.base_url) as upstream,
    ):
        assert told(await events_of(upstream))[1] is None


@pytest.mark.parametrize(
    ("script", "kind", "word"),
    [
        ("hangup", UpstreamDown, "reset"),
        ("text a\ncut", UpstreamProtocolError, "cut"),
        ("cut", UpstreamProtocolError, "cut"),
        ("text a\nfinish stop\nno-done", UpstreamProtocolError, "cut"),
        ('text a\ngarbage "data: {{{\\n\\n"', UpstreamProtocolError, "chunk"),
        ('text a\ngarbage "data: \\u0000\\n\\n"', UpstreamProtocolError, "chunk"),
        ("reply 200 application/json {}", UpstreamProtocolError, "not_a_stream"),
        ("reply 200 text/html <html>", UpstreamProtocolError, "not_a_stream"),
        ("status 500", UpstreamDown, "status_500"),
        ("status 301", UpstreamDown, "redirect"),
        ("error 429 engine_overloaded_error", UpstreamOverloaded, "overloaded"),
        ("error 429 exceeded_current_quota_error", UpstreamDown, "account"),
        ("error 401 invalid_authentication_error", UpstreamDown, "account"),
        ("error 400 content_filter", UpstreamRefused, "content_filter"),
        ("error 400 invalid_request_error no", UpstreamRefused, "rejected_by_model"),
        ("error 404 resource_not_found_error", UpstreamDown, "model_missing"),
    ],
)
async def test_each_fault_is_one_error_of_ours(
    script: str, kind: type[UpstreamError], word: str
) -> None:
    error = await raised(script)
    assert type(error) is kind
    assert error.kind == word


async def test_an_overloaded_upstream_says_when_to_come_back() -> None:
    error = await raised("error 429 engine_overloaded_error retry-after=7 Busy")
    assert error.retry_after_s == 7.0


async def test_an_error_inside_the_stream_is_an_event_and_ends_it() -> None:
    script = "text a\nerror-in-stream engine_overloaded_error CANARY"
    async with ScriptedServer(script) as server, running(server.base_url) as upstream:
        events = await events_of(upstream)
        assert events[-1] == Failed("overloaded")


async def test_silence_has_two_limits() -> None:
    times = {"first_token_timeout_s": 0.2, "idle_timeout_s": 0.4}
    for script, word in (
        ("hold forever", "first_token"),
        ("silence", "first_token"),
        ("comment still here\ndelay 0.1\ncomment still here\nsilence", "first_token"),
        ("text a\nsilence", "idle"),
        ("think a\ndelay 0.25\ntext b\nsilence", "idle"),
    ):
        began = time.monotonic()
        error = await raised(script, **times)
        assert isinstance(error, UpstreamTimeout)
        assert (error.kind, word) == (word, word)
        assert time.monotonic() - began < 3.0


async def test_nobody_there() -> None:
    async with raw_server(b"") as address:
        free = address
    async with running(free) as upstream:
        with pytest.raises(UpstreamDown) as found:
            await events_of(upstream)
        assert found.value.kind == "connect"
        probe = await upstream.probe()
        assert not probe.ok
        assert "refused" in probe.detail


async def test_a_name_that_does_not_resolve() -> None:
    async with running("http://moongate.invalid/v1") as upstream:
        with pytest.raises(UpstreamDown) as found:
            await events_of(upstream)
        assert found.value.kind == "dns"
        assert "resolve" in (await upstream.probe()).detail


async def test_no_tls_there() -> None:
    async with (
        ScriptedServer() as server,
        running(server.base_url.replace("http:", "https:")) as upstream,
    ):
        with pytest.raises(UpstreamDown) as found:
            await events_of(upstream)
        assert found.value.kind == "tls"
        assert "TLS" in (await upstream.probe()).detail


@pytest.mark.parametrize(
    ("answer", "kind", "word"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", UpstreamDown, "not_http"),
        (b"", UpstreamDown, "reset"),
        (
            (
                b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-encoding: gzip\r\n"
                b"content-length: 2\r\n\r\n\x1f\x8b"
            ),
            UpstreamProtocolError,
            "compressed",
        ),
        (
            (
                b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
                b"transfer-encoding: chunked\r\n\r\nzz\r\n"
            ),
            UpstreamDown,
            "not_http",
        ),
    ],
)
async def test_what_is_no_http_of_ours(answer: bytes, kind: type[UpstreamError], word: str) -> None:
    async with raw_server(answer) as address, running(address) as upstream:
        with pytest.raises(kind) as found:
            await events_of(upstream)
        assert found.value.kind == word


async def test_a_reply_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "REPLY_BYTES_MIN", 10_000)
    monkeypatch.setattr(http, "REPLY_BYTES_PER_TOKEN", 1)
    script = "\n".join(["text abcdefghijklmnopqrstuvwxyz"] * 500)
    async with ScriptedServer(script) as server, running(server.base_url) as upstream:
        with pytest.raises(UpstreamProtocolError) as found:
            await events_of(upstream)
        assert found.value.kind == "too_large"


@pytest.mark.parametrize("mark", [b"data: [DONE]\n\n", b"data:[DONE]\r\n\r\n"])
async def test_an_upstream_that_lingers_after_its_end_mark_holds_nobody(mark: bytes) -> None:
    answer = (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
        b'data: {"choices":[{"index":0,"delta":{"content":"data: [DONE]"},'
        b'"finish_reason":"stop"}]}\n\n' + mark
    )
    async with raw_server(answer, close=False) as address, running(address) as upstream:
        began = time.monotonic()
        assert told(await events_of(upstream))[0].choices[0].text == "data: [DONE]"
        assert time.monotonic() - began < 3.0


async def test_a_connection_read_to_its_end_is_used_again() -> None:
    async with ScriptedServer("text a") as server, running(server.base_url) as upstream:
        for _ in range(5):
            await events_of(upstream)
        session = upstream._session
        assert session is not None
        assert len([one for some in session.connector._conns.values() for one in some]) == 1


@pytest.mark.parametrize("script", ["text a\nsilence", "hold forever", "silence", "paced"])
@pytest.mark.parametrize("way", ["close", "cancel"])
async def test_leaving_is_felt_at_once(script: str, way: str) -> None:
    if script == "paced":
        script = "\n".join(["text a\ndelay 0.005"] * 2000)
    async with ScriptedServer(script) as server, running(server.base_url) as upstream:
        if way == "close" and script != "hold forever":
            batches = upstream.stream(an_ask())
            await anext(batches)
            left_s = time.monotonic()
            await batches.aclose()
        else:
            task = asyncio.create_task(events_of(upstream))
            await server.until(lambda: server.streams_open == 1)
            await asyncio.sleep(0.02)
            left_s = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await server.until(lambda: len(server.disconnects) == 1)
        # The promise is 100 ms; the rest is for a busy machine.
        assert server.disconnects[0] - left_s < 0.5
        await server.until(lambda: server.streams_open == 0)


async def test_cancel_to_close_at_the_median() -> None:
    dice = random.Random(5)
    script = "\n".join(["text a\ndelay 0.002"] * 4000)
    delays: list[float] = []
    async with ScriptedServer(script) as server, running(server.base_url) as upstream:
        for number in range(40):
            task = asyncio.create_task(events_of(upstream))
            await server.until(lambda: server.streams_open == 1)
            await asyncio.sleep(dice.random() * 0.02)
            left_s = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await server.until(lambda wanted=number + 1: len(server.disconnects) == wanted)
            delays.append(server.disconnects[-1] - left_s)
            await server.until(lambda: server.streams_open == 0)
    delays.sort()
    print(f"cancel to close: median {delays[20] * 1e3:.1f} ms, worst {delays[-1] * 1e3:.1f} ms")
    assert delays[20] < 0.1


async def test_room_is_bounded_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "ROOM_TIMEOUT_S", 0.2)
    async with (
        ScriptedServer("text a\nsilence") as server,
        running(server.base_url, concurrency_max=1) as upstream,
    ):
        first = upstream.stream(an_ask())
        await anext(first)
        with pytest.raises(UpstreamOverloaded) as found:
            await events_of(upstream)
        assert found.value.kind == "full"
        assert found.value.retry_after_s is not None
        waiting = asyncio.create_task(anext(second := upstream.stream(an_ask())))
        await asyncio.sleep(0.02)
        await first.aclose()
        assert await waiting == [Started()]
        await second.aclose()
        monkeypatch.setattr(http, "QUEUE_MAX", 0)
        third = upstream.stream(an_ask())
        await anext(third)
        with pytest.raises(UpstreamOverloaded):
            await events_of(upstream)
        await third.aclose()


async def test_failures_give_their_room_back() -> None:
    script = "hangup\n---\nstatus 500\n---\ntext a\ncut\n---\ntext fine"
    async with (
        ScriptedServer(script) as server,
        running(server.base_url, concurrency_max=1) as upstream,
    ):
        for _ in range(3):
            with pytest.raises(UpstreamError):
                await events_of(upstream)
        assert told(await events_of(upstream))[0].choices[0].text == "fine"


async def test_probe_says_what_it_found() -> None:
    async with ScriptedServer(models=("kimi-k2.5", "kimi-k3"), api_key=KEY) as server:
        async with running(server.base_url) as upstream:
            probe = await upstream.probe()
            assert (probe.ok, probe.models) == (True, ("kimi-k2.5", "kimi-k3"))
        async with running(server.base_url, api_key="sk-of-the-other-platform") as upstream:
            probe = await upstream.probe()
            assert not probe.ok
            assert ".ai" in probe.detail
            assert ".cn" in probe.detail
            assert "other-platform" not in probe.detail
        async with running(server.base_url, "vllm", api_key="") as upstream:
            assert ".cn" not in (await upstream.probe()).detail
            assert "authorization" not in server.requests[-1].headers
        async with running(server.base_url.removesuffix("/v1")) as upstream:
            assert await upstream.probe() == type(probe)(
                ok=True, models=None, detail="It answers but lists no models: HTTP 404."
            )


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n<html>", "not JSON"),
        (b'HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n{"data": 3}', "not JSON"),
        (b"HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n", "HTTP 500"),
        (b"", "closed the connection"),
        (b"SSH-2.0\r\n\r\n", "does not speak HTTP"),
    ],
)
async def test_probe_of_something_else(answer: bytes, word: str) -> None:
    async with raw_server(answer) as address, running(address) as upstream:
        probe = await upstream.probe()
        assert not probe.ok
        assert word in probe.detail


async def test_probe_of_something_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http.looks, "TIMEOUT_S", 0.1)
    async with (
        raw_server(b"HTTP/1.1 200 OK\r\n", close=False) as address,
        running(address) as upstream,
    ):
        assert "No answer" in (await upstream.probe()).detail


async def test_what_it_says_of_itself() -> None:
    upstream = an_upstream("http://127.0.0.1:1/v1", data_policy="self-hosted")
    facts = upstream.facts()
    assert facts.data_policy == "self-hosted"
    assert facts.fingerprint.startswith("fp_")
    assert facts.fingerprint != an_upstream("http://127.0.0.1:1/v1", name="b").facts().fingerprint
    assert await upstream.count(an_ask().request) is None
    request = Request("m", (), extra={"seed": 1, "safety_identifier": "x"})
    assert upstream.dropped(request) == ("seed",)
    assert an_upstream("http://127.0.0.1:1/v1", forward=("seed",)).dropped(request) == ()
    with pytest.raises(UpstreamDown):
        await events_of(upstream)
    assert not (await upstream.probe()).ok
    await upstream.close()


@pytest.mark.parametrize("base_url", ["", "api.moonshot.ai/v1", "ftp://a/b", "http:///v1"])
async def test_an_address_that_cannot_be_one_is_told_at_start(base_url: str) -> None:
    with pytest.raises(ConfigurationError, match="base_url"):
        await an_upstream(base_url).start()


async def test_no_secret_and_no_text_of_others_in_repr_and_logs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    seen: list[str] = []
    faults = ("error 401 invalid_authentication_error CANARY", "garbage CANARY\ncut", "hangup")
    for script in (*faults, "reply 200 text/html CANARY", "text CANARY"):
        async with ScriptedServer(script) as server, running(server.base_url) as upstream:
            seen.append(repr(upstream) + str(vars(upstream)) + repr(upstream.facts()))
            seen.append(repr(await upstream.probe()))
            try:
                seen.append(repr(await events_of(upstream)))
            except UpstreamError as error:
                seen.append(repr(error) + str(error) + repr(vars(error)))
    everything = caplog.text + "".join(seen)
    assert KEY not in everything
    assert "CANARY" not in everything


@pytest.mark.parametrize("turns", range(4))
async def test_who_is_cancelled_as_room_comes_is_cancelled(turns: int) -> None:
    upstream = an_upstream("http://127.0.0.1:1", concurrency_max=1)
    async with upstream._admitted():
        waiting = asyncio.create_task(upstream._queue())
        await asyncio.sleep(0.01)
    for _ in range(turns):
        await asyncio.sleep(0)
    if waiting.cancel():  # false: it had its room before
        with pytest.raises(asyncio.CancelledError):
            await waiting
