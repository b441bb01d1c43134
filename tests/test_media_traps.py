"""Nothing inside is connected to: a network whose every address is a trap, and what walks in.

The controls are the same walk without our judgement, and by a client that trusts a name once: they
must be caught, or the traps would show nothing.
"""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from media_kit import FakeDNS
from moongate.core.errors import FetchError
from moongate.media.fetch import Fetcher
from ssrf_forms import DIRECT, FORMS, HOST, INSIDE4, INSIDE6, NAMES, PUBLIC, REBOUND, REDIRECTS

TRAPS = Path(__file__).with_name("traps.py")
in_namespace = pytest.mark.namespaces


@cache
def walk(which: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(TRAPS), which], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert "unable" not in found, f"this machine gives no network namespace: {found['unable']}"
    return found


@in_namespace
def test_nothing_inside_is_connected_to():
    found = walk("guarded")
    assert found["forms"] == len(FORMS) + len(REBOUND) > 200
    assert found["inside"] == []
    # The walk did go out: every redirect was asked for, and rebound names were met where they were.
    assert set(found["reached"]) <= set(PUBLIC)
    assert len(found["reached"]) >= len(REDIRECTS)
    fetched = {url for url, outcome in found["outcomes"].items() if outcome == "fetched"}
    assert {f"http://{name}/" for name in REBOUND} <= fetched


@in_namespace
def test_whatever_is_refused_is_refused_as_an_address_that_may_not_be_fetched():
    outcomes = walk("guarded")["outcomes"]
    others = {url for url, outcome in outcomes.items() if not outcome.startswith("UrlRefused")}
    assert others - {f"http://{name}/" for name in REBOUND} <= {
        "http://empty.example.com/",  # a name without an address is no address inside
        *(url for url in FORMS if HOST in url),
    }


@in_namespace
def test_without_our_judgement_the_traps_are_full():
    inside = set(walk("open")["inside"])
    assert len(inside) > 40
    assert {"127.0.0.1", "169.254.169.254", "10.0.0.1", "::1", "168.63.129.16"} <= inside


@in_namespace
def test_a_client_that_checks_a_name_and_connects_by_itself_is_caught():
    found = walk("naive")
    caught = {url for url in found["outcomes"] if found["outcomes"][url] == "fetched"}
    assert len(set(found["inside"])) > 40
    assert {"http://0x7f.1/", "http://v4-5.example.com/", "http://rebound-a.example.com/"} <= caught


@in_namespace
def test_a_public_address_of_our_own_is_not_connected_to():
    found = walk("own")
    assert (found["guarded"], found["open"]) == (0, 1)


def test_the_list_is_of_addresses_that_differ():
    assert len(set(FORMS)) == len(FORMS)
    assert len(set(INSIDE4) | set(INSIDE6)) == len(INSIDE4) + len(INSIDE6)


async def test_on_any_machine_no_socket_is_made_for_what_is_written_or_named_inside(monkeypatch):
    made: list[Any] = []

    def socket(_, about):
        made.append(about)
        raise OSError

    monkeypatch.setattr("moongate.media.fetch._Gate.socket", socket)
    fetcher = Fetcher(resolve=FakeDNS(NAMES))
    for url in DIRECT:
        with pytest.raises(FetchError):
            await fetcher.fetch(url)
    assert made == []
    with pytest.raises(FetchError):
        await fetcher.fetch(f"http://{HOST}/")
    assert {about[4][0] for about in made} <= set(PUBLIC)
    assert made
