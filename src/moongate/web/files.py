"""``/v1/files``: files taken in, listed, shown and forgotten, in Moonshot's shapes.

A picture and a video are judged at once; their text is what a document becomes. Nothing is kept
for a key that demands zero retention, because a file outlives its request.
"""

import asyncio
import codecs
import re
from collections.abc import Mapping
from typing import Any, Final, cast

import msgspec
from aiohttp import web

from moongate.access.bodies import Bodies
from moongate.access.keys import Principal
from moongate.core.errors import Refused
from moongate.media import pictures, videos
from moongate.media.pictures import BadPicture
from moongate.media.texts import Texts
from moongate.media.uploads import PURPOSES, Purpose, Upload, Uploads
from moongate.media.videos import BadVideo
from moongate.web import multipart
from moongate.web.multipart import Form
from moongate.web.reply import shown, whole
from moongate.web.server import Handler, Hit

_PIECE_BYTES: Final = 1 << 20
_LISTED_MAX: Final = 10_000
_encode: Final = msgspec.json.Encoder().encode
_ALONE: Final = (
    "This server takes no uploads: its operator switched them off, or runs it as several "
    "processes, and a file would be in one of them only. Send pictures and videos as data URLs."
)


class Filing:
    """The handlers of files. ``body_bytes_max`` bounds any body, ``bodies`` what is on its way."""

    def __init__(self, uploads: Uploads, bodies: Bodies, body_bytes_max: int) -> None:
        self._uploads, self._bodies, self._texts = uploads, bodies, Texts()
        self._limit = min(uploads.room.file_bytes + multipart.AROUND_BYTES, body_bytes_max)

    def table(self) -> dict[str, Handler]:
        """Handler name -> handler."""
        return {
            "upload": self.upload,
            "files": self.files,
            "file": self.file,
            "forget": self.forget,
            "content": self.content,
        }

    async def upload(self, hit: Hit) -> web.StreamResponse:
        """``POST /v1/files``."""
        account = _account(hit)
        if not self._uploads.room.files:
            raise Refused("invalid_value", "file", what=_ALONE)
        self._uploads.admit(account, 0)
        taken = 0

        async def admit(count: int) -> None:
            nonlocal taken
            await self._bodies.take(count, account)
            taken += count

        try:
            form = await multipart.read(hit.request, self._limit, admit)
            purpose = _purpose(form)
            if not form.data:
                raise Refused("invalid_value", "file", what="The file is empty.")
            self._uploads.admit(account, len(form.data) if purpose != "file-extract" else 0)
            data, details = await self._judged(form, purpose, account)
            file = self._uploads.add(account, purpose, form.name, len(form.data), data, details)
        finally:
            self._bodies.give(taken, account)
        return shown(hit.id, _shape(file))

    async def files(self, hit: Hit) -> web.StreamResponse:
        """``GET /v1/files``: the newest first, or as ``order`` says; of one ``purpose``, if any."""
        found, more = _listed(self._uploads.list(_account(hit)), hit.request.query)
        said = {"object": "list", "data": [_shape(file) for file in found], "has_more": more}
        if found:
            said |= {"first_id": found[0].id, "last_id": found[-1].id}
        return shown(hit.id, said)

    async def file(self, hit: Hit) -> web.StreamResponse:
        """``GET /v1/files/{id}``."""
        return shown(hit.id, _shape(self._found(hit)))

    async def forget(self, hit: Hit) -> web.StreamResponse:
        """``DELETE /v1/files/{id}``."""
        file = self._found(hit)
        self._uploads.drop(file.id)
        return shown(hit.id, {"id": file.id, "object": "file", "deleted": True})

    async def content(self, hit: Hit) -> web.StreamResponse:
        """``GET /v1/files/{id}/content``: text to paste into a system message."""
        file = self._found(hit)
        if file.purpose != "file-extract":
            what = f"No text is read from an {file.purpose}: name it by ms:// in a message."
            raise Refused("invalid_value", "id", what=what.replace("an video", "a video"))
        if file.status == "error":
            what = f"No text could be read from this file: {file.details}."
            raise Refused("invalid_value", "id", what=what)
        body = await asyncio.to_thread(_content, file)
        return whole(200, body, {"x-request-id": hit.id})

    async def _judged(self, form: Form, purpose: Purpose, account: str) -> tuple[bytes, str]:
        """What is kept of a file, and why it cannot be used. Raises Refused where it is none."""
        data = form.data
        if purpose == "file-extract":
            return await self._texts.read(data, account)
        try:
            if purpose == "image":
                await asyncio.to_thread(pictures.judge, data)
            else:
                await asyncio.to_thread(
                    videos.judge, lambda at, size: data[at : at + size], len(data)
                )
        except (BadPicture, BadVideo):
            raise Refused(f"invalid_{purpose}", "file") from None
        return data, ""

    def _found(self, hit: Hit) -> Upload:
        file = self._uploads.find(_account(hit), hit.rest)
        if file is None:
            raise Refused("not_found", "id", thing=f"file: {self._uploads.fate}")
        return file


def _listed(files: list[Upload], query: Mapping[str, str]) -> tuple[list[Upload], bool]:
    """Those of ``files``, newest first, that are asked for, and whether there are more of them.

    Source: OpenAI API reference, "List files". Raises Refused naming the parameter.
    """
    purpose, limit = query.get("purpose"), query.get("limit", str(_LISTED_MAX))
    order, after = query.get("order", "desc"), query.get("after")
    number = int(limit) if re.fullmatch("[0-9]{1,5}", limit) else 0
    rules = {
        "purpose": (purpose in (None, *PURPOSES), f"one of {', '.join(PURPOSES)}"),
        "limit": (0 < number <= _LISTED_MAX, f"a number from 1 to {_LISTED_MAX}"),
        "order": (order in ("asc", "desc"), "asc or desc"),
        "after": (after in (None, *(file.id for file in files)), "the id of a file that is there"),
    }
    for name, (kept, what) in rules.items():
        if not kept:
            raise Refused("invalid_value", name, what=f"{name} must be {what}.")
    if order == "asc":
        files.reverse()
    if after is not None:
        files = files[[file.id for file in files].index(after) + 1 :]
    files = [file for file in files if purpose in (None, file.purpose)]
    return files[:number], len(files) > number


def _account(hit: Hit) -> str:
    """Whose files they are. Raises Refused for a key for which nothing may be kept."""
    principal = cast("Principal", hit.principal)
    if principal.zero_retention:
        thing = "endpoint: it demands zero retention, and files outlive the request that brings one"
        raise Refused("insufficient_permissions", thing=thing)
    return principal.account


def _purpose(form: Form) -> Purpose:
    purpose = form.fields.get("purpose")
    if purpose is None:
        raise Refused("missing_required_parameter", "purpose", what="Missing: purpose.")
    if purpose not in PURPOSES:
        what = f"purpose must be one of {', '.join(PURPOSES)}."
        raise Refused("invalid_value", "purpose", what=what)
    return cast("Purpose", purpose)


def _content(file: Upload) -> bytes:
    """A text in Moonshot's shape; in pieces, so that nobody else waits long for a large one."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    pieces = []
    for at in range(0, len(file.data), _PIECE_BYTES):
        piece = decoder.decode(file.data[at : at + _PIECE_BYTES])
        pieces.append(_encode(piece)[1:-1])
    rest = _encode({"filename": file.name, "title": "", "type": "file"})
    return b"".join([b'{"content":"', *pieces, b'",', rest[1:]])


def _shape(file: Upload) -> dict[str, Any]:
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.size,
        "created_at": file.created_s,
        "filename": file.name,
        "purpose": file.purpose,
        "status": file.status,
        "status_details": file.details,
    }
