"""Fetching from a server on loopback that, for once, counts as public."""

import asyncio
import time

import aiohttp
import pytest

from media_kit import FakeDNS, flood, permits, site, trickle
from moongate.core.errors import FetchError, FetchFailed, UrlRefused
from moongate.media.addresses import ours, parse, public
from moongate.media.fetch import Fetcher, permitted
from moongate.media.resolver import SystemResolver
from moongate.media.urls import read


@pytest.fixture
async def there():
    async with site() as it:
        yield it


async def kind_of(fetching) -> str:
    with pytest.raises(FetchError) as caught:
        await fetching
    assert caught.value.__cause__ is None
    assert "example" not in repr(caught.value)
    return f"{type(caught.value).__name__} {caught.value.kind}"


async def test_what_is_there_comes(there):
    there.pages["/a.png"] = b"bytes"
    found = await there.fetcher().fetch(there.url("/a.png"), accept="image/*")
    assert (found.data, found.content_type) == (b"bytes", "image/png")
    assert found.url == there.url("/a.png")
    headers = dict(there.seen[0].headers)
    headers.pop("User-Agent")
    assert headers == {
        "Host": f"site.example.com:{there.port}",
        "Accept": "image/*",
        "Accept-Encoding": "identity",
        "Connection": "close",
    }


async def test_no_text_of_it_is_shown(there):
    there.pages["/secret.png"] = b"bytes"
    found = await there.fetcher().fetch(there.url("/secret.png"))
    assert "secret" not in repr(found)
    assert "secret" not in repr(read("http://secret.example.com/"))


async def test_three_redirects_are_followed_and_no_more(there):
    there.pages |= {"/1": "/2", "/2": "3?x=1", "/3": there.url("/4"), "/4": b"here"}
    assert (await there.fetcher().fetch(there.url("/1"))).url == there.url("/4")
    there.pages["/0"] = "/1"
    assert await kind_of(there.fetcher().fetch(there.url("/0"))) == "FetchFailed redirects"
    assert not any("Referer" in request.headers for request in there.seen)


async def test_a_redirect_is_judged_like_any_address(there):
    there.pages["/in"] = f"http://127.0.0.2:{there.port}/"
    assert await kind_of(there.fetcher().fetch(there.url("/in"))) == "UrlRefused address"
    there.pages["/port"] = "http://site.example.com/"
    assert await kind_of(there.fetcher().fetch(there.url("/port"))) == "UrlRefused port"
    there.pages["/nowhere"] = ""
    assert await kind_of(there.fetcher().fetch(there.url("/nowhere"))) == "UrlRefused redirect"


async def test_cookies_are_neither_kept_nor_sent(there):
    async def set_cookie(request):
        return aiohttp.web.Response(
            status=302, headers={"Location": "/b", "Set-Cookie": "a=b; Path=/"}
        )

    there.pages |= {"/a": set_cookie, "/b": b"here"}
    await there.fetcher().fetch(there.url("/a"))
    assert not any("Cookie" in request.headers for request in there.seen)


async def test_proxies_and_passwords_of_the_environment_are_not_used(there, monkeypatch, tmp_path):
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    (tmp_path / "netrc").write_text("machine site.example.com login a password b\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    there.pages["/a"] = b"here"
    assert (await there.fetcher().fetch(there.url("/a"))).data == b"here"
    assert "Authorization" not in there.seen[0].headers


async def test_size_is_bounded_while_bytes_come(there):
    there.pages |= {"/told": b"x" * 1001, "/flood": flood, "/fits": b"x" * 1000}
    fetcher = there.fetcher()
    assert len((await fetcher.fetch(there.url("/fits"), bytes_max=1000)).data) == 1000
    for path in ("/told", "/flood"):
        assert await kind_of(fetcher.fetch(there.url(path), bytes_max=1000)) == "FetchFailed size"


async def test_time_is_bounded_though_bytes_come(there):
    there.pages["/slow"] = trickle
    began = time.monotonic()
    fetching = there.fetcher().fetch(there.url("/slow"), total_s=0.2)
    assert await kind_of(fetching) == "FetchFailed timeout"
    assert time.monotonic() - began < 5


async def test_other_statuses_and_compressed_bytes_are_failures(there):
    async def squeezed(request):
        return aiohttp.web.Response(body=b"x", headers={"Content-Encoding": "gzip"})

    async def partial(request):
        return aiohttp.web.Response(status=206, body=b"x")

    there.pages |= {"/gzip": squeezed, "/part": partial}
    fetcher = there.fetcher()
    assert await kind_of(fetcher.fetch(there.url("/none"))) == "FetchFailed status"
    assert await kind_of(fetcher.fetch(there.url("/part"))) == "FetchFailed status"
    assert await kind_of(fetcher.fetch(there.url("/gzip"))) == "FetchFailed encoding"


async def test_a_name_is_looked_up_once_a_request(there):
    there.pages["/a"] = b"here"
    dns = FakeDNS({"site.example.com": (("127.0.0.1",), ("127.0.0.9",))})
    fetcher = Fetcher(resolve=dns, permits=permits, ports=frozenset({there.port}))
    assert (await fetcher.fetch(there.url("/a"))).data == b"here"
    assert dns.asked == ["site.example.com"]
    assert await kind_of(fetcher.fetch(there.url("/a"))) == "UrlRefused address"


async def test_sockets_are_the_last_gate(there, monkeypatch):
    """Though everything before it erred, an address is looked at where the socket is made."""
    there.pages["/a"] = b"here"
    judged = iter([True, False])
    dns = FakeDNS({"site.example.com": (("127.0.0.1",),)})
    fetcher = Fetcher(
        resolve=dns, permits=lambda address: next(judged), ports=frozenset({there.port})
    )
    assert await kind_of(fetcher.fetch(there.url("/a"))) == "UrlRefused address"
    assert there.seen == []


async def test_an_unknown_name_and_a_slow_resolver_are_failures(there):
    assert await kind_of(there.fetcher(no_example_com=()).fetch(there.url("/", "no.example.com")))
    resolver = SystemResolver(0.05)
    assert await kind_of(resolver("nowhere.invalid")) in {
        "FetchFailed name",
        "FetchFailed name_timeout",
    }


async def test_the_machines_resolver_is_asked_for_the_whole_name(monkeypatch):
    asked: list[str] = []

    def told(host, *_, **__):
        asked.append(host)
        places = [("1.1.1.1", 0), ("2606:4700::1", 0, 0, 0), ("fe80::1", 0, 0, 2), ("1.1.1.1", 0)]
        return [(0, 0, 0, "", place) for place in places]

    monkeypatch.setattr("socket.getaddrinfo", told)
    assert await SystemResolver()("a.example.com") == ["1.1.1.1", "2606:4700::1", "fe80::1%2"]
    assert asked == ["a.example.com."]
    assert parse("fe80::1%2") is None


async def test_a_resolver_that_hangs_is_given_up(monkeypatch):
    gate = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hang(host: str) -> list[str]:
        asyncio.run_coroutine_threadsafe(gate.wait(), loop).result()
        return []

    monkeypatch.setattr("moongate.media.resolver.look_up", hang)
    assert await kind_of(SystemResolver(0.05)("a.example.com")) == "FetchFailed name_timeout"
    gate.set()


def test_our_own_addresses_are_known():
    assert ours(parse("127.0.0.1"))
    assert not ours(parse("93.184.215.14"))
    assert not permitted(parse("127.0.0.1"))


@pytest.mark.parametrize(
    "text",
    [
        *("1.1.1.1", "8.8.8.8", "100.63.255.255", "100.128.0.1", "172.32.0.1", "192.0.1.1"),
        *("198.20.0.1", "223.255.255.255", "11.0.0.0", "2606:4700::1111", "2a00:1450::1"),
        *("2002:808:808::1", "64:ff9b::808:808", "::ffff:8.8.8.8", "2001:200::1", "3ffe:ffff::1"),
    ],
)
def test_what_is_public_is_let_through(text):
    assert public(parse(text))


@pytest.mark.parametrize("text", ["::8.8.8.8", "2001:0:808:808::f7f7:f7f7", "4000::1", "1fff::1"])
def test_what_leads_nowhere_is_refused_whatever_it_carries(text):
    assert not public(parse(text))


@pytest.mark.parametrize(
    ("text", "url", "host"),
    [
        ("HTTP://Example.COM", "http://example.com", "example.com"),
        ("https://example.com.:443/a", "https://example.com/a", "example.com"),
        ("http://bücher.example.com/ä?ö#x", None, "xn--bcher-kva.example.com"),
        ("http://xn--bcher-kva.example.com/", None, "xn--bcher-kva.example.com"),
        ("http://1.1.1.1:80/%2e%2e/a", None, "1.1.1.1"),
        ("https://[2606:4700::1111]:443/", None, "2606:4700::1111"),
        ("http://a_b.s3.example.com/x?y=@:/\u00e9", None, "a_b.s3.example.com"),
    ],
)
def test_addresses_are_read_as_they_are_used(text, url, host):
    place = read(text)
    assert place.host == host == place.url.raw_host
    assert place.port in (80, 443)
    assert url is None or str(place.url) == url


def test_too_long_an_address_is_refused():
    with pytest.raises(UrlRefused):
        read("http://example.com/" + "a" * 8192)
    with pytest.raises(FetchFailed):
        raise FetchFailed("x")
