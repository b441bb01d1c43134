"""Reading a form with a file in it: part by part into memory, bounded in size, time and number.

Nothing is spooled. What is not a form of that kind is told so, and none of it is repeated.
"""

import asyncio
import io
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import BodyPartReader, MultipartReader, web
from aiohttp.http_exceptions import HttpProcessingError

from moongate.core.errors import Refused
from moongate.core.sealed import Sealed
from moongate.web.body import FLOOR_BYTES_PER_S, GRACE_S, check_head, welcome

PARTS_MAX: Final = 16
AROUND_BYTES: Final = 65_536
"""What a form may have beside its file."""
_NAME_CHARS: Final = 255
_PIECE_BYTES: Final = 1 << 18
_PLAIN: Final = frozenset({"", "binary", "8bit", "7bit"})


class Form(Sealed, frozen=True):
    """A form: its file's name and bytes, and its other fields as text."""

    name: str
    data: bytes
    fields: dict[str, str]


async def read(
    request: web.BaseRequest, limit: int, admit: Callable[[int], Awaitable[None]]
) -> Form:
    """The form of ``request``, with a file in the field ``file``. Raises Refused.

    ``limit`` bounds the whole body (bytes); ``admit`` takes so many bytes in, or refuses. Times are
    those of any body: ten seconds and one more for each KiB that has come.
    """
    check_head(request, json=False)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise Refused("unsupported_media_type", wanted="multipart/form-data")
    declared = request.content_length
    if declared is not None:
        if declared > limit:
            raise Refused("request_too_large", limit=limit)
        await admit(declared)
    welcome(request)
    reading = _Reading(limit, None if declared is not None else admit)
    try:
        return await reading.form(MultipartReader(request.headers, request.content))
    except TimeoutError:
        raise Refused("request_timeout") from None
    except (ValueError, AssertionError, HttpProcessingError):  # what aiohttp says of broken forms
        raise _broken() from None


def _broken() -> Refused:
    return Refused("invalid_value", what="The body is not a valid multipart/form-data form.")


class _Reading:
    """One form that is being read. ``admit`` is asked for what was not declared."""

    def __init__(self, limit: int, admit: Callable[[int], Awaitable[None]] | None) -> None:
        self._limit, self._admit = limit, admit
        self._size = 0
        self._start_s = asyncio.get_running_loop().time()

    async def form(self, reader: MultipartReader) -> Form:
        """The whole form. Raises Refused, TimeoutError, and whatever aiohttp raises."""
        name = ""
        data: bytes | None = None
        fields: dict[str, str] = {}
        async with asyncio.timeout(GRACE_S) as patience:
            for _ in range(PARTS_MAX):
                part = await reader.next()
                if part is None:
                    break
                if not isinstance(part, BodyPartReader) or not _plain(part):
                    raise _broken()
                if part.name == "file":
                    if data is not None:
                        raise Refused("duplicate_key", "file")
                    name, data = _named(part), await self._part(part, self._limit, patience)
                    continue
                text = await self._part(part, AROUND_BYTES, patience)
                fields[part.name or ""] = text.decode("utf-8")
            else:
                raise _broken()
        if data is None:
            what = "Missing: file, in a form with the fields file and purpose."
            raise Refused("missing_required_parameter", "file", what=what)
        return Form(name, data, fields)

    async def _part(self, part: BodyPartReader, limit: int, patience: asyncio.Timeout) -> bytes:
        """The bytes of one part, at most ``limit``."""
        kept = io.BytesIO()
        loop = asyncio.get_running_loop()
        while piece := await part.read_chunk(_PIECE_BYTES):
            self._size += len(piece)
            if self._size > self._limit:
                raise Refused("request_too_large", limit=self._limit)
            if kept.tell() + len(piece) > limit:
                raise _broken()
            if self._admit is not None:
                patience.reschedule(None)
                came_s = loop.time()
                await self._admit(len(piece))
                self._start_s += loop.time() - came_s  # no fault of the client's
            kept.write(piece)
            patience.reschedule(self._start_s + GRACE_S + self._size / FLOOR_BYTES_PER_S)
        return kept.getvalue()


def _plain(part: BodyPartReader) -> bool:
    """Whether the part's bytes are what they stand for."""
    encodings = (
        part.headers.get("content-transfer-encoding", ""),
        part.headers.get("content-encoding", ""),
    )
    return encodings[0].strip().lower() in _PLAIN and encodings[1].strip().lower() in (
        "",
        "identity",
    )


def _named(part: BodyPartReader) -> str:
    """The file's own name, without folders."""
    name = (part.filename or "").replace("\\", "/").rpartition("/")[2]
    return name[:_NAME_CHARS] or "upload"
