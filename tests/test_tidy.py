"""Style laws. Each law is checked over the tree, and shown that it can fail."""

import os
import re
import subprocess
import sys
import tomllib

import pytest

import tidy_kit as kit
import tidy_text_kit as text
from tidy_kit import ROOT, Source

SRC = kit.sources("src")
PYTHON = kit.sources("src", "tests", "bench", "scripts")
TEXT = [
    Source(str(path.relative_to(ROOT)), path.read_text("utf-8"))
    for path in kit.tree_files()
    if path.suffix in (".py", ".md", ".toml", ".txt", ".in", ".sql", ".sh", ".json", ".conf", "")
]
READABLE = [s for s in TEXT if not s.path.startswith(("requirements/", "tests/node/package-lock"))]
LOCKS = [s for s in TEXT if s.path.startswith("requirements/") and s.path.endswith(".txt")]
DECISIONS = [s for s in TEXT if s.path.startswith("docs/decisions/")]


def within(*prefixes: str) -> list[Source]:
    return [s for s in SRC if s.inside.startswith(prefixes)]


def in_src(path: str, text: str) -> Source:
    return Source(f"src/moongate/{path}", text)


LONG = "def long():\n" + "    x = 1\n" * 70
SHORT = "def short():\n" + "    x = 1\n" * 69
NOT_CLI = [s for s in SRC if s.part != "cli"]
LAWS = {
    kit.sizes: PYTHON,
    kit.core_imports: within("core/"),
    kit.nested_imports: SRC,
    kit.names: PYTHON,
    kit.words: SRC,
    kit.no_async: [s for s in within(*kit.ASYNC_FREE) if s.inside not in kit.ASYNC_EXCEPT],
    kit.no_floats: within(*kit.MONEY),
    kit.reasons: PYTHON,
    kit.broad_excepts: SRC,
    kit.prints: [s for s in SRC if s.part != "cli"],
    kit.closed_log: [s for s in SRC if s.inside != "log.py"],
    text.foreign: READABLE,
    text.lock: LOCKS,
    text.decision: DECISIONS,
}
QA, TYPE = "no" + "qa", "type" + ": ignore"
HASH = "--hash=sha256:" + "0" * 64
# A law, a file that breaks it, and one that does not.
CASES = [
    (kit.sizes, in_src("a.py", LONG), in_src("a.py", SHORT)),
    (kit.sizes, in_src("a.py", "x = 1\n" * 301), in_src("a.py", "x = 1\n" * 300)),
    (
        kit.core_imports,
        in_src("core/x.py", "import rich"),
        in_src("core/x.py", "import json, msgspec"),
    ),
    (
        kit.nested_imports,
        in_src("cli/x.py", "def f():\n\n    import json\n"),
        in_src("cli/x.py", "def f():\n    import rich  # half of a command's start-up time\n"),
    ),
    (kit.names, in_src("http_utils.py", ""), in_src("http.py", "")),
    (kit.names, in_src("a.py", "class KeyManager: ..."), in_src("a.py", "class Keys: ...")),
    (kit.words, in_src("a.py", "ask_provider = 1"), in_src("a.py", "ask_upstream = 1")),
    (
        kit.no_async,
        in_src("wire/x.py", "async def f(): ..."),
        in_src("wire/x.py", "def f(): ..."),
    ),
    (kit.no_floats, in_src("ledger/x.py", "x = 0.1"), in_src("ledger/x.py", "x = 1 // 3")),
    (kit.no_floats, in_src("ledger/x.py", "float(y)"), in_src("store/x.py", "p = home / 'db'")),
    (kit.no_floats, in_src("ledger/x.py", "x = a / b"), in_src("ledger/x.py", "x = a * b")),
    (kit.no_floats, in_src("ledger/x.py", "FEE = 0.5"), in_src("ledger/x.py", "WAIT_S = 0.5")),
    (
        kit.reasons,
        in_src("a.py", f"import x  # {QA}: F401\n"),
        in_src("a.py", f"import x  # {QA}: F401 - it registers itself\n"),
    ),
    (
        kit.reasons,
        in_src("a.py", f"x = y  # {TYPE}[misc]\n"),
        in_src("a.py", f"x = y  # {TYPE}[misc]  # the stub is wrong\n"),
    ),
    (
        kit.broad_excepts,
        in_src("a.py", "try:\n    f()\n\nexcept BaseException:\n    g()\n"),
        in_src("a.py", "try:\n    f()\n\nexcept BaseException:\n    g()\n    raise\n"),
    ),
    (
        kit.broad_excepts,
        in_src("a.py", "try:\n    f()\n\nexcept (Exception, OSError):\n    g()\n"),
        in_src("a.py", "try:\n    f()\nexcept Exception:  # whatever it was, void\n    g()\n"),
    ),
    (kit.prints, in_src("a.py", "print(1)"), in_src("a.py", "'print(1)'")),
    (
        kit.closed_log,
        in_src("a.py", "from logging import getLogger"),
        in_src("a.py", "from moongate.log import Log"),
    ),
    (text.foreign, Source("a.md", "see /wo" + "rk/main"), Source("a.md", "see docs/map.md")),
    (text.foreign, Source("a.md", "as iss" + "ue 7 says"), Source("a.md", "an issue of taste")),
    (
        text.lock,
        Source("r.txt", f"a==1\nb==2 \\\n    {HASH}"),
        Source("r.txt", f"b==2 \\\n    {HASH}"),
    ),
    (
        text.lock,
        Source("r.txt", f"b>=2 \\\n    {HASH}"),
        Source("r.txt", f"b==2 ; python_version > '3' \\\n    {HASH} \\\n    {HASH}"),
    ),
    (
        text.lock,
        Source("r.txt", f"b @ http://host/b.whl \\\n    {HASH}"),
        Source("r.txt", f"a==1 \\\n    {HASH}\nb==2 \\\n    {HASH}"),
    ),
    (text.decision, Source("a.md", "# A\n\nWe do.\n"), Source("a.md", "# A\n\n> We do.\n")),
]


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_the_tree_keeps_the_law(law):
    assert LAWS[law], "the law rules no file"
    assert [f"{s.path}: {complaint}" for s in LAWS[law] for complaint in law(s)] == []


@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda n: f"{CASES[n][0].__name__}-{n}")
def test_the_law_can_be_broken_and_kept(number):
    law, bad, good = CASES[number]
    assert list(law(bad)), "the law let it pass"
    assert list(law(good)) == []


def test_every_law_was_shown_to_fail():
    assert {law for law, _, _ in CASES} == set(LAWS)


PARTS = [part for row in kit.LAYERS for part in row]


@pytest.mark.parametrize("part", [*PARTS, "client", "__init__"])
def test_a_part_imports_only_what_lies_below_it(part):
    ruled = [s for s in SRC if s.part == part]
    assert [f"{s.path}: {c}" for s in ruled for c in kit.import_order(s)] == []


def test_every_module_stands_in_a_layer():
    assert {s.part for s in SRC} <= {*PARTS, "client", "__init__"}


def may(importer: str, line: str) -> bool:
    return list(kit.import_order(in_src(importer, line))) == []


def test_the_import_order_is_the_one_we_drew():
    for importer, line in [
        ("wire/chat/read.py", "from moongate.wire import sse"),
        ("upstream/http.py", "from moongate.wire import sse"),
        ("gateway.py", "from moongate.delivery import deliver"),
        ("app.py", "from moongate import settings, __version__"),
        ("client/sync.py", "from moongate.wire.sse import reader"),
        ("cli/serve.py", "from moongate.app import run"),
    ]:
        assert may(importer, line), (importer, line)
    for importer, line in [
        ("core/x.py", "from moongate.wire import sse"),
        ("wire/x.py", "from moongate import store"),
        ("access/keys.py", "from moongate.ledger.book import Book"),
        ("access/keys.py", "from moongate.store.sqlite import Sqlite"),
        ("ledger/book.py", "import moongate.settings"),
        ("gateway.py", "from moongate.web import routes"),
        ("gateway.py", "from ..moongate.settings import load"),
        ("console/pages.py", "from moongate import gateway"),
        ("web/routes.py", "from moongate.settings import Settings"),
        ("client/sync.py", "from moongate import upstream"),
        ("app.py", "from moongate import client"),
        ("__init__.py", "from moongate import core"),
        ("stray.py", "import json"),
        ("upstream/x.py", "def f():\n    from moongate.gateway import handle"),
    ]:
        assert not may(importer, line), (importer, line)


def pinned(name: str) -> dict[str, set[str]]:
    """Project -> versions of a lock file."""
    found: dict[str, set[str]] = {}
    lines = (ROOT / "requirements" / f"{name}.txt").read_text()
    for project, version in re.findall(r"^([a-z0-9-]+)==([\w.]+)", lines, re.MULTILINE):
        found.setdefault(project, set()).add(version)
    return found


def test_locks_agree_and_cover_what_the_project_declares():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    run, test, build = pinned("run"), pinned("test"), pinned("build")
    assert run.items() <= test.items()
    assert {name: test[name] for name in build.keys() & test.keys()}.items() <= build.items()
    for lock, declared in [
        (run, project["dependencies"]),
        (test, project["optional-dependencies"]["test"]),
        (build, ["hatchling", "editables"]),
    ]:
        assert {re.split(r"[<>=!~ \[]", line)[0] for line in declared} <= lock.keys()


IMPORT = """
import os, sys
sys.path.insert(0, sys.argv[1])
class Trap(dict):
    def _no(self, *_): raise AssertionError("the environment was read")
    __getitem__ = get = __contains__ = keys = items = copy = _no
before = set(sys.modules)
def look(event, args):
    if event == "open" and (not str(args[0]).startswith(sys.argv[1]) or "w" in str(args[1])):
        raise AssertionError(f"opened {args[0]}")
    if event.startswith(("socket.", "subprocess.", "os.mkdir", "os.putenv", "os.system")):
        raise AssertionError(event)
sys.addaudithook(look)
sys.dont_write_bytecode = True
os.environ = Trap()
import moongate
new = {name.split(".")[0] for name in set(sys.modules) - before}
assert new <= {"moongate"} | sys.stdlib_module_names, new
assert not [n for n in sys.modules if n.startswith("moongate.")], "it imported its parts"
"""


def test_importing_the_package_starts_nothing_and_reads_nothing():
    command = [sys.executable, "-I", "-S", "-c", IMPORT, str(ROOT / "src")]
    done = subprocess.run(command, env={"PATH": os.defpath}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_scripts_are_posix_and_executable():
    for name in ("serve", "test"):
        path = ROOT / "scripts" / name
        assert path.read_text().startswith("#!/bin/sh\n")
        assert os.access(path, os.X_OK)
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
