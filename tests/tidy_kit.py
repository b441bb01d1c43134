"""The style laws as pure functions: a file's path and text in, complaints out.

Used by test_tidy.py, which also feeds each law something that breaks it.
"""

import ast
import io
import os
import re
import sys
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODULE_LINES_MAX = 300
TEST_LINES_MAX = 500  # a list of cases is read by looking one up
FUNCTION_LINES_MAX = 70

# Lowest first. A part imports from lower rows only: the parts of one row are blind to each other.
LAYERS = (
    ("core",),
    ("wire", "store", "settings", "home", "log", "metrics"),
    ("access", "route", "upstream", "meter", "ledger", "payments", "media"),
    ("search", "privacy"),
    ("admin", "gateway", "console"),
    ("web",),
    ("app",),
    ("cli",),
)
RANK = {part: rank for rank, row in enumerate(LAYERS) for part in row}
# Modules that are one part under several names.
ALIASES = {
    "visit": "gateway",
    "admission": "gateway",
    "counting": "gateway",
    "delivery": "gateway",
    "passage": "gateway",
    "cover": "gateway",
    "guarantee": "gateway",
    "choosing": "gateway",
    "guarded": "gateway",
    "lookup": "gateway",
    "__main__": "cli",
}
# Parts that only some may import, whatever their row.
READERS = {"settings": {"app", "cli"}, "store": {"app", "cli"}, "client": {"cli"}}
CLIENT_MAY = {"wire", "core"}
CORE_MAY = {"msgspec"}

ASYNC_FREE = ("wire/", "route/", "meter/", "core/")
ASYNC_EXCEPT = (
    "core/ports.py",
    "core/store.py",
    "core/rates.py",
)  # protocols: signatures without a body
MONEY = ("core/money.py", "core/rows.py", "ledger/", "payments/", "store/")
BANNED_NAMES = ("utils", "util", "helpers", "helper", "common", "manager", "base", "v2")
BANNED_CLASS = re.compile(r"Utils?$|Helpers?$|Common|Manager|^Base[A-Z]|Base$|V2$")
# A keyword of somebody else's call is their word, not ours.
BANNED_WORDS = re.compile(r"(?i)(?<![a-z])(provider|backend|vendor)s?(?![a-z=])|TODO|FIXME|XXX")
REASONED = re.compile(
    r"noqa: [A-Z]+\d+(, ?[A-Z]+\d+)* - \w.+"
    r"|type: ignore\[[a-z, -]+\]\s*(#|-) \w.+"
)
IGNORES = re.compile(r"#\s*(noqa|type:\s*ignore|pragma:)")

SKIPPED = re.compile(
    r"\.(git|venv|cache|mypy_cache|ruff_cache|pytest_cache|hypothesis)|node_modules|__pycache__"
    r"|dist|build|results"
)


@dataclass(frozen=True)
class Source:
    """A file by its path in the repository, and its text."""

    path: str
    text: str = field(repr=False)

    @cached_property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @cached_property
    def comments(self) -> list[tuple[int, str]]:
        """(line, comment) of each comment; strings that look like one are not."""
        tokens = tokenize.generate_tokens(io.StringIO(self.text).readline)
        return [(t.start[0], t.string) for t in tokens if t.type == tokenize.COMMENT]

    @property
    def inside(self) -> str:
        """The path below src/moongate/, or "" elsewhere."""
        return self.path.partition("src/moongate/")[2]

    @property
    def part(self) -> str:
        """The part of Moongate that the file belongs to."""
        name = self.inside.split("/")[0].removesuffix(".py")
        return ALIASES.get(name, name)

    def commented(self, line: int) -> bool:
        """Whether ``line`` or the one around it (before, after) carries a comment."""
        return any(number in (line - 1, line, line + 1) for number, _ in self.comments)


Law = Callable[[Source], Iterator[str]]


def tree_files() -> Iterator[Path]:
    """Every file of the repository that is ours, without asking git."""
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if not SKIPPED.fullmatch(name)]
        yield from (Path(folder) / name for name in files)


def sources(*tops: str) -> list[Source]:
    """Our Python files below ``tops``."""
    found = [path for top in tops for path in sorted((ROOT / top).rglob("*.py"))]
    return [Source(str(path.relative_to(ROOT)), path.read_text("utf-8")) for path in found]


def imports(source: Source) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import; ``from x import y`` gives ``x.y``."""
    package = ["moongate", *source.inside.split("/")[:-1]]
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            stem = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*stem, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def calls(node: ast.AST, name: str) -> bool:
    """Whether ``node`` is a call of the plain function ``name``."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name


def sizes(source: Source) -> Iterator[str]:
    """Modules and functions are short enough to be read in one go."""
    allowed = TEST_LINES_MAX if source.path.startswith("tests/") else MODULE_LINES_MAX
    if len(source.lines) > allowed:
        yield f"{len(source.lines)} lines; {allowed} are allowed"
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES_MAX:
                yield f"{node.name} has {length} lines; {FUNCTION_LINES_MAX} are allowed"


def import_order(source: Source) -> Iterator[str]:
    """Imports go one way: down the layers."""
    part = source.part
    if part != "client" and part not in RANK and part != "__init__":
        yield f"the part {part} stands in no layer"
        return
    for line, name in imports(source):
        if not name.startswith("moongate."):
            continue
        names = name.split(".")
        target = ALIASES.get(names[1], names[1])
        if target in (part, "__version__"):
            continue
        if part == "__init__":
            wrong = True
        elif part == "client":
            wrong = target not in CLIENT_MAY
        elif target in READERS:
            wrong = part not in READERS[target]
        else:
            wrong = target not in RANK or RANK[target] >= RANK[part]
        if wrong:
            yield f"line {line}: {part or 'moongate'} may not import {target}"


def core_imports(source: Source) -> Iterator[str]:
    """``core`` knows the standard library and msgspec only."""
    for line, name in imports(source):
        top = name.split(".")[0]
        if top != "moongate" and top not in sys.stdlib_module_names and top not in CORE_MAY:
            yield f"line {line}: core imports {top}"


def nested_imports(source: Source) -> Iterator[str]:
    """An import inside a function says why."""
    for function in ast.walk(source.tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.Import | ast.ImportFrom) and not source.commented(
                    node.lineno
                ):
                    yield f"line {node.lineno}: an import inside {function.name} without a reason"


def names(source: Source) -> Iterator[str]:
    """Files and classes are named for what they are."""
    for piece in re.split(r"[/_.]", source.path):
        if piece in BANNED_NAMES:
            yield f"{piece} is no name for a file"
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ClassDef) and BANNED_CLASS.search(node.name):
            yield f"line {node.lineno}: {node.name} is no name for a class"


def words(source: Source) -> Iterator[str]:
    """An upstream is called upstream; plans stand elsewhere."""
    for number, line in enumerate(source.lines, 1):
        if found := BANNED_WORDS.search(line):
            yield f"line {number}: the word {found[0]}"


def no_async(source: Source) -> Iterator[str]:
    """Pure parts await nothing."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.AsyncFunctionDef):
            yield f"line {node.lineno}: async def {node.name}"


def no_floats(source: Source) -> Iterator[str]:
    """No float comes near money. Durations (``WAIT_S = 0.5``) are no money; in stores, where
    paths are joined, ``/`` is no division."""
    divides = source.part != "store"
    durations = {
        id(part)
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Assign | ast.AnnAssign) and is_duration(node)
        for part in ast.walk(node)
    }
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, float):
            if id(node) not in durations:
                yield f"line {node.lineno}: a float literal"
        elif calls(node, "float"):
            yield f"line {node.lineno}: float()"
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and divides:
            yield f"line {node.lineno}: true division"


def is_duration(node: ast.Assign | ast.AnnAssign) -> bool:
    """Whether every name that ``node`` assigns is one of seconds."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return all(isinstance(t, ast.Name) and t.id.lower().endswith("_s") for t in targets)


def reasons(source: Source) -> Iterator[str]:
    """Whoever silences a check says why, in the same comment."""
    for line, comment in source.comments:
        if IGNORES.search(comment) and not REASONED.search(comment):
            yield f"line {line}: silenced without a reason"


def broad_excepts(source: Source) -> Iterator[str]:
    """A broad except clause says why, or passes on what it caught."""
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.ExceptHandler):
            continue
        kinds = ast.walk(node.type) if node.type else [ast.Name("BaseException")]
        broad = {n.id for n in kinds if isinstance(n, ast.Name)} & {"Exception", "BaseException"}
        again = any(isinstance(n, ast.Raise) and n.exc is None for n in ast.walk(node))
        if broad and not again and not source.commented(node.lineno):
            yield f"line {node.lineno}: a broad except without a reason"


def prints(source: Source) -> Iterator[str]:
    """Only commands print."""
    for node in ast.walk(source.tree):
        if calls(node, "print"):
            yield f"line {node.lineno}: print"


def closed_log(source: Source) -> Iterator[str]:
    """There is one door to the log, and it takes fields from a closed list."""
    for line, name in imports(source):
        if name.split(".")[0] == "logging":
            yield f"line {line}: only log.py imports logging"
