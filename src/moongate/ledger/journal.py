"""The journal: where a booking goes when the store cannot take it, until the store can.

A record is a usage row and whether the hold is given back, never content. It is on the disk before
the client sees an end. The file is preallocated, so a full disk does not stop it; it belongs to one
process at a time, and what a dead one left is replayed by the next to start, before anything else
is booked. Replaying is harmless however often: the ledger resolves a hold once.
"""

import asyncio
import errno
import fcntl
import os
import struct
import zlib
from pathlib import Path
from typing import Final

import msgspec

from moongate.core.errors import ConfigurationError, LedgerUnavailable
from moongate.core.ports import Settlement, Store

SIZE_BYTES: Final = 1 << 20
"""About 2,500 bookings; more are written behind it where the disk has room."""
REPLAY_S: Final = 1.0
_FRAME: Final = struct.Struct("<4sII")
_MARK: Final = b"mgj1"
_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(Settlement).decode


class Journal:
    """The journals of one folder: one file of ours, and those that nobody holds any more.

    ``pending`` are bookings that the store has not taken yet, by hold; ``unknown`` are charges for
    holds that the store has never seen, or not as large: it was put back to an older state.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: list[int] = []
        self._paths: list[Path] = []
        self._end = 0
        self._turn = asyncio.Lock()
        self.pending: dict[str, Settlement] = {}
        self.unknown: set[str] = set()

    def __repr__(self) -> str:
        return f"Journal({len(self.pending)} pending)"

    def open(self) -> None:
        """Take every file that no living process holds, and read what is still to be booked.

        Raises ConfigurationError when the folder cannot be written.
        """
        try:
            self.folder.mkdir(mode=0o700, exist_ok=True)
            for path in sorted(self.folder.glob("*.journal")):
                self._take(path)
            for number in range(1, 10_000):
                if self._files:
                    break
                self._take(self.folder.joinpath(f"{number}.journal"), make=True)
        except OSError as error:
            why = (error.strerror or "unknown error").lower()
            raise ConfigurationError(f"The journal {self.folder} cannot be used: {why}.") from None

    def close(self) -> None:
        """Let the files go; what is pending stays on the disk for the next start."""
        while self._files:
            os.close(self._files.pop())
        self._paths.clear()

    def _take(self, path: Path, *, make: bool = False) -> None:
        """Lock ``path`` and read it, unless another process has it."""
        flags = os.O_RDWR | (os.O_CREAT | os.O_EXCL if make else 0)
        try:
            file = os.open(path, flags, 0o600)
        except FileExistsError:
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)
            return
        if os.fstat(file).st_nlink == 0:  # its last owner was just done with it
            os.close(file)
            return
        self._files.append(file)
        self._paths.append(path)
        if len(self._files) == 1:  # ours; whoever made it may have died before it had its blocks
            _allocate(file, self.folder)
        found, end = _records(_read_all(file))
        self.pending |= {one.row.hold: one for one in found}
        if len(self._files) == 1:
            self._end = end

    async def write(self, settlement: Settlement) -> None:
        """Put ``settlement`` on the disk. Raises LedgerUnavailable when that fails too."""
        payload = _encode(settlement)
        frame = _FRAME.pack(_MARK, len(payload), zlib.crc32(payload)) + payload
        async with self._turn:
            if not self._files:
                raise LedgerUnavailable("journal")
            try:
                await asyncio.to_thread(_append, self._files[0], frame, self._end)
            except OSError:
                raise LedgerUnavailable("journal") from None
            self._end += len(frame)
            self.pending[settlement.row.hold] = settlement

    async def replay(self, store: Store, at_ms: int) -> int:
        """Book what is pending; returns how much the store took. Raises LedgerUnavailable.

        It is booked as ended ``at_ms``, which is now: the month of a request that ended while the
        store was away may be over and its invoice final, so the charge is in this one's.
        A booking whose hold was resolved meanwhile (by a commit that nobody heard of, or because
        it expired) is done with: nothing is charged twice.
        """
        taken = 0
        for hold, settlement in list(self.pending.items()):
            if await self._book(store, settlement, at_ms):
                taken += 1
            elif await store.usage_row(hold) is None:
                self.unknown.add(hold)
            self.pending.pop(hold, None)
        if not self.pending and not self.unknown:
            await self._empty()
        return taken

    @staticmethod
    async def _book(store: Store, settlement: Settlement, at_ms: int) -> bool:
        """Whether the store took it, or there was nothing to charge."""
        row = msgspec.structs.replace(settlement.row, ended_ms=at_ms)
        try:
            done = await store.settle(Settlement(row, void=settlement.void))
        except ValueError:  # it does not fit its hold: those behind it must not wait for it
            return False
        return done or not settlement.row.charge_nanos

    async def _empty(self) -> None:
        """Begin again at the start of our file; files of dead processes are done with."""
        async with self._turn:
            if self.pending:
                return
            self._end = 0
            try:
                await asyncio.to_thread(self._erase)
            except OSError:
                # The old records stay until new ones lie over them: replayed, they change nothing.
                return

    def _erase(self) -> None:
        for file in self._files:
            os.pwrite(file, bytes(_FRAME.size), 0)
            os.fsync(file)
        while len(self._files) > 1:
            self._paths.pop().unlink(missing_ok=True)
            os.close(self._files.pop())


def _allocate(file: int, folder: Path) -> None:
    """Give a file the blocks that it lacks now, and make its name durable."""
    size = os.fstat(file).st_size
    if size < SIZE_BYTES:
        _append(file, bytes(SIZE_BYTES - size), size)
    parent = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)


def _read_all(file: int) -> bytes:
    size = os.fstat(file).st_size
    data = b""
    while len(data) < size and (piece := os.pread(file, size - len(data), len(data))):
        data += piece
    return data


def _records(data: bytes) -> tuple[list[Settlement], int]:
    """The whole records at the start of ``data``, and where they end; a torn one ends them."""
    found: list[Settlement] = []
    at = 0
    while at + _FRAME.size <= len(data):
        mark, length, sum_ = _FRAME.unpack_from(data, at)
        payload = data[at + _FRAME.size : at + _FRAME.size + length]
        if mark != _MARK or len(payload) != length or zlib.crc32(payload) != sum_:
            break
        found.append(_decode(payload))
        at += _FRAME.size + length
    return found, at


def _append(file: int, frame: bytes, at: int) -> None:
    """Write ``frame`` at ``at``; it is on the disk when this returns."""
    if os.pwrite(file, frame, at) != len(frame):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.fsync(file)
