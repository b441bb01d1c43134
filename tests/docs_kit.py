"""Code blocks of the pages: found, and run as a reader would run them."""

import re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\S*)[ ]*(.*?)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")
# What the pages write where each reader has an own value.
ADDRESS, KEY = "http://127.0.0.1:8000", "mg-YOUR-KEY"


@dataclass(frozen=True)
class Block:
    """One fenced block: its page, line, language, what stands behind the language, and text."""

    page: str
    line: int
    language: str
    info: str
    text: str = field(repr=False)

    @property
    def name(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def excuse(self) -> str | None:
        """Why the block does not run, or None."""
        return self.info.removeprefix("norun: ") if self.info.startswith("norun: ") else None

    def addressed(self, url: str, key: str) -> str:
        """The text with a live server's address and key in it."""
        return self.text.replace(ADDRESS, url.removesuffix("/v1")).replace(KEY, key)


def blocks(page: str, text: str) -> list[Block]:
    """The fenced blocks of one page."""
    return [
        Block(page, text.count("\n", 0, m.start()) + 1, m[1], m[2].strip(), m[3])
        for m in FENCE.finditer(text)
    ]


def all_blocks() -> list[Block]:
    """Those of every page."""
    return [
        block
        for path in PAGES
        for block in blocks(str(path.relative_to(ROOT)), path.read_text("utf-8"))
    ]
