"""The home folder: where the store, the pepper, the models and the admin socket lie.

Made on first use with mode 0700. This module knows names, modes and what to tell an operator
when the disk says no; it refuses to know what the files are for.
"""

import errno
import fcntl
import os
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from moongate.core.errors import ConfigurationError

PEPPER_BYTES: Final = 32
_SOCKET_PATH_MAX: Final = 107 if sys.platform == "linux" else 103
"""Bytes of a unix socket's path, its closing NUL left out (``sun_path`` in unix(7))."""
_ADVICE: Final = {
    errno.EACCES: "it is not ours to write. Choose another with --home or MOONGATE_HOME",
    errno.EPERM: "it is not ours to write. Choose another with --home or MOONGATE_HOME",
    errno.ENOENT: (
        "part of the path does not exist, or is a link to nothing. "
        "Make it, or choose another with --home or MOONGATE_HOME"
    ),
    errno.EROFS: "the disk is read-only. Choose another with --home or MOONGATE_HOME",
    errno.ENOSPC: "the disk is full. Make room and start again",
    errno.EDQUOT: "the disk quota is used up. Make room and start again",
    errno.ENOTDIR: "part of the path is a file. Choose another with --home or MOONGATE_HOME",
    errno.EEXIST: "it is a file, not a folder. Choose another with --home or MOONGATE_HOME",
}


@contextmanager
def advising(path: Path) -> Iterator[None]:
    """Turn an operating system's refusal at ``path`` into a sentence for the operator."""
    try:
        yield
    except OSError as error:
        why = _ADVICE.get(error.errno or 0) or f"{(error.strerror or 'unknown error').lower()}"
        raise ConfigurationError(f"{path} cannot be used: {why}.") from None


class Home:
    """A home folder. Nothing is made or read before :meth:`open`."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()

    def __repr__(self) -> str:
        return f"Home({str(self.path)!r})"

    @classmethod
    def chosen(cls, path: Path | None, env: Mapping[str, str]) -> "Home":
        """``path``, else ``MOONGATE_HOME``, else ``~/.moongate``. Raises ConfigurationError."""
        if path is not None:
            return cls(path)
        if env.get("MOONGATE_HOME"):
            return cls(Path(env["MOONGATE_HOME"]))
        try:
            return cls(Path("~/.moongate"))
        except RuntimeError:
            raise ConfigurationError(
                "This user has no home folder. Name one with --home or MOONGATE_HOME."
            ) from None

    @property
    def store(self) -> Path:
        """The embedded store's file, unless the configuration names another."""
        return self.path / "moongate.db"

    @property
    def models(self) -> Path:
        """Where model files are kept."""
        return self.path / "models"

    @property
    def socket(self) -> Path:
        """The admin socket of the server that runs on this home."""
        return self.path / "admin.sock"

    def worker_socket(self, number: int) -> Path:
        """Where one worker of several tells the others its metrics."""
        return self.path / f"worker-{number}.sock"

    @property
    def journal(self) -> Path:
        """Where bookings wait that the store cannot take."""
        return self.path / "journal"

    @property
    def receipt_key(self) -> Path:
        """The public key that receipts are checked with, in hex."""
        return self.path / "receipts.pub"

    def publish_receipt_key(self, public: bytes) -> None:
        """Put the public key into its file, whole. Raises ConfigurationError."""
        path, text = self.receipt_key, f"{public.hex()}\n"
        draft = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
        with advising(path):
            if path.exists() and path.read_text("ascii", "replace") == text:
                return
            try:
                draft.write_text(text, "ascii")
                draft.replace(path)
            finally:
                draft.unlink(missing_ok=True)

    def open(self) -> "Home":
        """Make what is missing and prove that it can be written; returns itself.

        Raises ConfigurationError: not writable, disk full, or too long for the admin socket.
        """
        self.fit(self.socket)
        for folder in (self.path, self.models, self.path / "secrets"):
            with advising(folder):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = self.path / f".probe-{secrets.token_hex(8)}"
        with advising(self.path):
            try:
                probe.write_bytes(bytes(4096))
            finally:
                probe.unlink(missing_ok=True)
        return self

    def fit(self, path: Path) -> None:
        """Raise ConfigurationError when ``path`` is too long for a unix socket."""
        excess = len(os.fsencode(path)) - _SOCKET_PATH_MAX
        if excess > 0:
            raise ConfigurationError(
                f"The home folder's path is {excess} bytes too long for the socket {path.name} in "
                f"it: {self.path}. Choose a shorter one with --home or MOONGATE_HOME."
            )

    @contextmanager
    def occupied(self) -> Iterator[None]:
        """Be the one server of this home folder, with all that is forked meanwhile.

        Raises ConfigurationError, which names the process that is it already.
        """
        path = self.path / "server.lock"
        with advising(path):
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                pid = os.read(file, 20).decode("ascii", "replace").strip() or "unknown"
                raise ConfigurationError(
                    f"Another Moongate (process {pid}) serves from {self.path}. Stop it first, or "
                    "choose another home folder with --home."
                ) from None
            os.ftruncate(file, 0)
            os.write(file, f"{os.getpid()}\n".encode())
            yield
        finally:
            os.close(file)

    @property
    def pepper_file(self) -> Path:
        """Where the pepper lies."""
        return self.path / "secrets" / "pepper"

    def pepper(self, store: Path | None) -> bytes:
        """The 32 random bytes that API keys are hashed with, made once, mode 0600.

        ``store`` is the store's file, ``None`` where the store is no file. Raises
        ConfigurationError when the pepper is damaged, or gone while the store is still there (a
        new one would silently end every key); and when the store was emptied beside it (a new
        start would silently give new credit).
        """
        path = self.pepper_file
        if store is not None:
            _belong(path, store)
        with advising(path):
            known = path.exists()
            if not known:
                _write_once(path, secrets.token_bytes(PEPPER_BYTES))
            pepper = path.read_bytes()
        if len(pepper) != PEPPER_BYTES:
            raise ConfigurationError(
                f"{path} is damaged: it has {len(pepper)} bytes instead of {PEPPER_BYTES}. "
                "Restore it from your backup; every API key was hashed with it."
            )
        return pepper


def _belong(path: Path, rows: Path) -> None:
    """See that the pepper at ``path`` and the store's file ``rows`` are there or missing alike."""
    with advising(path):
        known = path.exists()
    with advising(rows):
        kept = rows.exists()
        emptied = kept and rows.is_file() and rows.stat().st_size == 0
    if known and emptied:
        raise ConfigurationError(
            f"{rows} is empty although it was in use: restore it from a backup, or delete "
            "it to start anew."
        )
    if kept and not known:
        raise ConfigurationError(
            f"{path} is missing, but the store is there. Every API key was hashed with it: "
            "restore it from your backup."
        )


def _write_once(path: Path, data: bytes) -> None:
    """Put ``data`` at ``path`` whole and durably, or leave what another process put there."""
    draft = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            return
    finally:
        draft.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
