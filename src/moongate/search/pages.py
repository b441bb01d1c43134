"""Pages of results: fetched as strangers' addresses must be, and reduced to their readable text.

Fetching follows the rules of ``media``: no way leads inside. A page of HTML is read by a process of
its own, a few at once, ended in time and bound as one that reads documents: see ``article`` for
what is left out. A page that cannot be read keeps what the engine said of it.
"""

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

import msgspec

from moongate.core.errors import FetchError
from moongate.media import beside
from moongate.media.fetch import Fetched
from moongate.search.results import TEXT_CHARS_MAX, Result, plain

PAGES_MAX: Final = 3
BYTES_MAX: Final = 2 << 20
TOTAL_S: Final = 6.0
_ACCEPT: Final = "text/html, application/xhtml+xml, text/plain;q=0.8"
_HTML: Final = frozenset({"text/html", "application/xhtml+xml"})
_CHARSET: Final = re.compile(r"charset=[\"']?([A-Za-z0-9_.:-]{1,40})", re.IGNORECASE)
_WEB_CHARSET: Final = re.compile(
    r"(?i)utf-?(8|16|16le|16be)|us-ascii|latin-?1|iso-?8859-\d{1,2}|windows-\d{3,4}|koi8-[ru]"
    r"|gbk|gb2312|gb18030|big5(-hkscs)?|euc-(jp|kr)|shift[-_]jis|iso-2022-jp"
)
"""Python knows more codecs than pages are written in, and some are slow on purpose."""
_HEAD_BYTES: Final = 2_048
_ARTICLE: Final = str(Path(__file__).with_name("article.py"))
"""What the other process runs; here its parser would only take memory."""
_AT_ONCE: Final = 4
"""Pages of HTML that are read at the same moment."""
READ_S: Final = 4.0
"""For one of them, waiting included."""


class Fetches(Protocol):
    """What fetches: see ``media.fetch.Fetcher``."""

    async def fetch(self, url: str, *, bytes_max: int, total_s: float, accept: str) -> Fetched: ...


class Pages:
    """Reads the first results' pages."""

    def __init__(self, fetcher: Fetches) -> None:
        self._fetcher = fetcher
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def __call__(self, found: Sequence[Result]) -> list[Result]:
        """The same results, with a page's text where it says more than the engine did."""
        texts = await asyncio.gather(*(self._text(one.url) for one in found[:PAGES_MAX]))
        read = [
            msgspec.structs.replace(one, text=text) if len(text) > len(one.text) else one
            for one, text in zip(found, texts, strict=False)
        ]
        return [*read, *found[PAGES_MAX:]]

    async def _text(self, url: str) -> str:
        try:
            got = await self._fetcher.fetch(
                url, bytes_max=BYTES_MAX, total_s=TOTAL_S, accept=_ACCEPT
            )
            kind = got.content_type.partition(";")[0].strip().lower()
            if kind not in _HTML and kind != "text/plain":
                return ""
            text = await asyncio.to_thread(_decoded, got.data, got.charset)
            if kind in _HTML:
                text = await self._readable(text)
        except (FetchError, TimeoutError, OSError):  # the last: no process can be started
            return ""
        return plain(text, TEXT_CHARS_MAX)

    async def _readable(self, page: str) -> str:
        """What a reader of ``page`` came for. Raises TimeoutError."""
        async with asyncio.timeout(READ_S), self._turns:
            code, text = await beside.read(_ARTICLE, page.encode("utf-8", "replace"), READ_S)
        return "" if code else text.decode()


def _decoded(data: bytes, charset: str | None) -> str:
    """The text in the charset that the server or the page names, else as UTF-8."""
    named = _CHARSET.search(data[:_HEAD_BYTES].decode("latin-1"))
    wanted = charset or (named[1] if named else "utf-8")
    try:
        return data.decode(wanted if _WEB_CHARSET.fullmatch(wanted) else "utf-8", "replace")
    except (LookupError, ValueError):
        return data.decode("utf-8", "replace")
