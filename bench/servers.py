"""What a benchmark starts and stops: the origin, nginx, and Moongate with a home of its own.

Everything listens on free loopback ports. Processes are ended by the handle that started them.
"""

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

BENCH = Path(__file__).resolve().parent
RESULTS = BENCH / "results"
MOONGATE = Path(sys.executable).parent / "moongate"

CONFIG = """
[[upstreams]]
name = "origin"
kind = "openai"
base_url = "http://127.0.0.1:{origin}/v1"
data_policy = "self-hosted"
concurrency_max = 2000
"""
MODEL = """
[[models]]
id = "{id}"
window = 4096
output_tokens_default = 1024
abilities = []
targets = [{{ upstream = "origin", model = "{id}" }}]
price = {{ input = "0.48", cached = "0.10", output = "2.00" }}
"""


@dataclass
class Server:
    """Something that answers: its base URL, a key, its process, and how long it took to start."""

    url: str
    key: str
    process: subprocess.Popen[bytes]
    ready_s: float = 0.0
    home: Path | None = None


def free_port() -> int:
    """A loopback port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def fsync_us(folder: Path, tries: int = 50) -> float:
    """How long a small append with fsync takes in ``folder``: the median, in microseconds."""
    path = folder / "fsync-probe"
    took = []
    with path.open("wb", buffering=0) as file:
        for _ in range(tries):
            file.write(b"x" * 4096)
            began = time.perf_counter_ns()
            os.fsync(file.fileno())
            took.append(time.perf_counter_ns() - began)
    path.unlink()
    return sorted(took)[len(took) // 2] / 1000


def file_system(folder: Path) -> str:
    """The type of the file system that ``folder`` lies on (Linux; else "unknown")."""
    best, kind = "", "unknown"
    mounts = Path("/proc/mounts")
    for line in mounts.read_text().splitlines() if mounts.exists() else ():
        _, point, name, *_ = line.split()
        if folder.resolve().is_relative_to(point) and len(point) >= len(best):
            best, kind = point, name
    return kind


@contextmanager
def folder() -> Iterator[Path]:
    """A folder on a real disk; tmpfs makes fsync free and is refused."""
    RESULTS.mkdir(exist_ok=True)
    if file_system(RESULTS) in ("tmpfs", "ramfs"):
        sys.exit(f"{RESULTS} is in memory: its fsync costs nothing, so the figures would lie.")
    with tempfile.TemporaryDirectory(dir=RESULTS, prefix="run-") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


def end(process: subprocess.Popen[bytes]) -> None:
    """Stop one process that we started."""
    if process.stdin is not None:
        process.stdin.close()
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def origin() -> Iterator[Server]:
    """The origin, in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, BENCH / "origin.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        port = int(process.stdout.readline())
        yield Server(f"http://127.0.0.1:{port}/v1", "none", process)
    finally:
        end(process)


@contextmanager
def nginx(behind: Server, scratch: Path) -> Iterator[Server]:
    """Run nginx with the committed configuration, in front of ``behind``."""
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if program is None:
        sys.exit("nginx is not installed: apt-get install nginx-light")
    port = free_port()
    text = (BENCH / "nginx.conf").read_text()
    for word, value in (
        ("FOLDER", str(scratch)),
        ("ORIGIN", behind.url.split(":")[2].split("/")[0]),
        ("PORT", str(port)),
    ):
        text = text.replace(word, value)
    config = scratch / "nginx.conf"
    config.write_text(text)
    process = subprocess.Popen([program, "-e", scratch / "error.log", "-c", config])
    try:
        wait_for(port, process)
        yield Server(f"http://127.0.0.1:{port}/v1", "none", process)
    finally:
        end(process)


def wait_for(port: int, process: subprocess.Popen[bytes], patience_s: float = 10.0) -> None:
    """Wait until something listens on ``port``."""
    until = time.monotonic() + patience_s
    while time.monotonic() < until and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    sys.exit("a server did not start")


@contextmanager
def moongate(scratch: Path, config: str | None, patience_s: float = 300.0) -> Iterator[Server]:
    """Moongate with a home in ``scratch``. ``config`` is TOML; None is the built-in default."""
    home = scratch / "home"
    command: list[str | Path] = [MOONGATE, "serve", "--json", "--home", home]
    command += ["--port", str(free_port())]
    if config is not None:
        (scratch / "moongate.toml").write_text(config)
        command += ["--config", scratch / "moongate.toml"]
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MOONGATE", "MOONSHOT"))}
    began = time.monotonic()
    log = scratch / "moongate.log"
    with log.open("ab") as file:
        # Unbuffered: a line that waits in a buffer is one that select() does not see.
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=file, env=clean, bufsize=0
        )
    try:
        url, key = read_start(process, began + patience_s, home)
        ready_s = time.monotonic() - began
        yield Server(url, key, process, ready_s, home)
    finally:
        end(process)


@contextmanager
def gate(scratch: Path, config: str, store: str) -> Iterator[Server]:
    """A gateway of bench/gate.py on the store called ``store``."""
    (scratch / "moongate.toml").write_text(config)
    with (scratch / "moongate.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, BENCH / "gate.py", store, scratch],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            bufsize=0,
        )
    try:
        url, key = read_start(process, time.monotonic() + 60, scratch / "home")
        yield Server(url, key, process)
    finally:
        end(process)


def read_start(process: subprocess.Popen[bytes], until: float, home: Path) -> tuple[str, str]:
    """Read start-up events until it is ready; returns its URL and the key."""
    assert process.stdout is not None
    stored = home / "bench-key"
    key = stored.read_text() if stored.exists() else ""
    while time.monotonic() < until:
        if not select.select([process.stdout], [], [], 1.0)[0]:
            continue
        line = process.stdout.readline()
        if not line:
            break
        event = json.loads(line)
        if event["event"] == "key":
            key = event["key"]
            stored.write_text(key)
        elif event["event"] == "ready":
            return event["api"], key
    messages = (home.parent / "moongate.log").read_text()
    sys.exit(f"moongate did not start:\n{messages[-2000:]}")


def add_credit(server: Server, usd: int) -> None:
    """Give the default account money, and its keys places, enough for a benchmark."""
    env = {**os.environ, "MOONGATE_HOME": str(server.home)}

    def run(*words: str) -> bytes:
        return subprocess.run([MOONGATE, *words], env=env, check=True, capture_output=True).stdout

    run("credit", "add", "default", str(usd))
    for key in json.loads(run("keys", "list", "--json"))["data"]:
        run("keys", "limit", key["id"], "--concurrency", "10000")


def cpu_s(pid: int) -> float:
    """Processor time that ``pid`` has taken so far, in seconds (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mb(pid: int) -> float:
    """Resident memory of ``pid`` and its children in MB (10^6 bytes; Linux)."""
    total = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        except OSError:
            continue
        if pid in (int(fields["Pid"]), int(fields["PPid"])):
            total += int(fields.get("VmRSS", "0 kB").split()[0]) * 1024
    return round(total / 1e6, 1)
