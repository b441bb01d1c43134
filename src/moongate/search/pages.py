"""Pages of results: fetched as strangers' addresses must be, and reduced to their readable text.

Fetching follows the rules of ``media``: no way leads inside. What is not meant to be read (scripts,
menus, elements that are hidden where they stand) is left out; a page that cannot be read keeps what
the engine said of it. Parsing takes its time beside the event loop, and both time and size are
bounded.
"""

import asyncio
import re
from collections.abc import Iterator, Sequence
from typing import Final, Protocol

import msgspec
from selectolax.lexbor import LexborHTMLParser, LexborNode

from moongate.core.errors import FetchError
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
_UNREAD: Final = (
    "script, style, noscript, template, svg, math, canvas, iframe, object, nav, header, footer, "
    "aside, form, button, select, dialog, [hidden], [aria-hidden=true], "
    "[style*='display:none'], [style*='display: none'], [style*='visibility:hidden'], "
    "[style*='visibility: hidden'], [style*='font-size:0'], [style*='opacity:0']"
)
_BODIES: Final = "article, main, [role=main]"
_BLOCKS: Final = "h1, h2, h3, h4, p, li, pre, blockquote, dd, td, figcaption"
_ARTICLE_CHARS_MIN: Final = 200
_LINKS_SHARE: Final = 0.6
"""A block of which so much is links is a menu."""


class Fetches(Protocol):
    """What fetches: see ``media.fetch.Fetcher``."""

    async def fetch(self, url: str, *, bytes_max: int, total_s: float, accept: str) -> Fetched: ...


class Pages:
    """Reads the first results' pages."""

    def __init__(self, fetcher: Fetches) -> None:
        self._fetcher = fetcher

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
            return await asyncio.to_thread(_read, got.data, kind, got.charset)
        except FetchError:
            return ""


def _read(data: bytes, kind: str, charset: str | None) -> str:
    text = _decoded(data, charset)
    if kind in _HTML:
        text = readable(text)
    return plain(text, TEXT_CHARS_MAX)


def _decoded(data: bytes, charset: str | None) -> str:
    """The text in the charset that the server or the page names, else as UTF-8."""
    named = _CHARSET.search(data[:_HEAD_BYTES].decode("latin-1"))
    wanted = charset or (named[1] if named else "utf-8")
    try:
        return data.decode(wanted if _WEB_CHARSET.fullmatch(wanted) else "utf-8", "replace")
    except (LookupError, ValueError):
        return data.decode("utf-8", "replace")


def readable(page: str) -> str:
    """The text of an HTML page that a reader came for, a block a line."""
    tree = LexborHTMLParser(page)
    for node in tree.css(_UNREAD):
        if node.tag not in ("html", "body"):
            node.decompose()
    bodies = sorted(tree.css(_BODIES), key=lambda node: len(node.text()), reverse=True)
    body = bodies[0] if bodies and len(bodies[0].text()) >= _ARTICLE_CHARS_MIN else tree.body
    if body is None:
        return ""
    lines = "\n".join(_blocks(body))
    return lines or body.text(separator="\n", strip=True)


def _blocks(body: LexborNode) -> Iterator[str]:
    """The text of each block that is not a menu, once."""
    said: set[str] = set()
    for block in body.css(_BLOCKS):
        if block.css_first("p, li, pre, blockquote") not in (None, block):
            continue  # what stands in it comes by itself
        text = " ".join(block.text().split())
        links = sum(len(" ".join(link.text().split())) for link in block.css("a"))
        if text and text not in said and links <= _LINKS_SHARE * len(text):
            said.add(text)
            yield text
