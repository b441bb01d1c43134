"""Documents over HTTP: their text, and those that are broken or made to hurt."""

import asyncio
import io
import json
import zipfile
from pathlib import Path

import openai
import pytest

from moongate.core.errors import Refused
from moongate.media import reader, texts
from moongate.upstream.scripted import ScriptedServer
from serving_kit import ONE_UPSTREAM, serve

W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
A = 'xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main"'
S = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'


@pytest.fixture
async def client(tmp_path):
    async with ScriptedServer() as scripted:
        config = ONE_UPSTREAM.format(kind="openai", base_url=scripted.base_url)
        async with serve(tmp_path, config) as served:
            url = served.url
            async with openai.AsyncOpenAI(base_url=url, api_key=served.key, max_retries=0) as it:
                yield it


async def read(client: openai.AsyncOpenAI, data: bytes) -> str:
    """The text of ``data``, or the word that says why there is none."""
    file = await client.files.create(file=("secret", data), purpose="file-extract")
    if file.status == "error":
        return f"!{file.status_details}"
    return json.loads((await client.files.content(file.id)).text)["content"].strip()


def packed(**parts: str) -> bytes:
    """A zip file; ``__`` stands for a slash in its names."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        for name, text in parts.items():
            file.writestr(name.replace("__", "/") + ".xml", text)
    return out.getvalue()


def pdf(content: bytes, kids: bytes = b"[3 0 R]", more: bytes = b"") -> bytes:
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids %s /Count 1 >>" % kids,
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 200 200] /Contents 4 0 R "
        b"/Resources << /Font << /F 5 0 R >> >> %s >>" % more,
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    out, places = bytearray(b"%PDF-1.4\n"), []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start = len(out)
    out += b"xref\n0 6\n0000000000 65535 f \n"
    out += b"".join(b"%010d 00000 n \n" % place for place in places)
    return bytes(out) + b"trailer << /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % start


async def test_the_text_of_documents(client):
    page = (
        "<!DOCTYPE html><head><title>x</title></head><p>Io &amp; <b>Europa</b><script>no</script>"
    )
    assert await read(client, page.encode()) == "Io & Europa"
    lines = "<w:p><w:t>Io</w:t><w:tab/><w:t>hot</w:t></w:p><w:p><w:t>Ice</w:t></w:p>"
    word = f"<w:document {W}>{lines}</w:document>"
    assert await read(client, packed(word__document=word)) == "Io\thot\nIce"
    slide = f"<p {A}><a:p><a:r><a:t>Moon %d</a:t></a:r></a:p></p>"
    slides = {f"ppt__slides__slide{n}": slide % n for n in (10, 2)}
    assert (await read(client, packed(**slides))).split() == ["Moon", "2", "Moon", "10"]
    moon = "<si><r><t>Io</t></r><r><t>!</t></r><rPh><t>x</t></rPh><rPh/></si>"
    book = {
        "xl__sharedStrings": f"<sst {S}>{moon}</sst>",
        "xl__worksheets__sheet1": f'<x {S}><row><c t="s"><v>0</v></c><c><v>3</v></c></row></x>',
    }
    assert await read(client, packed(**book)) == "Io!\t3"
    assert await read(client, pdf(b"BT /F 12 Tf 20 100 Td (Io is hot.) Tj ET")) == "Io is hot."


async def test_documents_without_a_text_say_why(client):
    assert await read(client, pdf(b"")) == "!no_text"
    assert await read(client, b"%PDF-1.7 secret") == "!broken"
    assert await read(client, packed(secret="x")) == "!unknown"
    assert await read(client, packed(word__document="<a><secret>")) == "!broken"
    assert await read(client, b"PK\x03\x04secret") == "!broken"


async def test_documents_that_are_made_to_hurt(client):
    bomb = packed(word__document="<a>" + " " * (130 << 20))
    assert len(bomb) < 1 << 20
    assert await read(client, bomb) == "!too_large"
    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))
    laugh = f'<!DOCTYPE a [<!ENTITY l0 "ha">{laughs}]><a {W}><w:p><w:t>&l11;</w:t></w:p></a>'
    assert await read(client, packed(word__document=laugh)) == "!broken"
    deep = pdf(b"", more=b"/X " + b"[" * 100_000 + b"]" * 100_000)
    assert (await read(client, deep)).startswith("!")
    circle = pdf(b"", kids=b"[2 0 R]")
    assert (await read(client, circle)).startswith("!")


async def test_pdfs_need_their_extra(client, monkeypatch):
    monkeypatch.setattr(texts, "find_spec", lambda name: None)
    with pytest.raises(openai.BadRequestError, match="lacks the extra files"):
        await read(client, pdf(b""))


async def test_reading_ends_in_time(client, monkeypatch):
    monkeypatch.setattr(texts, "READ_S", 0.001)
    assert await read(client, pdf(b"")) == "!too_slow"


async def test_one_account_reads_one_document_at_a_time_and_none_waits_for_ever(monkeypatch):
    reading, most, gone = [], [], asyncio.Event()

    async def read(kind: str, data: bytes, total_s: float) -> tuple[int, bytes]:
        assert (kind, total_s) == ("pdf", texts.READ_S)
        reading.append(data)
        most.append(len(reading))
        await gone.wait()
        reading.remove(data)
        return 0, b"read"

    monkeypatch.setattr(texts.beside, "read", read)
    it = texts.Texts()
    tasks = [asyncio.create_task(it.read(b"%PDF-1", "a")) for _ in range(3)]
    await asyncio.sleep(0)
    tasks.append(asyncio.create_task(it.read(b"%PDF-2", "b")))
    await asyncio.sleep(0.01)
    assert reading == [b"%PDF-1", b"%PDF-2"]
    it._turns.wait_s = 0.01
    with pytest.raises(Refused, match="overloaded"):
        await it.read(b"%PDF-3", "c")
    gone.set()
    assert await asyncio.gather(*tasks) == [(b"read", "")] * 4
    assert max(most) == 2
    assert it._turns.taken == 0


async def test_too_many_pages_and_too_much_text_are_told(monkeypatch):
    monkeypatch.setattr(reader, "PAGES_MAX", 0)
    with pytest.raises(reader.Unread, match="too_large"):
        list(reader.pdf(pdf(b"")))


def test_the_reader_binds_itself():
    code = (
        f"import runpy, resource as r; m = runpy.run_path({reader.__file__!r}); m['bind']()\n"
        "import os\n"
        "try: open('/tmp/moongate-reader', 'w').write('x' * 9000); print('wrote')\n"
        "except OSError: print('bound', r.getrlimit(r.RLIMIT_CPU)[1], r.getrlimit(r.RLIMIT_CORE))\n"
        "print(r.getrlimit(r.RLIMIT_NPROC), os.nice(0) >= 10)\n"
        "if os.getuid():\n"
        "    try: os._exit(0) if os.fork() == 0 else print('forked')\n"
        "    except OSError: pass\n"
    )
    import subprocess
    import sys

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    Path("/tmp/moongate-reader").unlink(missing_ok=True)
    bound = [f"bound {reader.CPU_S} (0, 0)", "(0, 0) True"]
    assert done.stdout.splitlines() == bound, done.stderr
