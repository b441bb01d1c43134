"""The laws for texts: what the repository may not name, locks, decisions. See tidy_kit.py."""

import re
from collections.abc import Iterator

from tidy_kit import Source

# In pieces, so that this file does not hold what it forbids.
FOREIGN = tuple(
    "".join(pieces)
    for pieces in (
        ("/wo", "rk/"),
        ("/ro", "ot/"),
        ("/opt/", "wheels"),
        ("/opt/", "pypi"),
        ("/tmp/", "w/"),
        ("py", "pi.org"),
        ("python", "hosted.org"),
        ("registry.np", "mjs"),
        ("--find", "-links"),
        ("--extra-", "index"),
        ("--index", "-url"),
        *(
            (name, ".md")
            for name in ("promi" + "ses", "ki" + "mi", "eng" + "ine", "inter" + "face")
        ),
        ("bri", "ef.txt"),
    )
)
NUMBERED = re.compile(r"(?i)\bissues? #?\d|\bsession \d")


def foreign(source: Source) -> Iterator[str]:
    """The project speaks of itself alone: no machine's paths, no package registry's host."""
    for number, line in enumerate(source.lines, 1):
        if any(word in line for word in FOREIGN) or NUMBERED.search(line):
            yield f"line {number}: it names what lies outside the project"


def lock(source: Source) -> Iterator[str]:
    """Each requirement is exact and carries hashes; nothing tells where to fetch it."""
    for block in re.split(r"(?<!\\)\n", source.text.strip()):
        first = block.split("\\")[0].strip()
        if not re.fullmatch(r"[a-z0-9-]+==[\w.]+( ; .+)?", first):
            yield f"not an exact requirement: {first}"
        if not re.search(r"--hash=sha256:[0-9a-f]{64}\b", block):
            yield f"no hash: {first}"
    if "://" in source.text:
        yield "an address"


def decision(source: Source) -> Iterator[str]:
    """A decision fits on a page, and one sentence of it can be quoted."""
    quotes = [line for line in source.lines if line.startswith("> ")]
    if len(quotes) != 1 or not quotes[0].endswith("."):
        yield f"{len(quotes)} quotable sentences; one line '> ….' is due"
    if len(source.lines) > 80:
        yield f"{len(source.lines)} lines; 80 are a page"
