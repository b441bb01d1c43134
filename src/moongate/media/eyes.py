"""What a request shows: every picture and video brought, judged, and made bytes, before any hold.

An upstream gets data URLs and nothing else. A picture at an address is fetched by us, within a time
and a size for the whole request; one that was fetched lies on the shelf of its organisation for a
moment. What is wrong is told by the field that names it.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Final

import msgspec

from moongate.core.errors import FetchFailed, Refused, UrlRefused
from moongate.core.ports import Files
from moongate.core.request import ImagePart, Message, Part, Request, VideoPart
from moongate.media import datas, fetch, pictures, videos
from moongate.media.datas import BadData, Data
from moongate.media.fetch import Fetcher
from moongate.media.pictures import BadPicture
from moongate.media.shelf import Shelf
from moongate.media.turns import Turns
from moongate.media.videos import BadVideo

MEDIA_MAX: Final = 1_024
"""Pictures and videos in one request."""
FETCHED_MAX: Final = 16
"""Addresses in one request."""
FETCHED_BYTES_MAX: Final = 64 << 20
FETCH_S: Final = 30.0
"""For all addresses of one request together."""
VIDEO_BYTES_MAX: Final = 100_000_000
_FETCHES_AT_ONCE: Final = 4
_FETCHES_IN_ALL: Final = 16
_FETCHES_EACH: Final = 8
"""Of these for one account."""
_WAIT_S: Final = 10.0
"""For a first turn at fetching."""
_BESIDE_CHARS: Final = 65_536
"""From so many characters on the event loop does not wait."""
_ACCEPT: Final = "image/png,image/jpeg,image/webp,image/gif"

_Name = tuple[type[Part], str]
"""A part by its kind and address."""
Admit = Callable[[int], Awaitable[None]]
"""Told how many bytes came in beside the body; may raise Refused."""
Look = Callable[[], Awaitable[None]]
"""Called before anything is fetched; may raise Refused."""


class Eyes:
    """Brings what requests show. ``fetcher`` ``None``: http(s) addresses are refused."""

    def __init__(self, fetcher: Fetcher | None, files: Files) -> None:
        self.fetcher, self._files = fetcher, files
        self.shelf = Shelf()
        self._turns = Turns(_FETCHES_IN_ALL, _FETCHES_EACH, _WAIT_S)

    async def bring(
        self, request: Request, account: str, *, keep: bool, admit: Admit, look: Look
    ) -> Request:
        """``request`` with data URLs only. ``keep``: what is fetched may lie on the shelf.

        Raises Refused naming the part.
        """
        shown = list(_shown(request))
        if not shown:
            return request
        if len(shown) > MEDIA_MAX:
            what = f"At most {MEDIA_MAX} pictures and videos fit in one request."
            raise Refused("invalid_value", "messages", what=what)
        made: dict[_Name, Part] = {}
        distant: dict[str, str] = {}
        for at, part in shown:
            name = (type(part), part.url)
            if name in made or part.url in distant:
                continue
            scheme = part.url[:8].lower()
            if scheme.startswith("data:"):
                made[name] = await _judged(part, at)
            elif scheme.startswith("ms://"):
                made[name] = await self._uploaded(part, account, at, admit)
            elif isinstance(part, ImagePart) and scheme.startswith(("http://", "https://")):
                if self.fetcher is None or len(distant) == FETCHED_MAX:
                    raise Refused("image_url_not_allowed", at)
                distant[part.url] = at
            else:
                raise Refused("image_url_not_allowed", at)
        if distant:
            found = await self._kept(distant, account, admit) if keep else {}
            if len(found) < len(distant):
                await look()
                found |= await self._fetched(
                    {url: at for url, at in distant.items() if url not in found},
                    account,
                    admit,
                    keep=keep,
                )
            made |= {(ImagePart, url): ImagePart(data) for url, data in found.items()}
        return msgspec.structs.replace(
            request, messages=tuple(_shows(message, made) for message in request.messages)
        )

    async def _uploaded(
        self, part: ImagePart | VideoPart, account: str, at: str, admit: Admit
    ) -> Part:
        found = self._files.find(account, part.url[5:])
        if found is None:
            raise Refused("file_not_found", at, why=self._files.fate)
        kind = "image" if isinstance(part, ImagePart) else "video"
        if found.purpose != kind:
            what = f"This file was uploaded for another purpose; here it has to be {kind}."
            raise Refused("invalid_value", at, what=what)
        await admit(datas.length(len(found.data)))
        url = await asyncio.to_thread(datas.write, found.data, f"{kind}/unknown")
        return await _judged(msgspec.structs.replace(part, url=url), at)

    async def _kept(self, urls: Iterable[str], account: str, admit: Admit) -> dict[str, str]:
        """What of these lies on the shelf, as data URLs."""
        found = {url: data for url in urls if (data := self.shelf.find(account, url)) is not None}
        for data in found.values():
            await admit(len(data))
        return found

    async def _fetched(
        self, urls: dict[str, str], account: str, admit: Admit, *, keep: bool
    ) -> dict[str, str]:
        """The pictures at these addresses; values say where each stands in the request.

        Its time begins with its first turn, for which it waits another time.
        """
        found: dict[str, str] = {}
        left, room = deque(urls.items()), _Room()

        async def some() -> None:
            while left:
                url, at = left.popleft()
                data = await self._one(url, at, room)
                if keep:
                    self.shelf.keep(account, url, data)
                await admit(len(data))
                found[url] = data

        turns = await self._turns.take(account, min(_FETCHES_AT_ONCE, len(urls)))
        tasks = [asyncio.create_task(some()) for _ in range(turns)]
        for task in tasks:
            task.add_done_callback(lambda _: self._turns.give(account))
        try:
            async with asyncio.timeout(FETCH_S):
                await asyncio.gather(*tasks)
        except TimeoutError:
            late = (at for url, at in urls.items() if url not in found)
            raise Refused("image_fetch_failed", next(late, None)) from None
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return found

    async def _one(self, url: str, at: str, room: "_Room") -> str:
        """The picture at one address, as a data URL."""
        assert self.fetcher is not None
        bytes_max = await room.take()
        try:
            found = await self.fetcher.fetch(url, bytes_max=bytes_max, accept=_ACCEPT)
        except UrlRefused:
            raise Refused("image_url_not_allowed", at) from None
        except FetchFailed:
            raise Refused("image_fetch_failed", at) from None
        room.give(bytes_max - len(found.data))
        return await asyncio.to_thread(_picture, found.data, at)


class _Room:
    """How many bytes one request's pictures may have yet. Who fetches has taken what may come."""

    def __init__(self) -> None:
        self._left, self._fetching = FETCHED_BYTES_MAX, 0
        self._given = asyncio.Event()

    async def take(self) -> int:
        """Room for one picture; less than the largest only where nobody gives any back."""
        while self._left < fetch.BYTES_MAX and self._fetching:
            self._given.clear()
            await self._given.wait()
        self._fetching += 1
        bytes_max = min(fetch.BYTES_MAX, self._left)
        self._left -= bytes_max
        return bytes_max

    def give(self, unused: int) -> None:
        """One was fetched, and so much was not used."""
        self._fetching -= 1
        self._left += unused
        self._given.set()


def _shown(request: Request) -> Iterator[tuple[str, ImagePart | VideoPart]]:
    """Field path and part of every picture and video."""
    for i, message in enumerate(request.messages):
        for j, part in enumerate(message.content if isinstance(message.content, tuple) else ()):
            if isinstance(part, ImagePart | VideoPart):
                kind = "image_url" if isinstance(part, ImagePart) else "video_url"
                yield f"messages[{i}].content[{j}].{kind}", part


def _shows(message: Message, made: dict[_Name, Part]) -> Message:
    """``message`` with what its parts became."""
    if not isinstance(message.content, tuple):
        return message
    parts = tuple(_replaced(part, made) for part in message.content)
    return msgspec.structs.replace(message, content=parts)


def _replaced(part: Part, made: dict[_Name, Part]) -> Part:
    found = made.get((type(part), getattr(part, "url", "")), part)
    if isinstance(part, VideoPart) and isinstance(found, VideoPart):
        return msgspec.structs.replace(
            part, url=found.url, duration_ms=found.duration_ms, size=found.size
        )
    if isinstance(part, ImagePart) and isinstance(found, ImagePart):
        return msgspec.structs.replace(part, url=found.url)
    return part


async def _judged(part: ImagePart | VideoPart, at: str) -> Part:
    judge = _judged_picture if isinstance(part, ImagePart) else _judged_video
    if len(part.url) < _BESIDE_CHARS:
        return judge(part.url, at)
    return await asyncio.to_thread(judge, part.url, at)


def _judged_picture(url: str, at: str) -> Part:
    try:
        data = Data(url, "image", pictures.BYTES_MAX)
        found = pictures.judge(data.whole())
    except (BadData, BadPicture):
        raise Refused("invalid_image", at) from None
    return ImagePart(data.url(f"image/{found.kind}"))


def _judged_video(url: str, at: str) -> Part:
    try:
        data = Data(url, "video", VIDEO_BYTES_MAX)
        data.check()
        found = videos.judge(data.part, len(data))
    except (BadData, BadVideo):
        raise Refused("invalid_video", at) from None
    return VideoPart(data.url(found.format), duration_ms=found.duration_ms, size=found.size)


def _picture(data: bytes, at: str) -> str:
    """A fetched picture as a data URL. Raises Refused."""
    try:
        return datas.write(data, f"image/{pictures.judge(data).kind}")
    except BadPicture:
        raise Refused("invalid_image", at) from None
