"""The admin socket that several workers share: one that stops to listen leaves it to the others."""

from types import SimpleNamespace
from typing import Any

import pytest
import uvloop
from aiohttp import web

from live_kit import short_folder
from moongate.app import doors
from moongate.app.doors import Doors, reserve_admin


class Newer(uvloop.Loop):
    """A loop as Python 3.13 has it: what it listened on is unlinked, unless it is told not to."""

    async def create_unix_server(self, *args: Any, cleanup_socket: bool = True, **more: Any) -> Any:
        return await super().create_unix_server(*args, cleanup_socket=cleanup_socket, **more)


class Nobody:
    """What listens needs a door; nobody comes."""

    local, closing = True, False

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        raise AssertionError(request.path)


@pytest.mark.parametrize("newer", [False, True])
def test_a_worker_that_leaves_does_not_take_the_admin_socket_along(
    monkeypatch: pytest.MonkeyPatch, newer: bool
) -> None:
    async def come_and_go() -> None:
        both = Doors()
        await both.listen_admin(Nobody(), listening.dup())  # type: ignore[arg-type]  # a stand-in
        await both.close()

    if newer:
        monkeypatch.setattr(doors, "sys", SimpleNamespace(version_info=(3, 13)))
    with short_folder() as folder:
        path = folder / "admin.sock"
        with reserve_admin(path) as listening:
            loop = Newer() if newer else uvloop.new_event_loop()
            try:
                loop.run_until_complete(come_and_go())
            finally:
                loop.close()
            assert path.exists()
