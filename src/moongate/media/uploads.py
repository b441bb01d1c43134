"""Files that were uploaded: in memory only, for a time, in bounded bytes, each its organisation's.

A file goes when its time is over, when it is deleted, and with the process. Nobody else's exists:
whoever asks with another organisation's key finds nothing.
"""

import asyncio
from typing import Final, Literal

import msgspec

from moongate.core.errors import Refused
from moongate.core.ids import new_id
from moongate.core.ports import Clock, Uploaded

Purpose = Literal["image", "video", "file-extract"]
PURPOSES: Final = ("image", "video", "file-extract")
_EACH_BYTES: Final = 1024
"""What a file takes beside its bytes: its name and its place."""


class Room(msgspec.Struct, frozen=True):
    """How much is kept: ``files`` and ``account_bytes`` an organisation, ``all_bytes`` in all.

    ``file_bytes`` is the largest file. No ``files``: nothing can be uploaded.
    """

    files: int
    file_bytes: int
    account_bytes: int
    all_bytes: int


class Upload(Uploaded, frozen=True, kw_only=True):
    """One file. ``size`` is the bytes that came; ``details`` is why ``status`` is ``error``.

    ``until_s`` is the end of its time, on the monotonic clock.
    """

    id: str
    account: str
    name: str
    size: int
    created_s: int
    until_s: float
    status: Literal["ok", "error"] = "ok"
    details: str = ""

    @property
    def taken(self) -> int:
        """How many bytes of the room it takes."""
        return len(self.data) + _EACH_BYTES


class Uploads:
    """The files of one process, kept for ``kept_s`` seconds."""

    def __init__(self, room: Room, kept_s: float, clock: Clock) -> None:
        self.room = room
        self._kept_s, self._clock = kept_s, clock
        self._files: dict[str, Upload] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"Uploads({len(self._files)} files, {self.taken} bytes)"

    @property
    def taken(self) -> int:
        """How many bytes of the room are taken."""
        return sum(file.taken for file in self._files.values())

    @property
    def fate(self) -> str:
        """Why a file may be gone, as the end of a sentence."""
        minutes = max(1, round(self._kept_s / 60))
        return (
            f"uploaded files are kept in memory for at most {minutes} "
            f"minute{'s' if minutes > 1 else ''} and are gone after a restart or a deletion"
        )

    def admit(self, account: str, size: int) -> None:
        """Raise Refused where another file of ``size`` bytes of ``account`` finds no room."""
        files = self.list(account)
        if size > self.room.file_bytes:
            what = f"The file is too large: at most {self.room.file_bytes} bytes are taken."
            raise Refused("invalid_value", "file", what=what)
        if len(files) >= self.room.files:
            what = f"Your account has {len(files)} files, and may have no more. Delete some."
            raise Refused("invalid_value", "file", what=what)
        taken = size + _EACH_BYTES
        if sum(file.taken for file in files) + taken > self.room.account_bytes:
            most = self.room.account_bytes
            what = f"Your account's files may take {most} bytes together. Delete some."
            raise Refused("invalid_value", "file", what=what)
        if self.taken + taken > self.room.all_bytes:
            raise Refused("no_room", "file")

    def add(
        self, account: str, purpose: Purpose, name: str, size: int, data: bytes, details: str = ""
    ) -> Upload:
        """Keep ``data`` of a file that had ``size`` bytes; ``details``: why it cannot be used.

        Raises Refused where there is no room.
        """
        self.admit(account, len(data))
        now_ms = self._clock.now_ms()
        file = Upload(
            purpose,
            data,
            id=new_id("file-", now_ms),
            account=account,
            name=name,
            size=size,
            created_s=now_ms // 1000,
            until_s=self._clock.monotonic_s() + self._kept_s,
            status="error" if details else "ok",
            details=details,
        )
        self._files[file.id] = file
        if self._timer is None:
            self._wait()
        return file

    def list(self, account: str) -> list[Upload]:
        """The files of ``account``, the newest first."""
        self._forget()
        return [file for file in reversed(self._files.values()) if file.account == account]

    def find(self, account: str, id: str) -> Upload | None:
        """The file ``id`` of ``account``, if it is still there."""
        self._forget()
        file = self._files.get(id)
        return file if file is not None and file.account == account else None

    def drop(self, id: str) -> None:
        """Forget the file ``id``."""
        self._files.pop(id, None)

    def clear(self) -> None:
        """Forget everything."""
        self._files.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _forget(self) -> None:
        """Let go what is past its time; the oldest stand first."""
        now_s = self._clock.monotonic_s()
        while self._files and (first := next(iter(self._files.values()))).until_s <= now_s:
            del self._files[first.id]

    def _wait(self) -> None:
        """Let go in time what nobody asks for any more."""
        self._forget()
        self._timer = None
        if self._files:
            left_s = next(iter(self._files.values())).until_s - self._clock.monotonic_s()
            self._timer = asyncio.get_running_loop().call_later(max(1.0, left_s), self._wait)
