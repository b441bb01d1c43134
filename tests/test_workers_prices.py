"""A price that is set beside three workers on one PostgreSQL: all of them charge by it at once."""

import json
import os
import time
from collections.abc import Iterator

import pytest

from live_kit import environment, scripted_process, short_folder
from moongate.cli import run
from moongate.ledger import receipt
from postgres_kit import database
from workers_kit import CONFIG, Crew, crew

SCRIPT = "text Io\nusage prompt=40 cached=10 completion=9\n"
BODY = {"model": "kimi-k2.5", "messages": [{"role": "user", "content": "Hi"}]}
pytestmark = pytest.mark.postgres


@pytest.fixture
def served(monkeypatch) -> Iterator[Crew]:
    for name in os.environ.keys() - environment().keys():
        monkeypatch.delenv(name)
    with short_folder() as folder:
        script = folder / "script"
        script.write_text(SCRIPT)
        with scripted_process(script) as upstream:
            config = CONFIG.format(workers=3, drain_s=3, store=database(), upstream=upstream)
            with crew(folder, config) as it:
                yield it


def costs(it: Crew) -> set[int]:
    """What a request costs at each of the workers."""
    seen: set[int] = set()

    def ask() -> tuple[int, bytes]:
        status, body = it.ask("/v1/chat/completions", BODY)
        seen.add(json.loads(body)["usage"]["cost_nanos"])
        return status, body

    assert it.everyone(ask) == {200}
    return seen


def test_every_worker_charges_by_a_new_price_within_a_second_and_signs_alike(served, capsys):
    (before,) = costs(served)
    shown = {served.ask("/v1/pricing")[1] for _ in range(12)}
    assert len(shown) == 1

    argv = ("prices", "set", "kimi-k2.5", "--input", "0.96", "--cached", "0.20", "--output", "4.00")
    assert run([*argv, "--home", str(served.home)]) == 0
    assert "in force" in capsys.readouterr().out
    time.sleep(1.2)
    assert costs(served) == {2 * before}
    (public,) = {served.ask("/v1/pricing")[1] for _ in range(12)}
    assert json.loads(public)["data"][0]["version"] == 2

    # Whichever worker is asked, the receipt is the same, and of the same key.
    assert run(["statement", "--each", "--json", "--home", str(served.home)]) == 0
    told = json.loads(capsys.readouterr().out)
    versions = {line["price_version"] for line in told["data"]}
    assert versions == {1, 2}
    key = bytes.fromhex((served.home / "receipts.pub").read_text())
    total = 0
    for line in told["data"]:
        bodies = {served.ask(f"/v1/receipts/{line['request']}")[1] for _ in range(3)}
        assert len(bodies) == 1
        found = receipt.parse(bodies.pop())
        assert list(receipt.differences(found, key)) == []
        total += found["charge_nanos"]
    assert total == told["total"]["charge_nanos"]
    assert run(["credit", "show", "default", "--json", "--home", str(served.home)]) == 0
    assert 5 * 10**9 - json.loads(capsys.readouterr().out)["posted_nanos"] == total
    assert run(["audit", "ledger", "--home", str(served.home)]) == 0
