"""Bodies of every size: bounded together while they are read, read beside the loop, sent in pieces.

How long anything takes is for ``bench/context.py`` to say; here it is counted.
"""

import asyncio
import io
import json
import random
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import aiohttp
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moongate.access.bodies import Bodies
from moongate.core import spelling
from moongate.core.errors import ConfigurationError, Refused
from moongate.core.request import Message, Request
from moongate.core.spelling import Spelling, long_texts
from moongate.settings import load
from moongate.upstream import pieces
from moongate.upstream.scripted import ScriptedServer, Seen
from moongate.web import body as bodies
from moongate.wire import bulk, fields
from moongate.wire.chat import ChatCodec
from picture_kit import chunk, png, url
from serving_kit import ONE_UPSTREAM, Served, ask, serve
from stall_kit import probing


async def test_who_finds_no_room_waits_in_line_and_then_is_let_in() -> None:
    room = Bodies(100)
    await room.take(60)
    came: list[str] = []

    async def come(name: str, count: int) -> None:
        await room.take(count)
        came.append(name)

    large = asyncio.create_task(come("large", 90))
    small = asyncio.create_task(come("small", 10))
    await asyncio.sleep(0.01)
    assert (came, room.waiting, room.size) == ([], 2, 60), "the small one does not push in"
    room.give(60)
    await asyncio.gather(large, small)
    assert (came, room.waiting, room.size) == (["large", "small"], 0, 100)


async def test_the_wait_is_bounded_and_leaves_nothing_behind() -> None:
    room = Bodies(100, wait_s=0.02)
    await room.take(60)
    first = asyncio.create_task(room.take(50))
    await asyncio.sleep(0)
    room._wait_s = 5
    second = asyncio.create_task(room.take(40))
    with pytest.raises(Refused) as caught:
        await first
    assert (caught.value.status, caught.value.code) == (503, "overloaded")
    assert "retry-after" in caught.value.headers()
    await second  # it stood behind one that gave up, and there was room for it all the while
    assert (room.size, room.waiting) == (100, 0)
    room.give(100)
    assert room.size == 0


async def test_a_client_that_leaves_the_line_or_leaves_as_it_is_called_takes_no_room() -> None:
    room = Bodies(100)
    await room.take(100)
    gone = asyncio.create_task(room.take(50))
    late = asyncio.create_task(room.take(50))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    assert room.waiting == 1
    room.give(100)  # it is let in, and cancelled before it runs again
    late.cancel()
    await asyncio.gather(late, return_exceptions=True)
    assert (room.size, room.waiting) == (0, 0)


async def test_an_account_that_takes_its_share_keeps_nobody_else_out() -> None:
    room = Bodies(100, share=70)
    await room.take(60, "greedy")
    more = [asyncio.create_task(room.take(30, "greedy")) for _ in range(3)]
    await asyncio.sleep(0)
    async with asyncio.timeout(1):
        await room.take(20, "other")  # past those who wait for their own account
        room.give(60, "greedy")
        await asyncio.gather(*more[:2])
    assert (room.size, room.waiting) == (80, 1)
    room.give(30, "greedy")
    await more[2]
    room.give(60, "greedy")
    room.give(20, "other")
    assert (room.size, room.waiting, room._held) == (0, 0, {})


LIMIT = 20_000
HELD = "text one\nsilence"


def config(scripted: ScriptedServer, more: str = "") -> str:
    text = ONE_UPSTREAM.format(kind="vllm", base_url=scripted.base_url)
    return text.replace("port = 0", f"port = 0\nbody_bytes_max = {LIMIT}\n{more}")


def head(served: Served, *lines: str) -> bytes:
    text = [
        "POST /v1/chat/completions HTTP/1.1",
        f"host: a\r\nauthorization: Bearer {served.key}",
        "content-type: application/json",
        *lines,
    ]
    return ("\r\n".join(text) + "\r\n\r\n").encode()


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Status and all bytes of an answer that says how long it is."""
    async with asyncio.timeout(5):
        said = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: *(\d+)", said, re.IGNORECASE)
        assert length is not None
        return int(said.split()[1]), said + await reader.readexactly(int(length[1]))


def asked(scripted: ScriptedServer) -> list[Seen]:
    return [seen for seen in scripted.requests if seen.method == "POST"]


async def post(served: Served, body: dict[str, Any]) -> aiohttp.ClientResponse:
    """Send a large body as aiohttp wants it."""
    headers = {
        "authorization": f"Bearer {served.key}", "content-type": "application/json",
    }  # fmt: skip
    data = io.BytesIO(json.dumps(body).encode())
    return await served.http.post(f"{served.url}/chat/completions", data=data, headers=headers)


@pytest.mark.parametrize("declared", [True, False])
async def test_too_large_a_body_is_refused_before_it_has_come(
    tmp_path: Path, declared: bool
) -> None:
    async with ScriptedServer("text ok") as scripted, serve(tmp_path, config(scripted)) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        if declared:  # the head alone is enough
            writer.write(head(served, f"content-length: {LIMIT + 1}", "expect: 100-continue"))
        else:  # one byte too many is, with no end in sight
            chunk = b'{"model":"' + b"x" * (LIMIT - 9)
            writer.write(head(served, "transfer-encoding: chunked"))
            writer.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
        status, said = await answer(reader)
        assert (status, b'"request_too_large"' in said) == (413, True)
        assert b"connection: close" in said.lower()
        assert b"100 Continue" not in said
        writer.close()
        assert served.app.gateway.limits.bodies.size == 0
        assert not asked(scripted)


@pytest.mark.parametrize("declared", [True, False])
async def test_all_bodies_together_are_bounded_while_they_are_read(
    tmp_path: Path, declared: bool
) -> None:
    async with (
        ScriptedServer(HELD) as scripted,
        serve(tmp_path, config(scripted, f"bodies_bytes_max = {LIMIT}")) as served,
    ):
        room = served.app.gateway.limits.bodies
        room._wait_s = 0.05
        first = await served.post(ask("x" * 15_000, stream=True))
        assert 15_000 < room.size < LIMIT
        data = json.dumps(ask("y" * 15_000)).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        if declared:
            writer.write(head(served, f"content-length: {len(data)}", "connection: close"))
        else:
            writer.write(head(served, "transfer-encoding: chunked", "connection: close"))
            writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n0\r\n\r\n")
        status, said = await answer(reader)
        assert (status, b'"overloaded"' in said) == (503, True)
        assert b"retry-after:" in said.lower()
        writer.close()
        room._wait_s = 5
        waiting = asyncio.create_task(served.post(ask("z" * 15_000, stream=True)))
        await scripted.until(lambda: room.waiting == 1)
        assert len(asked(scripted)) == 1
        first.close()
        second = await waiting
        assert second.status == 200
        second.close()
        await scripted.until(lambda: room.size == 0)
        assert len(asked(scripted)) == 2


async def test_slow_bodies_of_one_account_leave_room_for_anothers(tmp_path: Path) -> None:
    async with (
        ScriptedServer("text ok") as scripted,
        serve(tmp_path, config(scripted, f"bodies_bytes_max = {3 * LIMIT}")) as served,
    ):
        app = served.app
        room = app.gateway.limits.bodies
        _, other = await app.keys.create(account="other", name="n")
        await app.store.credit("other", 10**9, "topup", "t", 1)
        slow = [await asyncio.open_connection("127.0.0.1", served.port) for _ in range(3)]
        for _, writer in slow:  # a head that promises the most, and nothing behind it
            writer.write(head(served, f"content-length: {LIMIT}"))
        await scripted.until(lambda: room.waiting == 1 and room.size == 2 * LIMIT)
        reply = await served.post(ask("x" * 15_000), authorization=f"Bearer {other}")
        assert reply.status == 200
        for _, writer in slow:
            writer.close()
        await scripted.until(lambda: (room.size, room.waiting) == (0, 0))


def test_a_bound_on_all_bodies_below_that_on_one_is_a_mistake(tmp_path: Path) -> None:
    file = tmp_path / "moongate.toml"
    file.write_text("[server]\nbodies_bytes_max = 2048")
    with pytest.raises(ConfigurationError, match=r"bodies_bytes_max is less than server\.body_by"):
        load(file, {})


async def test_waiting_for_room_is_no_slowness_of_the_clients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "GRACE_S", 0.3)
    async with ScriptedServer("text ok") as scripted, serve(tmp_path, config(scripted)) as served:
        take = served.app.gateway.limits.bodies.take

        async def slow(count: int, account: str) -> None:
            await asyncio.sleep(0.4)
            await take(count, account)

        monkeypatch.setattr(served.app.gateway.limits.bodies, "take", slow)
        data = json.dumps(ask()).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(head(served, "transfer-encoding: chunked", "connection: close"))
        for at in range(0, len(data), 50):
            part = data[at : at + 50]
            writer.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
            await writer.drain()
            await asyncio.sleep(0.05)
        writer.write(b"0\r\n\r\n")
        assert (await answer(reader))[0] == 200
        writer.close()


def conversation(size: int) -> dict[str, Any]:
    """A picture and code, about ``size`` characters of each."""
    noise = random.Random(1).randbytes(size * 3 // 4)
    picture = {"url": url(png(8, 8, chunk(b"noIs", noise)))}
    code = 'print("\\n", [{"a": \'☾\'}])\n' * (size // 26)
    return {
        "model": "kimi-k2.5",
        "messages": [
            {"role": "system", "content": code},
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": picture},
                    {"type": "text", "text": code},
                ],
            },
        ],
    }


async def test_what_is_large_is_read_beside_the_loop_and_sent_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    threads: list[int] = []
    write, read = pieces.sent, ChatCodec.read_request

    async def sent(found: Any) -> Any:
        async for piece in write(found):
            sizes.append(len(piece))
            yield piece

    def read_request(codec: ChatCodec, data: bytes) -> Any:
        threads.append(threading.get_ident())
        return read(codec, data)

    monkeypatch.setattr(pieces, "sent", sent)
    monkeypatch.setattr(ChatCodec, "read_request", read_request)
    async with (
        ScriptedServer("text ok", rules=False) as scripted,
        serve(tmp_path, ONE_UPSTREAM.format(kind="vllm", base_url=scripted.base_url)) as served,
    ):
        body = conversation(2_000_000)
        async with probing() as probe:
            assert (await post(served, body)).status == 200
            assert (await served.post(ask())).status == 200
        messages = asked(scripted)[0].body["messages"]
        assert messages[0]["content"] == body["messages"][0]["content"]
        assert messages[1]["content"] == body["messages"][1]["content"]
    whole = sum(sizes)
    assert whole > 6_000_000
    assert max(sizes) <= pieces.LONG
    assert probe.turns > 2 * whole // pieces.LONG, "others had their turn between any two pieces"
    here = threading.get_ident()
    assert [thread == here for thread in threads] == [False, True]


async def test_a_large_body_is_written_with_turns_for_others() -> None:
    body = conversation(8_000_000)
    async with probing() as probe:
        found = await pieces.gathered(body)
    assert b"".join(found) == msgspec.json.encode(body)
    assert probe.turns > len(found) // 2
    assert len(found) > 80
    assert max(map(len, found)) < 2 * pieces.LONG


@given(st.data())
def test_the_pieces_of_a_body_are_what_one_encoder_writes(data: Any) -> None:
    text = st.text(alphabet='ab"\\\n\u2028☾🌙', max_size=30)
    part = st.one_of(
        st.fixed_dictionaries({"type": st.just("text"), "text": text}),
        st.fixed_dictionaries(
            {"type": st.just("image_url"), "image_url": st.fixed_dictionaries({"url": text})}
        ),
    )
    message = st.fixed_dictionaries(
        {"role": st.just("user"), "content": st.one_of(st.none(), text, st.lists(part))},
        optional={"reasoning_content": text, "name": text},
    )
    body = {"model": "m", "messages": data.draw(st.lists(message)), "stream": True}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "LONG", 5)
        assert b"".join(pieces.of(body)) == msgspec.json.encode(body)


def frames() -> Iterator[FrameType]:
    """Of every task, the frames of what it awaits."""
    for task in asyncio.all_tasks():
        at: Any = task.get_coro()
        while at is not None:
            frame = next((getattr(at, n, None) for n in ("cr_frame", "ag_frame", "gi_frame")), None)
            if frame is not None:
                yield frame
            at = getattr(at, "cr_await", None) or getattr(at, "ag_await", None)


async def test_an_answer_that_runs_holds_no_bytes_of_its_body(tmp_path: Path) -> None:
    """The request's texts stay, for another target may be asked; nothing else does."""
    async with (
        ScriptedServer(HELD, rules=False) as scripted,
        serve(tmp_path, ONE_UPSTREAM.format(kind="vllm", base_url=scripted.base_url)) as served,
    ):
        reply = await post(served, ask("x" * 3_000_000, stream=True))
        assert await reply.content.readline()
        await asyncio.sleep(0.05)
        names = {frame.f_code.co_qualname for frame in frames()}
        assert "Gateway.handle" in names
        held = [
            (frame.f_code.co_qualname, name)
            for frame in frames()
            for name, value in frame.f_locals.items()
            if isinstance(value, bytes | bytearray) and len(value) > 1_000_000
            if not frame.f_code.co_qualname.startswith("ScriptedServer.")
        ]
        assert held == []
        reply.close()


@given(
    st.lists(st.text(alphabet='"\\[]{}:,a\u2028', max_size=8), max_size=8),
    st.integers(1, 9),
)
def test_slices_never_change_what_stands_outside_of_strings(texts: list[str], size: int) -> None:
    body = json.dumps({"a": texts, "b": [{"c": text} for text in texts]}).encode()
    whole = b"".join(bulk.outside(body))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bulk, "SLICE", size)
        assert b"".join(bulk.outside(body)) == whole
    tokens = len(whole) - len(whole.translate(None, b"[]{},:"))
    for limit, fits in ((tokens, True), (tokens - 1, False)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(bulk, "TOKENS_MAX", limit)
            patch.setattr(bulk, "_SAMPLED", 0)
            patch.setattr(bulk, "_PLAIN_COUNT", 0)
            patch.setattr(bulk, "SLICE", size)
            if fits:
                bulk.weigh(body)
            else:
                with pytest.raises(Refused, match="json_too_complex"):
                    bulk.weigh(body)


async def test_what_looks_plain_by_chance_is_counted_behind_the_parser(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bulk, "_looks_plain", lambda body: True)
    for inner, tokens in ((b"[],", 3), (b'{"a":0},', 4), (b"0,", 1)):
        count = bulk.TOKENS_MAX // tokens
        for more, fits in ((-10, True), (10, False)):
            body = b'{"m":[' + inner * (count + more) + b"0" + b" " * bulk.TOKENS_MAX + b"]}"
            if fits:
                assert len(fields.parse(body)["m"]) == count + more + 1
            else:
                with pytest.raises(Refused, match="json_too_complex"):
                    fields.parse(body)


def test_structure_is_found_by_samples_wherever_it_stands() -> None:
    size = 1_000_000
    plain = b'{"m":"' + b"a b" * (size // 3) + b'"}'
    dense = b'{"m":[' + b"0," * (size // 2) + b"0]}"
    half = plain[: size // 2] + dense[: size // 2]
    assert all(bulk._looks_plain(plain) for _ in range(50))
    assert not any(bulk._looks_plain(dense) for _ in range(50))
    assert not any(bulk._looks_plain(half) for _ in range(50))


@given(st.lists(st.text(alphabet='ab"\\\n☾🌙', max_size=40), max_size=6), st.integers(0, 30))
def test_what_is_spelt_ahead_is_what_one_encoder_writes(texts: list[str], steps: int) -> None:
    request = Request("m", tuple(Message("user", text) for text in texts))
    body = {"model": "m", "messages": [{"role": "user", "content": text} for text in texts]}
    whole = msgspec.json.encode(body)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spelling, "LONG", 7)
        patch.setattr(spelling, "PIECE", 5)
        patch.setattr(spelling.spell, "__defaults__", (0, 5))
        ahead = Spelling()
        for _ in zip(range(steps), ahead.write(long_texts(request)), strict=False):
            pass  # it may be stopped anywhere
        assert b"".join(pieces.of(body, ahead)) == whole
        assert b"".join(pieces.of(body, ahead)) == whole, "a second time nothing is left"
        assert not any(ahead.has(text) for text in texts)
