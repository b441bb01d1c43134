"""Files over HTTP, with the SDK that most callers have: taken in, shown to a model, forgotten."""

import asyncio
import json
import subprocess
import sys
import threading
from typing import Any

import openai
import pytest

from moongate.app.parts import make_uploads
from moongate.core.ports import ManualClock
from moongate.media import texts
from moongate.upstream.scripted import ScriptedServer
from moongate.web import files
from picture_kit import mp4, png, url
from serving_kit import Served, serve

CONFIG = """
[server]
port = 0
drain_s = 2

[media]
files_max = 3
file_bytes_max = 100000
files_account_bytes_max = 150000
files_bytes_max = 200000
files_kept_s = 600

[[upstreams]]
name = "there"
kind = "vllm"
data_policy = "self-hosted"
base_url = "{base_url}"

[[models]]
id = "moon-1"
window = 20000
abilities = ["images", "video"]
targets = [{{ upstream = "there", model = "moon-1" }}]
price = {{ input = "0.48", cached = "0.10", output = "2.00" }}
"""
FATE = "uploaded files are kept in memory for at most 10 minutes and are gone after a restart"


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
async def scripted():
    async with ScriptedServer("text Io.\nusage prompt=100 completion=3\nfinish stop") as it:
        yield it


@pytest.fixture
async def served(tmp_path, scripted, clock):
    async with serve(tmp_path, CONFIG.format(base_url=scripted.base_url), clock=clock) as it:
        yield it
        await it.sound()


@pytest.fixture
async def client(served):
    async with sdk(served, served.key) as it:
        yield it


def sdk(served: Served, key: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=served.url, api_key=key, max_retries=0)


async def another(served: Served, account: str, **more: Any) -> openai.AsyncOpenAI:
    _, key = await served.app.keys.create(account=account, name="k", **more)
    return sdk(served, key)


def shows(id: str, kind: str = "image_url") -> dict[str, Any]:
    part: Any = {"type": kind, kind: {"url": f"ms://{id}"}}
    return {"model": "moon-1", "messages": [{"role": "user", "content": [part]}]}


def told(error: pytest.ExceptionInfo[openai.APIStatusError]) -> tuple[int, str, str]:
    body = error.value.body
    assert isinstance(body, dict)
    assert "secret" not in json.dumps(body)
    return error.value.status_code, body["code"], body["param"]


async def test_a_picture_is_uploaded_shown_and_forgotten(client, scripted, clock):
    file = await client.files.create(file=("a/secret.png", png()), purpose="image")
    assert (file.object, file.bytes, file.filename) == ("file", len(png()), "secret.png")
    assert (file.purpose, file.status, file.created_at) == ("image", "ok", clock.now_ms() // 1000)
    assert await client.files.retrieve(file.id) == file
    film = await client.files.create(file=("b.mp4", mp4()), purpose="video")
    assert [one.id async for one in client.files.list()] == [film.id, file.id]
    await client.chat.completions.create(**shows(file.id))
    await client.chat.completions.create(**shows(film.id, "video_url"))
    sent = [
        part[kind]["url"]
        for body in [one.body for one in scripted.requests if one.method == "POST"][-2:]
        for part in body["messages"][0]["content"]
        for kind in (part["type"],)
    ]
    assert sent == [url(png()), url(mp4(), "video/mp4")]
    gone = await client.files.delete(file.id)
    assert (gone.id, gone.object, gone.deleted) == (file.id, "file", True)
    for call in (client.files.retrieve, client.files.delete, client.files.content):
        with pytest.raises(openai.NotFoundError, match=FATE) as error:
            await call(file.id)
        assert told(error) == (404, "not_found", "id")


async def test_the_list_is_what_was_asked_for(client):
    made = [
        await client.files.create(file=(f"{at}", data), purpose=purpose)
        for at, (data, purpose) in enumerate(
            [(png(), "image"), (b"a", "file-extract"), (png(), "image")]
        )
    ]
    ids = [file.id for file in made]

    async def listed(**query):
        page = await client.files.list(**query)
        return [file.id for file in page.data], page.has_more

    assert await listed() == (ids[::-1], False)
    assert await listed(order="asc") == (ids, False)
    assert await listed(purpose="image") == ([ids[2], ids[0]], False)
    assert await listed(limit=2) == (ids[:0:-1], True)
    assert await listed(limit=1, order="asc", after=ids[0], purpose="image") == ([ids[2]], False)
    assert [file.id async for file in client.files.list(limit=1)] == ids[::-1]
    for name, bad in (
        *(("limit", bad) for bad in (0, 10_001, "abc", "\u0663", "1" * 9)),
        *(("purpose", "nope"), ("order", "sideways"), ("after", "file-none")),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            await listed(**{name: bad})
        assert caught.value.body["param"] == name


async def test_what_ms_names_must_be_there_and_of_its_kind(client, served):
    film = await client.files.create(file=("b.mp4", mp4()), purpose="video")
    at = "messages[0].content[0].image_url"
    with pytest.raises(
        openai.BadRequestError, match="another purpose; here it has to be image"
    ) as error:
        await client.chat.completions.create(**shows(film.id))
    assert told(error) == (400, "invalid_value", at)
    for id in ("", "file-0", film.id[:-1]):
        with pytest.raises(openai.BadRequestError, match=FATE) as error:
            await client.chat.completions.create(**shows(id))
        assert told(error) == (400, "file_not_found", at)


async def test_files_are_their_organisations_own(client, served):
    file = await client.files.create(file=("secret.png", png()), purpose="image")
    async with await another(served, "b") as stranger:
        assert (await stranger.files.list()).data == []
        for call in (stranger.files.retrieve, stranger.files.delete, stranger.files.content):
            with pytest.raises(openai.NotFoundError):
                await call(file.id)
        with pytest.raises(openai.BadRequestError) as error:
            await stranger.chat.completions.create(**shows(file.id))
        assert told(error)[1] == "file_not_found"
    assert (await client.files.retrieve(file.id)).id == file.id


async def test_nothing_is_kept_for_zero_retention(client, served):
    async with await another(served, "default", zero_retention=True) as strict:
        for call in (
            lambda: strict.files.create(file=("secret.png", png()), purpose="image"),
            strict.files.list,
            lambda: strict.files.retrieve("file-0"),
        ):
            with pytest.raises(openai.PermissionDeniedError, match="zero retention"):
                await call()
    assert served.app.uploads.taken == 0
    assert served.app.gateway.limits.bodies.size == 0


async def test_files_go_when_their_time_is_over_and_with_the_process(client, served, clock):
    first = await client.files.create(file=("a.png", png()), purpose="image")
    clock.advance(599)
    second = await client.files.create(file=("b.png", png()), purpose="image")
    assert (await client.files.retrieve(first.id)).id == first.id
    clock.advance(1)
    assert [one.id async for one in client.files.list()] == [second.id]
    with pytest.raises(openai.NotFoundError, match=FATE):
        await client.files.retrieve(first.id)
    served.app.uploads.clear()
    assert served.app.uploads.taken == 0


async def test_a_timer_lets_go_what_nobody_asks_for(client, served, clock, monkeypatch):
    await client.files.create(file=("a.png", png()), purpose="image")
    timer = served.app.uploads._timer
    assert timer is not None
    assert 590 < timer.when() - asyncio.get_running_loop().time() <= 600
    clock.advance(600)
    timer._run()
    assert (served.app.uploads._files, served.app.uploads._timer) == ({}, None)


async def test_quotas_of_number_and_bytes(client, served):
    big = b"x" * 60_000
    for name in "ab":
        await client.files.create(file=(name, big), purpose="file-extract")
    with pytest.raises(openai.BadRequestError, match="150000 bytes together") as error:
        await client.files.create(file=("c", big), purpose="file-extract")
    assert told(error) == (400, "invalid_value", "file")
    async with await another(served, "b") as other:
        await other.files.create(file=("a", big), purpose="file-extract")
        with pytest.raises(openai.InternalServerError, match="no room for uploads") as failed:
            await other.files.create(file=("b", big), purpose="file-extract")
        assert told(failed) == (503, "no_room", "file")
    await client.files.create(file=("c", b"x"), purpose="file-extract")
    with pytest.raises(openai.BadRequestError, match="has 3 files, and may have no more"):
        await client.files.create(file=("d", b"x"), purpose="file-extract")
    assert served.app.gateway.limits.bodies.size == 0


async def test_a_file_is_bounded(client, served):
    with pytest.raises(openai.BadRequestError, match="at most 100000 bytes"):
        await client.files.create(file=("a", b"x" * 100_001), purpose="file-extract")
    with pytest.raises(openai.APIStatusError) as error:
        await client.files.create(file=("a", b"x" * 170_000), purpose="file-extract")
    assert error.value.status_code == 413
    assert served.app.gateway.limits.bodies.size == 0


@pytest.mark.parametrize(
    ("data", "purpose", "code", "param"),
    [
        (png()[:-4], "image", "invalid_image", "file"),
        (b"secret", "image", "invalid_image", "file"),
        (png(), "video", "invalid_video", "file"),
        (mp4(), "image", "invalid_image", "file"),
        (b"", "file-extract", "invalid_value", "file"),
        (png(), "file-extract", "invalid_value", "file"),
        (b"\x7fELF\0\0\1\2\3", "file-extract", "invalid_value", "file"),
        (png(), "secret", "invalid_value", "purpose"),
    ],
)
async def test_what_is_no_such_file_is_refused(client, served, data, purpose, code, param):
    with pytest.raises(openai.BadRequestError) as error:
        await client.files.create(file=("secret.png", data), purpose=purpose)
    assert told(error) == (400, code, param)
    assert (await client.files.list()).data == []
    assert "secret" not in served.log.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        "Io, Ганимед, 木卫三".encode(),
        "\ufeffIo, Ганимед, 木卫三".encode(),
        "Io, Ганимед, 木卫三".encode("utf-16"),
        "\ufeffIo, Ганимед, 木卫三".encode("utf-16-be"),
        "Io, Ганимед, 木卫三".encode("utf-32"),
    ],
)
async def test_text_is_read_in_its_encoding(client, data):
    file = await client.files.create(file=("moons.txt", data), purpose="file-extract")
    text = (await client.files.content(file.id)).text
    assert json.loads(text) == {
        "content": "Io, Ганимед, 木卫三", "filename": "moons.txt", "title": "", "type": "file",
    }  # fmt: skip


async def test_latin_utf16_needs_no_mark(client):
    for encoding in ("utf-16-le", "utf-16-be"):
        data = "Name three moons.".encode(encoding)
        file = await client.files.create(file=("a", data), purpose="file-extract")
        assert "Name three moons." in (await client.files.content(file.id)).text


async def text_of(client: openai.AsyncOpenAI, data: bytes) -> str:
    """The text of ``data``, or the word that says why there is none; the file is gone then."""
    file = await client.files.create(file=("a", data), purpose="file-extract")
    text = f'{{"content":"!{file.status_details}"}}'
    if file.status == "ok":
        text = (await client.files.content(file.id)).text
    await client.files.delete(file.id)
    return json.loads(text)["content"]


async def test_large_text_is_read_and_told_in_pieces(client, monkeypatch):
    """No single call holds the interpreter for long, and none of them is on the event loop."""
    encode, calls = files._encode, []

    def seen(value: Any) -> bytes:
        calls.append((len(value), threading.get_ident()))
        return encode(value)

    monkeypatch.setattr(files, "_encode", seen)
    for module in (files, texts):
        monkeypatch.setattr(module, "_PIECE_BYTES", 5)
    said = 'Io, "Ганимед"\n木卫三\\ ' * 9
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32"):
        assert await text_of(client, said.encode(encoding)) == said
    assert max(size for size, _ in calls) <= 5
    assert threading.get_ident() not in {thread for _, thread in calls}
    for data in (b"Io \xff", "Io Γ".encode()[:-1], "Io Γ".encode("utf-16")[:-1]):
        assert await text_of(client, data) == "!not_utf8"
    assert await text_of(client, b" " * 20) == "!no_text"


@pytest.mark.parametrize(
    ("data", "told", "looks"),
    [
        (b"x" * 10, "x" * 10, 2),
        (b"x" * 11, "!too_large", 2),
        (("x" * 9).encode("utf-32"), "x" * 9, 2),
        (b"x" * 41, "!too_large", 1),
    ],
)
async def test_too_much_text_is_refused_before_it_is_decoded(
    client, monkeypatch, data, told, looks
):
    seen, find = [], texts.encoding
    monkeypatch.setattr(texts, "TEXT_BYTES_MAX", 10)
    monkeypatch.setattr(texts, "encoding", lambda data: seen.append(len(data)) or find(data))
    assert await text_of(client, data) == told
    assert len(seen) == looks  # once to see that it is text, once to decode it


async def test_text_that_cannot_be_read_is_told_by_a_word(client):
    file = await client.files.create(
        file=("a.txt", "Café".encode("latin-1")), purpose="file-extract"
    )
    assert (file.status, file.status_details) == ("error", "not_utf8")
    with pytest.raises(openai.BadRequestError, match="could be read from this file: not_utf8"):
        await client.files.content(file.id)
    picture = await client.files.create(file=("a.png", png()), purpose="image")
    with pytest.raises(openai.BadRequestError, match="ms://"):
        await client.files.content(picture.id)


def form(*parts: tuple[str, bytes], end: bytes = b"--x--\r\n") -> bytes:
    whole = b"".join(b"--x\r\n%s\r\n\r\n%s\r\n" % (head.encode(), data) for head, data in parts)
    return whole + end


FILE = 'Content-Disposition: form-data; name="file"; filename="secret.txt"'
PURPOSE = ('Content-Disposition: form-data; name="purpose"', b"file-extract")


@pytest.mark.parametrize(
    ("body", "kind", "status", "param"),
    [
        (form((FILE, b"Io"), PURPOSE), "multipart/form-data; boundary=x", 200, None),
        (form(PURPOSE), "multipart/form-data; boundary=x", 400, "file"),
        (form((FILE, b"Io")), "multipart/form-data; boundary=x", 400, "purpose"),
        (form((FILE, b"Io"), (FILE, b"Io")), "multipart/form-data; boundary=x", 400, "file"),
        (form((FILE, b"Io"), PURPOSE), "multipart/form-data", 400, None),
        (b"secret", "multipart/form-data; boundary=x", 400, None),
        (form((FILE, b"Io"), end=b""), "multipart/form-data; boundary=x", 400, None),
        (form(*[PURPOSE] * 20), "multipart/form-data; boundary=x", 400, None),
        (
            form((f"{FILE}\r\nContent-Encoding: gzip", b"Io")),
            "multipart/form-data; boundary=x", 400, None,
        ),
        (
            form((f"{FILE}\r\nContent-Type: multipart/mixed; boundary=y", b"--y--")),
            "multipart/form-data; boundary=x", 400, None,
        ),
        (b"{}", "application/json", 415, None),
    ],
)  # fmt: skip
async def test_forms_of_every_shape(served, body, kind, status, param):
    for chunked in (False, True):

        async def pieces():
            yield body[:70]
            yield body[70:]

        headers = {"authorization": f"Bearer {served.key}", "content-type": kind}
        data = pieces() if chunked else body
        async with served.http.post(f"{served.url}/files", data=data, headers=headers) as reply:
            text = await reply.text()
            assert reply.status == status, text
            if status != 200:
                assert json.loads(text)["error"]["param"] == param
                assert "secret" not in text
    assert served.app.gateway.limits.bodies.size == 0


@pytest.mark.parametrize("options", [(), ("-W", "always")])
def test_what_a_library_warns_of_a_form_is_not_written_anywhere(options):
    """A name with a space and no quotes: the library quotes it in a warning."""
    code = (
        "from aiohttp.multipart import parse_content_disposition\n"
        "from moongate.log import Log, hush\n"
        "hush(Log())\n"
        'head = "form-data; name=file; filename=CANARY patient.pdf"\n'
        "print(parse_content_disposition(head))\n"
        "print(getattr(parse_content_disposition, '__globals__').get('__warningregistry__'))\n"
    )
    done = subprocess.run(
        [sys.executable, *options, "-c", code], capture_output=True, text=True, check=True
    )
    assert "CANARY" not in done.stdout + done.stderr
    assert ("BadContentDisposition" in done.stderr) is bool(options)


async def test_several_workers_take_no_uploads(served, client):
    alone, beside = (
        make_uploads(served.app.settings, ManualClock(), alone=alone).room
        for alone in (True, False)
    )
    assert (alone.files, beside.files) == (3, 0)
    served.app.uploads.room = beside
    with pytest.raises(openai.BadRequestError, match="several processes"):
        await client.files.create(file=("a.png", png()), purpose="image")


async def test_a_slow_upload_of_one_account_keeps_no_other_out(served):
    bodies = served.app.gateway.limits.bodies
    bodies._share = 100_001
    host, port = served.url.split("/")[2].split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        f"POST /v1/files HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {served.key}\r\n"
        "content-type: multipart/form-data; boundary=b\r\ncontent-length: 100000\r\n\r\n".encode()
    )
    try:
        async with asyncio.timeout(5):
            while bodies.size < 100_000:
                await asyncio.sleep(0.01)
        async with await another(served, "beta") as other:
            assert (await other.files.create(file=("a.png", png()), purpose="image")).id
        assert bodies.size == 100_000
    finally:
        writer.close()
    async with asyncio.timeout(5):
        while bodies.size:
            await asyncio.sleep(0.01)
