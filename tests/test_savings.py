"""What the prompt cache saved: one figure wherever money is shown, derived and never stored."""

import asyncio
import csv
import io
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moongate.cli import run
from moongate.core.money import Price, Usage, charge, nanos_to_usd, saved
from moongate.ledger import receipt
from moongate.upstream.scripted import ScriptedServer
from office_kit import Desk
from serving_kit import ONE_UPSTREAM, Served, ask, serve
from wire_kit import check_stream

SCRIPT = """
text Io
usage prompt=10000 cached=8000 completion=9
---
text Europa
usage prompt=300 completion=7
---
error 500 server_error Oops
---
text Ganymede
usage prompt=1000 cached=1000 completion=1
"""
LONG = "moon " * 3_000
SAVED = 9_000 * (480 - 100)
UNIT = st.integers(0, 10**6)


@given(st.lists(st.integers(0, 10**7), min_size=4, max_size=4), UNIT, UNIT, UNIT)
def test_saved_is_the_cost_uncached_less_the_cost(
    counts: list[int], fresh: int, cached: int, output: int
) -> None:
    used, price = Usage(*counts), Price(fresh, cached, output, 5_000_000)
    uncached = Usage(used.prompt, 0, used.output, used.searches)
    assert saved(used.cache_read, price) == charge(uncached, price) - charge(used, price)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with ScriptedServer(SCRIPT) as scripted:
        config = ONE_UPSTREAM.format(kind="moonshot", base_url=scripted.base_url)
        async with serve(tmp_path, config) as running:
            yield running


async def get(served: Served, path: str) -> Any:
    head = {"authorization": f"Bearer {served.key}"}
    async with served.http.get(served.url + path, headers=head) as reply:
        assert reply.status == 200
        return json.loads(await reply.text())


async def test_answer_usage_statement_invoice_and_receipts_say_the_same(served: Served) -> None:
    streamed = await served.post(ask(LONG, stream=True, stream_options={"include_usage": True}))
    folded = check_stream(await streamed.read(), include_usage=True)
    told = [folded["usage"]]
    ids = [streamed.headers["x-request-id"]]
    for _ in range(3):
        reply = await served.post(ask(LONG))
        ids.append(reply.headers["x-request-id"])
        if reply.status == 200:
            told.append((await reply.json())["usage"])
    assert [usage["saved_nanos"] for usage in told] == [8_000 * 380, 0, 1_000 * 380]
    assert [usage["saved_usd"] for usage in told] == ["0.00304", "0.00", "0.00038"]
    for usage in told:
        as_if = usage["prompt_tokens"] * 480 + usage["completion_tokens"] * 2_000
        assert usage["saved_nanos"] == as_if - usage["cost_nanos"]
    assert sum(usage["saved_nanos"] for usage in told) == SAVED

    whole = (await get(served, "/usage"))["total"]
    month = (await served.usage())[0].ended_ms
    stands = f"{1970 + month // 31_556_952_000}"
    status, statement = await served.app.office.dispatch("GET", "/admin/v1/statement", {}, {})
    assert status == 200
    for figures in (whole, statement["total"]):
        assert (figures["saved_nanos"], figures["saved_usd"]) == (SAVED, nanos_to_usd(SAVED))
    assert sum(line["saved_nanos"] for line in statement["data"]) == SAVED
    day = statement["data"][0]["day"]
    assert day.startswith(stands)
    invoice = await get(served, f"/invoices/{day[:7]}?format=json")
    assert (invoice["saved_nanos"], invoice["saved_usd"]) == (SAVED, nanos_to_usd(SAVED))

    public = bytes.fromhex((await get(served, "/receipts/key"))["public_key"])
    receipts = [await get(served, f"/receipts/{id}") for id in ids]
    assert sum(receipt.saved(one) for one in receipts) == SAVED
    for one in receipts:
        assert not [name for name in one if "saved" in name], "it follows, so it is not signed"
        assert list(receipt.differences(one, public)) == []


async def test_what_was_not_charged_saved_nothing() -> None:
    desk = await Desk().start()
    key = (await desk.post("/keys", name="ci", account="acme"))["id"]
    await desk.post("/accounts/acme/credit", usd="2")
    await desk.spend("req_1", key, Usage(10, 500, 7), outcome="upstream_error")
    assert (await desk.get("/statement", account="acme"))["total"]["saved_nanos"] == 0
    assert (await desk.get("/accounts/acme/invoice", month="2026-01"))["saved_nanos"] == 0
    lines = [{"class": name, "count": 5, "unit_nanos": 9} for name in receipt.CLASSES]
    lines[1]["unit_nanos"] = 2
    assert receipt.saved({"charge_nanos": 0, "lines": lines}) == 0
    assert receipt.saved({"charge_nanos": 1, "lines": lines}) == 5 * 7
    assert receipt.saved({"charge_nanos": 1, "lines": lines[2:]}) == 0, "shown as the file says"


async def test_commands_and_the_printed_invoice_show_it(
    served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for name in ("MOONGATE_URL", "MOONGATE_API_KEY", "MOONGATE_CONFIG", "MOONGATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")

    async def say(*argv: str) -> str:
        assert await asyncio.to_thread(run, [*argv, "--home", str(tmp_path / "home")]) == 0
        return capsys.readouterr().out

    cached = (await served.post(ask(LONG))).headers["x-request-id"]
    fresh = (await served.post(ask(LONG))).headers["x-request-id"]
    shown = "Cached input cost $0.00304 less than uncached would have."
    for command in ("show", "verify"):
        assert shown in await say("receipt", command, cached)
        assert "less than" not in await say("receipt", command, fresh)
    assert json.loads(await say("receipt", "show", cached, "--json")).keys().isdisjoint({"saved"})
    table = await say("statement")
    assert "Saved by cache" in table
    assert table.count("0.00304") == 2, "a line and the total"
    for more in ((), ("--each",)):
        rows = list(csv.DictReader(io.StringIO(await say("statement", "--format", "csv", *more))))
        assert rows[-1]["saved_nanos"] == str(8_000 * 380)
        assert rows[-1]["saved_usd"] == "0.00304"
        assert sum(int(row["saved_nanos"]) for row in rows[:-1]) == 8_000 * 380
    day = rows[0]["ended"][:7]
    async with served.http.get(
        f"{served.url}/invoices/{day}", headers={"authorization": f"Bearer {served.key}"}
    ) as reply:
        page = await reply.text()
    assert re.search(r"Cached input tokens cost \$0\.00304\d* less than uncached ones would", page)
    for text in (page, table):
        assert "%" not in text.replace("100%", "").partition("<body>")[2], "no share is advertised"
