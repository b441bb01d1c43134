"""A program of its own that reads one document: bytes on standard input, text on standard output.

It knows nothing of the rest, is started by path with an empty environment, and binds itself before
it reads: behind everybody else, seconds of processor, memory, no file written, no process started
(root alone could start one). A document that is made to hurt hurts this process alone. The first
argument is the kind, or the path of a file whose ``read`` reads that kind. Ends with 0 and the
text, or with 3 and a word on standard output.

Source: ECMA-376 (the parts of docx, pptx and xlsx files, and where their text stands).
"""

import io
import os
import re
import resource
import runpy
import sys
import zipfile
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Final
from xml.etree import ElementTree as ET

CPU_S: Final = 20
MEMORY_BYTES: Final = 768 << 20
TEXT_BYTES_MAX: Final = 16 << 20
UNPACKED_BYTES_MAX: Final = 128 << 20
PAGES_MAX: Final = 5_000
_NICE: Final = 10
_UNREAD: Final = frozenset({"script", "style", "template", "noscript", "svg", "head"})
_BREAKS: Final = re.compile(r"p|div|br|li|tr|h[1-6]|table|section|article|ul|ol|pre|blockquote")
_GAPS: Final = re.compile(r"[ \t\r\f\v]*\n\s*")


class Unread(Exception):
    """There is no text to be had; the argument is the word that says why."""


def bind() -> None:
    """Take this process's means away, for good."""
    os.nice(_NICE)
    for what, most in (
        (resource.RLIMIT_CPU, CPU_S),
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_NOFILE, 64),
    ):
        resource.setrlimit(what, (most, most))


class _Page(HTMLParser):
    """The visible text of an HTML page, a line for each block."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []
        self._hidden = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del attrs
        if tag in _UNREAD and not self._hidden:
            self._hidden = tag
        if _BREAKS.fullmatch(tag):
            self.pieces.append("\n")
        elif tag in ("td", "th"):
            self.pieces.append("\t")

    def handle_endtag(self, tag: str) -> None:
        if tag == self._hidden:
            self._hidden = ""
        if _BREAKS.fullmatch(tag):
            self.pieces.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.pieces.append(re.sub(r"\s+", " ", data))


def html(data: bytes) -> Iterator[str]:
    """An HTML page, in UTF-8."""
    page = _Page()
    page.feed(data.decode("utf-8"))
    page.close()
    yield _GAPS.sub("\n", "".join(page.pieces)).strip()


def pdf(data: bytes) -> Iterator[str]:
    """A PDF's pages, as far as they hold text."""
    import pypdf  # noqa: PLC0415 - only this kind needs it
    from pypdf.errors import PyPdfError  # noqa: PLC0415 - only this kind needs it

    try:
        document = pypdf.PdfReader(io.BytesIO(data))
        if document.is_encrypted and not document.decrypt(""):
            raise Unread("encrypted")
        if len(document.pages) > PAGES_MAX:
            raise Unread("too_large")
        for page in document.pages:
            yield page.extract_text() + "\n\n"
    except PyPdfError:
        raise Unread("broken") from None


def office(data: bytes) -> Iterator[str]:
    """A docx, pptx or xlsx file, by what is in it."""
    with zipfile.ZipFile(io.BytesIO(data)) as packed:
        names = packed.namelist()
        if sum(part.file_size for part in packed.infolist()) > UNPACKED_BYTES_MAX:
            raise Unread("too_large")
        slides = _numbered(names, r"ppt/slides/slide(\d+)\.xml")
        sheets = _numbered(names, r"xl/worksheets/sheet(\d+)\.xml")
        if "word/document.xml" in names:
            yield from _paragraphs(packed, "word/document.xml")
        elif slides:
            for name in slides:
                yield from _paragraphs(packed, name)
                yield "\n"
        elif sheets:
            shared = "xl/sharedStrings.xml"
            strings = list(_strings(packed, shared)) if shared in names else []
            for name in sheets:
                yield from _rows(packed, name, strings)
                yield "\n"
        else:
            raise Unread("unknown")


def _numbered(names: list[str], pattern: str) -> list[str]:
    found = [(int(match[1]), name) for name in names if (match := re.fullmatch(pattern, name))]
    return [name for _, name in sorted(found)]


def _ends(packed: zipfile.ZipFile, name: str) -> Iterator[tuple[str, ET.Element]]:
    """Every element of a part as it ends, by its name without namespace."""
    with packed.open(name) as part:
        for _, element in ET.iterparse(part):  # noqa: S314 - see the import
            yield element.tag.rpartition("}")[2], element


def _paragraphs(packed: zipfile.ZipFile, name: str) -> Iterator[str]:
    """Lines of a text or a slide: a paragraph each; the cells of a table are paragraphs too."""
    said: list[str] = []
    for tag, element in _ends(packed, name):
        if tag == "t":
            said.append(element.text or "")
        elif tag in ("tab", "br"):
            said.append("\t" if tag == "tab" else "\n")
        elif tag == "p":
            yield "".join(said) + "\n"
            said.clear()
            element.clear()


def _strings(packed: zipfile.ZipFile, name: str) -> Iterator[str]:
    """The texts that cells name by number."""
    said: list[str] = []
    for tag, element in _ends(packed, name):
        if tag == "rPh":  # how a text is pronounced is not its text
            count = sum(one.tag.endswith("}t") for one in element)
            del said[len(said) - count :]
        elif tag == "t":
            said.append(element.text or "")
        elif tag == "si":
            yield "".join(said)
            said.clear()
            element.clear()


def _rows(packed: zipfile.ZipFile, name: str, strings: list[str]) -> Iterator[str]:
    """Lines of a sheet: a row each, its cells apart by tabs."""
    cells: list[str] = []
    said = ""
    for tag, element in _ends(packed, name):
        if tag in ("v", "t"):
            said += element.text or ""
        elif tag == "c":
            cells.append(strings[int(said)] if element.get("t") == "s" and said else said)
            said = ""
        elif tag == "row":
            yield "\t".join(cells).rstrip() + "\n"
            cells.clear()
            element.clear()


READERS: Final = {"html": html, "pdf": pdf, "office": office}


def whole(kind: str, data: bytes) -> bytes:
    """The text of ``data``, in UTF-8. Raises Unread, and anything for a broken one."""
    kept = io.BytesIO()
    read = READERS[kind] if kind in READERS else runpy.run_path(kind)["read"]
    for piece in read(data):
        kept.write(piece.encode("utf-8", "replace"))
        if kept.tell() > TEXT_BYTES_MAX:
            raise Unread("too_large")
    text = kept.getvalue()
    if not text.strip():
        raise Unread("no_text")
    return text


def main(kind: str) -> int:
    """Read standard input as ``kind``."""
    try:
        text, code = whole(kind, sys.stdin.buffer.read()), 0
    except Unread as error:
        text, code = str(error).encode(), 3
    except MemoryError:
        text, code = b"too_large", 3
    except Exception:  # noqa: BLE001 - whatever a broken document does to its reader
        text, code = b"broken", 3
    sys.stdout.buffer.write(text)
    sys.stdout.buffer.flush()
    return code


if __name__ == "__main__":
    bind()
    sys.exit(main(sys.argv[1]))
