"""Pictures over HTTP: fetched by us and sent as bytes, judged before any hold, charged by size."""

import asyncio
import base64
import binascii
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from media_kit import Site, flood, site, trickle
from moongate.core.ports import NO_FILES, Uploaded
from moongate.media import datas
from moongate.media import eyes as eyes_module
from moongate.media import shelf as shelf_module
from moongate.media.eyes import Eyes
from moongate.media.shelf import Shelf
from moongate.meter import images
from moongate.upstream.scripted import ScriptedServer
from picture_kit import HOSTILE, chunk, gif, jpeg, mp4, png, url, webp
from serving_kit import Served, serve

CONFIG = """
[server]
port = 0
drain_s = 2

[[upstreams]]
name = "there"
kind = "vllm"
data_policy = "self-hosted"
base_url = "{base_url}"
cache_probe = false

[[models]]
id = "moon-1"
window = 20000
output_tokens_default = 500
abilities = ["tools", "json", "partial", "thinking", "images", "video"]
targets = [{{ upstream = "there", model = "moon-1" }}]
price = {{ input = "0.48", cached = "0.10", output = "2.00" }}

[[models]]
id = "blind-1"
window = 20000
output_tokens_default = 500
abilities = []
targets = [{{ upstream = "there", model = "moon-1" }}]
price = {{ input = "0.48", cached = "0.10", output = "2.00" }}
"""
AT = "messages[0].content[0].image_url"


@pytest.fixture
async def scripted():
    async with ScriptedServer("text Io.\nusage prompt=100 completion=3\nfinish stop") as it:
        yield it


@pytest.fixture
async def there():
    async with site() as it:
        yield it


@pytest.fixture
async def served(tmp_path, scripted, there):
    async with serve(tmp_path, CONFIG.format(base_url=scripted.base_url)) as it:
        it.app.gateway.eyes.fetcher = there.fetcher()
        yield it
        await it.sound()


def shows(*urls: str, kind: str = "image_url", **more: Any) -> dict[str, Any]:
    parts = [{"type": kind, kind: {"url": one}} for one in urls]
    parts.append({"type": "text", "text": "What is it?"})
    return {"model": "moon-1", "messages": [{"role": "user", "content": parts}], **more}


async def error(served: Served, body: dict[str, Any], **headers: str) -> tuple[int, str, str]:
    reply = await served.post(body, **headers)
    told = (await reply.json())["error"]
    return reply.status, told["code"], told["param"]


def sent(scripted: ScriptedServer) -> list[str]:
    """The addresses of the pictures in the last request upstream."""
    posts = [one.body for one in scripted.requests if one.method == "POST"]
    found = []
    for message in posts[-1]["messages"]:
        for part in message["content"] if isinstance(message["content"], list) else ():
            medium = part.get("image_url") or part.get("video_url")
            if medium:
                found.append(medium["url"] if isinstance(medium, dict) else medium)
    return found


async def other_key(served: Served, account: str, **more: Any) -> str:
    _, secret = await served.app.keys.create(account=account, name=account, **more)
    await served.app.store.credit(account, 10**9, "topup", f"t-{account}", 1)
    return f"Bearer {secret}"


async def test_what_an_upstream_sees_are_bytes(served, scripted, there):
    there.pages |= {"/a.png": png(), "/moved": "/a.png", "/b": jpeg()}
    urls = (there.url("/moved"), url(gif()), there.url("/b"), url(webp(), "image/.jpeg"))
    assert (await served.post(shows(*urls))).status == 200
    assert sent(scripted) == [
        url(png()), url(gif(), "image/gif"), url(jpeg(), "image/jpeg"), url(webp(), "image/webp"),
    ]  # fmt: skip


async def test_a_tools_result_may_show_something(served, scripted, there):
    there.pages["/a.png"] = png()
    call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    body = shows()
    body["messages"] += [
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": ""},
        {"role": "tool", "tool_call_id": "c", "content": [
            {"type": "image_url", "image_url": there.url("/a.png")}]},
    ]  # fmt: skip
    reply = await served.post(body)
    assert reply.status == 200, await reply.text()
    assert sent(scripted) == [url(png())]
    there.pages.clear()
    body["messages"][2]["content"][0]["image_url"] += "?other"
    at = "messages[2].content[0].image_url"
    assert await error(served, body) == (400, "image_fetch_failed", at)


async def test_no_bad_picture_costs_anything(served, scripted, there):
    for name, data in HOSTILE.items():
        there.pages["/x"] = data
        for one in (url(data), there.url("/x")):
            assert await error(served, shows(one)) == (400, "invalid_image", AT), name
    assert all(one.method == "GET" for one in scripted.requests)
    assert await served.usage() == []


async def test_what_does_not_come_is_named(served, there, monkeypatch):
    monkeypatch.setattr(eyes_module, "FETCH_S", 0.3)
    monkeypatch.setattr(eyes_module.fetch, "BYTES_MAX", 1 << 20)
    there.pages |= {"/flood": flood, "/slow": trickle, "/a": png()}
    for path in ("/none", "/flood", "/slow"):
        body = shows(there.url("/a"), there.url(path))
        at = "messages[0].content[1].image_url"
        assert await error(served, body) == (400, "image_fetch_failed", at)
    assert await served.usage() == []


@pytest.mark.parametrize(
    "address",
    [
        *("http://127.0.0.1/", "http://169.254.169.254/latest", "http://site.example.com:22/"),
        *(
            "https://[::1]/a.png",
            "ftp://example.com/a.png",
            "file:///etc/passwd",
            "a.png",
            "//x.com",
        ),
        *("blob:https://example.com/1", "http://0x7f.1/", "javascript:alert(1)"),
    ],
)
async def test_what_may_not_be_fetched_is_named(served, address):
    assert await error(served, shows(address)) == (400, "image_url_not_allowed", AT)


async def test_too_many_addresses_are_refused_before_any_is_fetched(served, there):
    urls = [there.url(f"/{n}") for n in range(eyes_module.FETCHED_MAX + 1)]
    status, code, param = await error(served, shows(*urls))
    assert (status, code) == (400, "image_url_not_allowed")
    assert param == f"messages[0].content[{eyes_module.FETCHED_MAX}].image_url"
    assert there.seen == []
    body = shows(*[url(png())] * (eyes_module.MEDIA_MAX + 1))
    assert (await error(served, body))[:2] == (400, "invalid_value")


async def test_a_model_that_cannot_see_says_so_before_anything_is_fetched(served, there):
    there.pages["/a"] = png()
    body = shows(there.url("/a"), model="blind-1")
    reply = await served.post(body)
    told = (await reply.json())["error"]
    assert (reply.status, told["code"], told["param"]) == (400, "unsupported_ability", AT)
    assert "images" in told["message"]
    assert there.seen == []


async def test_fetching_can_be_switched_off(tmp_path, scripted, there):
    config = CONFIG.format(base_url=scripted.base_url) + "\n[media]\nfetch = false\n"
    async with serve(tmp_path, config) as served:
        body = shows("https://example.com/a.png")
        assert await error(served, body) == (400, "image_url_not_allowed", AT)
        assert (await served.post(shows(url(png())))).status == 200


async def test_a_picture_is_kept_for_its_organisation_alone(served, there, monkeypatch):
    monkeypatch.setattr(shelf_module, "KEPT_S", 0.2)
    there.pages["/a"] = png()
    body = shows(there.url("/a"), there.url("/a"))
    for _ in range(3):
        assert (await served.post(body)).status == 200
    assert len(there.seen) == 1
    shelf = served.app.gateway.eyes.shelf
    assert shelf.bytes == len(url(png()))
    key = await other_key(served, "stranger")
    assert (await served.post(body, authorization=key)).status == 200
    assert len(there.seen) == 2
    async with asyncio.timeout(10):
        while shelf.bytes:
            await asyncio.sleep(0.01)
    assert (await served.post(body)).status == 200
    assert len(there.seen) == 3


async def test_nothing_is_kept_for_a_key_that_keeps_nothing(served, there):
    there.pages["/a"] = png()
    key = await other_key(served, "careful", zero_retention=True)
    for _ in range(2):
        reply = await served.post(shows(there.url("/a")), authorization=key)
        assert reply.status == 200, await reply.text()
    assert len(there.seen) == 2
    assert served.app.gateway.eyes.shelf.bytes == 0


async def test_uploads_are_asked_for_by_organisation(served, scripted):
    class Uploads:
        fate = "they are gone"

        def find(self, account: str, id: str) -> Uploaded | None:
            picture = Uploaded("image", png())
            return {("default", "a"): picture, ("other", "b"): picture}.get((account, id))

    served.app.gateway.eyes._files = Uploads()
    assert (await served.post(shows("ms://a"))).status == 200
    assert sent(scripted) == [url(png())]
    for id in ("b", "", "../a"):
        assert await error(served, shows(f"ms://{id}")) == (400, "file_not_found", AT)


async def test_videos_come_as_bytes_or_not_at_all(served, scripted, there):
    film = url(mp4(), "video/quicktime")
    assert (await served.post(shows(film, kind="video_url"))).status == 200
    assert sent(scripted) == [url(mp4(), "video/mp4")]
    at = "messages[0].content[0].video_url"
    bad = shows(url(png(), "video/mp4"), kind="video_url")
    assert await error(served, bad) == (400, "invalid_video", at)
    distant = shows(there.url("/a.mp4"), kind="video_url")
    assert await error(served, distant) == (400, "image_url_not_allowed", at)
    both = shows(url(png()))
    both["messages"][0]["content"].append({"type": "video_url", "video_url": url(png())})
    at = "messages[0].content[2].video_url"
    assert await error(served, both) == (400, "invalid_video", at)


async def estimate(served: Served, body: dict[str, Any]) -> int:
    head = {"authorization": f"Bearer {served.key}"}
    address = f"{served.url}/tokenizers/estimate-token-count"
    async with served.http.post(address, json=body, headers=head) as reply:
        assert reply.status == 200, await reply.text()
        return (await reply.json())["data"]["total_tokens"]


async def test_a_fetched_picture_is_counted_by_its_size(served, there):
    there.pages |= {"/s": png(28, 28), "/l": png(1024, 1024)}
    small, large = await estimate(served, shows(there.url("/s"))), 0
    large = await estimate(served, shows(there.url("/l")))
    assert large - small == images.tokens(1024, 1024) - 1


async def test_a_prompt_that_its_pictures_cannot_explain_is_not_believed(tmp_path, there):
    there.pages["/s"] = png(28, 28)
    async with (
        ScriptedServer("text Io.\nusage prompt=15000 completion=3\nfinish stop") as scripted,
        serve(tmp_path, CONFIG.format(base_url=scripted.base_url)) as served,
    ):
        served.app.gateway.eyes.fetcher = there.fetcher()
        assert (await served.post(shows(there.url("/s")))).status == 200
        assert "prompt_over_bound" in served.log.getvalue()
        assert (await served.usage())[0].usage.input < 1000
        large = shows(*[url(jpeg(1805, 1805))] * 4)
        assert (await served.post(large)).status == 200
        assert served.log.getvalue().count("prompt_over_bound") == 1
        assert (await served.usage())[1].usage.input == 15_000


async def test_bytes_that_were_fetched_count_as_bytes_in_flight(served, there):
    there.pages["/a"] = png(8, 8, chunk(b"teXt", bytes(2000)))
    bodies = served.app.gateway.limits.bodies
    bodies._max, bodies._wait_s = 1500, 0.05
    status, code, _ = await error(served, shows(there.url("/a")))
    assert (status, code) == (503, "overloaded")
    assert bodies.size == 0


async def test_uploads_that_are_shown_count_as_bytes_in_flight(served):
    class Uploads:
        fate = "they are gone"

        def find(self, account: str, id: str) -> Uploaded | None:
            return Uploaded("image", png(8, 8, chunk(b"teXt", bytes(2000))))

    served.app.gateway.eyes._files = Uploads()
    bodies = served.app.gateway.limits.bodies
    bodies._max, bodies._wait_s = 1500, 0.05
    status, code, _ = await error(served, shows("ms://a"))
    assert (status, code) == (503, "overloaded")
    assert bodies.size == 0


async def test_no_trace_of_them_is_logged(served, there):
    there.pages["/a-canary-7f3e.png"] = png()
    await served.post(shows(there.url("/a-canary-7f3e.png")))
    await served.post(shows(there.url("/canary-7f3e")))
    eyes = served.app.gateway.eyes
    assert "canary-7f3e" not in served.log.getvalue() + repr(eyes) + repr(eyes.shelf)


async def test_a_shelf_has_bounds():
    shelf = Shelf(bytes_max=30, account_bytes_max=20)
    shelf.keep("a", "1", "x" * 21)
    assert shelf.bytes == 0
    for n in range(3):
        shelf.keep("a", str(n), "x" * 10)
    assert [shelf.find("a", str(n)) is not None for n in range(3)] == [False, True, True]
    shelf.keep("b", "1", "y" * 20)
    assert (shelf.bytes, shelf.find("a", "1"), shelf.find("b", "2")) == (30, None, None)
    shelf.clear()
    assert shelf.bytes == 0
    assert "0 pictures" in repr(shelf)


async def test_one_left_request_leaves_nothing_running(served, there: Site):
    there.pages["/slow"] = trickle
    head = {"authorization": f"Bearer {served.key}"}
    with pytest.raises((TimeoutError, aiohttp.ServerTimeoutError)):
        async with asyncio.timeout(0.2):
            await served.http.post(
                f"{served.url}/chat/completions", json=shows(there.url("/slow")), headers=head
            )
    async with asyncio.timeout(10):
        while served.app.gateway.limits.running:
            await asyncio.sleep(0.01)
    assert await served.usage() == []


async def test_eyes_without_a_fetcher_bring_what_needs_none():
    it = Eyes(None, NO_FILES)
    assert it.shelf.bytes == 0


def test_a_data_url_is_written_in_pieces(monkeypatch):
    sizes = []

    def b2a(data: bytes, *, newline: bool) -> bytes:
        sizes.append(len(data))
        return binascii.b2a_base64(data, newline=newline)

    monkeypatch.setattr(datas, "binascii", SimpleNamespace(b2a_base64=b2a))
    for size in (0, 1, 2, 3, 393_216, 393_217, 3_000_000):
        data = bytes(range(251)) * (size // 251 + 1)
        made = datas.write(data[:size], "video/mp4")
        assert made == "data:video/mp4;base64," + base64.b64encode(data[:size]).decode()
        assert len(made) == len("data:video/mp4;base64,") + datas.length(size)
    assert max(sizes) < 1 << 20
