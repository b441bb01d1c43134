"""A throw-away Redis or Valkey on a free loopback port, that keeps nothing on disk."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator


def server_program() -> str | None:
    return shutil.which("redis-server") or shutil.which("valkey-server")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RedisServer:
    """One server, which a test may kill, freeze, and start again on the same port."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        program = server_program()
        assert program is not None, "neither redis-server nor valkey-server is installed"
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        options += ["--appendonly", "no", "--enable-debug-command", "local"]
        self.child = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL, cwd="/")
        deadline = time.monotonic() + 10
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            assert self.child.poll() is None, "the server did not start"
            assert time.monotonic() < deadline, "the server does not listen"
            time.sleep(0.02)

    def kill(self) -> None:
        assert self.child is not None
        self.child.kill()
        self.child.wait()

    def freeze(self) -> None:
        """A black hole: connections are taken and nothing answers."""
        assert self.child is not None
        os.kill(self.child.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.child is not None
        os.kill(self.child.pid, signal.SIGCONT)


@contextlib.contextmanager
def redis_server() -> Iterator[RedisServer]:
    server = RedisServer()
    server.start()
    try:
        yield server
    finally:
        server.kill()
