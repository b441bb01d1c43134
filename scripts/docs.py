"""Writes the parts of docs/ that the code already knows: map, errors, routes, commands and more.

Each page keeps what a person wrote above a mark; what follows the mark is made here.
``--check`` changes nothing and ends with 1 when a page is behind the code.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from moongate.cli import reference
from moongate.core.errors import ROWS, Refused
from moongate.web.routes import ROUTES
from moongate.wire import json_text
from moongate.wire.schema import bounds, gate
from moongate.wire.schema.keywords import KEYWORDS, REFUSED
from moongate.wire.schema.pattern import PATTERN_CHARS, PATTERN_CHARS_MAX

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
SRC = ROOT / "src" / "moongate"
MARK = "<!-- What follows is written by scripts/docs.py. -->\n"

# The order in which a request meets the parts; what is not named here comes last.
ORDER = (
    "app gateway admission counting visit delivery lookup web wire access route upstream meter "
    "ledger media search privacy payments store admin cli"
)
GROUND = "settings home log metrics core"


def summary(path: Path) -> str:
    """The first sentence of a module's docstring, on one line."""
    text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    line = " ".join(text.split("\n\n")[0].split())
    line = re.sub(r":\w+:`~?([^`]+)`|``([^`]+)``", r"`\1\2`", line)
    sentence, dot, _ = line.partition(". ")
    return (sentence + dot).strip()


def rank(path: Path) -> tuple[int, str, str]:
    """Where a module stands on the map."""
    relative = path.relative_to(SRC)
    part = relative.parts[0].removesuffix(".py")
    order = f"{ORDER} {GROUND}".split()
    place = order.index(part) if part in order else len(order) - 1
    return place, str(relative.parent), path.name.replace("__init__.py", "")


def the_map() -> Iterator[str]:
    """One line a module, a heading a folder."""
    for path in sorted(SRC.rglob("*.py"), key=rank):
        relative = path.relative_to(SRC)
        if path.name != "__init__.py":
            yield f"- `{relative}`: {summary(path)}"
        elif relative.parts[:-1]:
            yield f"\n**`{relative.parent}/`** {summary(path)}\n"
    yield "\n**Not Python**\n"
    for path in sorted(SRC.rglob("*")):
        if path.is_file() and path.suffix not in (".py", ".pyc"):
            yield f"- `{path.relative_to(SRC)}`"


def the_errors() -> Iterator[str]:
    """One row a code."""
    yield "| Code | Status | Type | Message | `x-should-retry` |"
    yield "|---|---|---|---|---|"
    for key, row in ROWS.items():
        facts = {"byte": "N", "limit": "N", "needs": "N", "what": "(what is wrong)"}
        words = ("thing", "dimension", "keyword", "ability", "formats", "wanted", "why")
        names = {name: f"({name})" for name in words}
        error = Refused(key, **facts, **names)
        retry = error.headers().get("x-should-retry", "")
        yield f"| `{error.code}` | {row.status} | `{row.type}` | {error.message} | {retry} |"


def the_routes() -> Iterator[str]:
    """One row a route, with its policies."""
    yield "| Route | What | Who | Money | Kept |"
    yield "|---|---|---|---|---|"
    for route in ROUTES:
        what = f"`{route.method} {route.path}` | {route.summary}"
        yield f"| {what} | {route.auth} | {route.money} | {route.keeps} |"


def the_capabilities() -> Iterator[str]:
    """The matrix that the tests fill."""
    # Its rows are tests, which only a working tree has.
    import capability_matrix  # noqa: PLC0415 - see above

    yield from capability_matrix.table()


def the_keywords() -> Iterator[str]:
    """What an answer is held to, and what is refused."""
    beside = {"if": ", `then`, `else`", "contains": ", `minContains`, `maxContains`"}
    kept = [f"`{name}`{beside.get(name, '')}" for name in sorted(KEYWORDS)]
    yield "| Keyword | Where a schema is strict |"
    yield "|---|---|"
    yield f"| {', '.join(kept)} | an answer is held to it |"
    yield f"| {', '.join(f'`{name}`' for name in sorted(REFUSED))} | 400 `unsupported_schema` |"
    yield "| every other word, `format` among them | a remark, as the draft says |"
    yield ""
    yield "| Bound | At most |"
    yield "|---|---|"
    yield f"| bytes of one schema | {bounds.BYTES_MAX:,} |"
    yield f"| schemas within one, references written out | {bounds.NODES_MAX:,} |"
    yield f"| schemas in all tools and the format of one request | {gate.NODES_MAX:,} |"
    yield f"| depth of schemas within schemas | {bounds.DEPTH_MAX} |"
    yield f"| values of all `enum`s in one schema | {bounds.ENUM_VALUES_MAX:,} |"
    most, each = PATTERN_CHARS_MAX, PATTERN_CHARS
    yield f"| characters of all patterns that are strict, and {each} for each | {most:,} |"
    yield f"| depth of an answer's JSON | {json_text.DEPTH_MAX} |"


PAGES = {
    "map.md": the_map,
    "errors.md": the_errors,
    "api.md": the_routes,
    "capabilities.md": the_capabilities,
    "cli.md": reference.commands,
    "configuration.md": reference.settings,
    "structured.md": the_keywords,
}


def main() -> int:
    """Write the pages, or check them."""
    behind = []
    for name, make in PAGES.items():
        path = ROOT / "docs" / name
        text = path.read_text("utf-8")
        ours = text.partition(MARK)[0]
        fresh = ours + MARK + "\n" + "\n".join(make()).strip() + "\n"
        if fresh != text:
            behind.append(name)
            if "--check" not in sys.argv:
                path.write_text(fresh, "utf-8")
    for name in behind:
        print(f"docs/{name} {'is behind' if '--check' in sys.argv else 'written'}")
    return 1 if behind and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
