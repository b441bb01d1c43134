"""Receipts, prices, invoices and the audit as commands, beside a server and without one."""

import asyncio
import csv
import io
import json

import apsw
import pytest

from moongate.cli import run, statement
from moongate.core.money import Price, charge
from moongate.upstream.scripted import ScriptedServer
from serving_kit import ONE_UPSTREAM, ask, serve

SCRIPT = """
text Io
usage prompt=40 cached=10 completion=9
---
error 500 server_error Oops
"""
NAMED = '\n[operator]\nname = "Moon & Sons"\ncontact = "a@moon.example"\n'


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    for name in ("MOONGATE_URL", "MOONGATE_API_KEY", "MOONGATE_CONFIG", "MOONGATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.fixture
def say(capsys, tmp_path):
    """Run a command line in a thread: exit code, stdout, stderr."""

    async def said(*argv: str) -> tuple[int, str, str]:
        code = await asyncio.to_thread(run, [*argv, "--home", str(tmp_path / "home")])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return code, out, err

    return said


@pytest.fixture
async def served(tmp_path):
    async with ScriptedServer(SCRIPT) as scripted:
        config = ONE_UPSTREAM.format(kind="moonshot", base_url=scripted.base_url) + NAMED
        async with serve(tmp_path, config) as running:
            yield running


async def asked(served) -> str:
    """One request's id."""
    reply = await served.post(ask())
    await reply.read()
    return str(reply.headers["x-request-id"])


async def test_a_receipt_is_shown_kept_and_checked_offline(served, say, tmp_path, monkeypatch):
    id = await asked(served)
    (used,) = await served.usage()
    code, out, _ = await say("receipt", "show", id)
    assert code == 0
    for words in (id, "kimi-k2.5, served by moonshot", "done (200)", "entry 2, ",
                  "Uncached input", "$0.48 a million"):  # fmt: skip
        assert words in out
    file = tmp_path / "r.json"
    assert await say("receipt", "show", id, "--out", str(file)) == (0, "", f"Written to {file}.\n")
    code, out, err = await say("receipt", "show", str(file))
    assert (code, err) == (0, "As the file says; `moongate receipt verify` checks it.\n")
    assert id in out
    code, out, _ = await say("receipt", "verify", id)
    assert (code, out.startswith(f"Sound: {id} was charged $")) == (0, True)
    key = (tmp_path / "home" / "receipts.pub").read_text().strip()

    await served.app.close()  # from here on there is nobody to ask
    for given in ((), ("--key", key), ("--key", str(tmp_path / "home" / "receipts.pub"))):
        code, out, _ = await say("receipt", "verify", str(file), *given)
        assert (code, out.startswith(f"Sound: {id}")) == (0, True)
    code, out, _ = await say("receipt", "verify", str(file), "--json")
    assert (code, json.loads(out)) == (0, {"ok": True, "request": id, "differences": []})
    told = json.loads(file.read_text())
    assert told["charge_nanos"] == used.charge_nanos
    told["lines"][2]["count"] += 1
    file.write_text(json.dumps(told))
    code, out, _ = await say("receipt", "verify", str(file))
    assert code == 1
    assert out.splitlines()[0] == f"This receipt is NOT sound ({id}):"
    assert f"lines[2]: {used.usage.output + 1} x 2000 is" in out
    assert "the signature is not of this key" in out


async def test_what_is_no_receipt_and_no_key_is_told(say, tmp_path):
    file = tmp_path / "x.json"
    told = await say("receipt", "verify", str(file))
    assert told == (1, "", f"moongate: {file}: no such file or directory.\n")
    for text in ("", "{", "\x1b[2J", '{"a":1,"a":2}'):
        file.write_text(text)
        code, out, err = await say("receipt", "show", str(file))
        assert (code, out) == (1, "")
        assert err.endswith("is no receipt: it is not one JSON object.\n")
    file.write_text("{}")
    code, _, err = await say("receipt", "verify", str(file))
    assert code == 1
    assert "There is no public key at" in err
    code, out, _ = await say("receipt", "verify", str(file), "--key", "ab" * 32)
    assert (code, "format is not moongate-receipt-1" in out) == (1, True)
    code, _, err = await say("receipt", "verify", str(file), "--key", "ab")
    assert (code, "It takes 64 hex digits" in err) == (2, True)
    code, _, err = await say("receipt", "show", "req_unknown")
    assert (code, err) == (1, "moongate: There is no such receipt.\n")


async def test_a_buyer_elsewhere_is_served_by_address_and_key(served, say, tmp_path, monkeypatch):
    id = await asked(served)
    monkeypatch.setenv("MOONGATE_URL", served.url)
    monkeypatch.setenv("MOONGATE_API_KEY", served.key)
    elsewhere = ("--home", str(tmp_path / "elsewhere"))
    code, out, err = await say("receipt", "verify", id, *elsewhere)
    assert (code, out.startswith("Sound: ")) == (0, True)
    assert err == "The key is the server's own word; keep it and give it with --key.\n"
    _, stranger = await served.app.keys.create(account="stranger", name="s")
    monkeypatch.setenv("MOONGATE_API_KEY", stranger)
    code, out, err = await say("receipt", "show", id, *elsewhere)
    assert (code, out) == (1, "")
    assert "There is no such receipt." in err


async def test_a_price_set_beside_a_server_is_charged_by_the_next_request(served, say):
    first = await asked(served)
    new = ("--input", "0.40", "--cached", "0.08", "--output", "$1.60")
    code, out, err = await say("prices", "set", "kimi-k2.5", *new)
    assert code == 0
    head, before, now = out.splitlines()
    assert head.split()[:3] == ["Version", "Input", "Cached"]
    assert before.split()[:5] == ["1", "$0.48", "$0.10", "$2.00", "$0.005"]
    assert now.split()[:5] == ["2", "$0.40", "$0.08", "$1.60", "$0.005"]
    assert now.rstrip().endswith("in force")
    assert err == "kimi-k2.5: USD per million tokens; a search per call.\n"
    await asked(served)  # fails and costs nothing
    second = await asked(served)
    rows = {row.hold: row for row in await served.usage()}
    assert rows[first].price_version == 1
    assert rows[second].price_version == 2
    assert rows[second].charge_nanos == charge(rows[second].usage, Price(400, 80, 1_600))

    code, _, err = await say("prices", "set", "kimi-k2.5", *new)
    assert (code, "nothing was changed" in err) == (0, True)
    code, _, _ = await say(
        "prices", "set", "kimi-k2.5", *new, "--search", "1", "--from", "2999-01-01"
    )
    code, out, err = await say("prices", "list")
    assert "From 2999-01-01 00:00 UTC kimi-k2.5 costs $0.40 / $0.08 / $1.60." in err
    code, out, _ = await say("prices", "history", "kimi-k2.5", "--json")
    states = [row["state"] for row in json.loads(out)["data"]]
    assert states == ["past", "in_force", "upcoming"]
    code, out, _ = await say("prices", "history")
    assert [line.split()[0] for line in out.splitlines()] == ["Version", "1", "2", "3"]


async def test_what_a_price_cannot_be_is_wrong_use(say):
    new = ["--input", "0.40", "--cached", "0.08", "--output", "1.60"]
    wrong = {
        ("kimi-k2.5", *new[:1], "0.4001", *new[2:], "--search", "0"): "'--input': Use US dollars",
        ("kimi-k2.5", *new): "'--search': This field is required",
        ("kimi-k2.5", *new[:4]): "Missing option '--output'",
        (
            "kimi-k2.5",
            *new,
            "--search",
            "0",
            "--from",
            "2020-01-01",
        ): "'--from': It lies in the past",
        ("kimi-k3", *new): "'MODEL': There is no such model.",
    }
    for argv, words in wrong.items():
        code, out, err = await say("prices", "set", *argv)
        assert (code, out) == (2, ""), argv
        assert words in err
    code, _, err = await say("prices", "history", "nope")
    assert (code, "There is no such model." in err) == (2, True)


async def test_an_invoice_is_written_and_equals_the_wallet(served, say, tmp_path):
    await asked(served)
    await asked(served)
    code, out, _ = await say("statement", "--json")
    charged = json.loads(out)["total"]
    month = json.loads(out)["data"][0]["day"][:7]
    file = tmp_path / "i.html"
    code, out, err = await say("invoice", "default", month, "--out", str(file))
    assert (code, out) == (0, "")
    assert f"{file}: ${charged['charge_usd']} charged in {month}" in err
    page = file.read_text("utf-8")
    assert "Moon &amp; Sons" in page
    assert f"default-{month}" in page
    code, out, _ = await say("invoice", "default", month, "--json")
    data = json.loads(out)
    posted, _ = await served.wallet()
    assert (data["charges_nanos"], data["closing_nanos"]) == (charged["charge_nanos"], posted)
    code, out, _ = await say("invoice", "default", month)
    assert out.startswith("<!DOCTYPE html>")
    code, _, err = await say("invoice", "default", "2026-00")
    assert (code, "'MONTH': Use a month, like 2026-01." in err) == (2, True)
    code, _, err = await say("invoice", "default", month, "--out", str(tmp_path / "no" / "x"))
    assert (code, "no such file or directory" in err) == (1, True)
    assert (await say("invoice", "nobody", month))[0] == 1


async def test_a_statement_says_what_was_given_away(served, say):
    await asked(served)
    await asked(served)
    code, out, err = await say("statement")
    assert code == 0
    assert out.splitlines()[0].split()[-5:] == ["Output", "Saved", "by", "cache", "USD"]
    assert err == "1 request cost nothing.\n"


async def test_the_audit_beside_a_server_and_of_a_ledger_that_was_tampered_with(
    served, say, tmp_path
):
    await asked(served)
    assert await say("audit", "ledger") == (0, "Every invariant of the ledger holds.\n", "")
    await served.app.close()
    assert await say("audit", "ledger") == (0, "Every invariant of the ledger holds.\n", "")
    db = apsw.Connection(str(tmp_path / "home" / "moongate.db"))
    db.execute("UPDATE account SET posted_nanos = posted_nanos + 5 WHERE id = 'default'")
    db.close()
    code, out, err = await say("audit", "ledger")
    assert code == 1
    assert out.splitlines()[0].split() == ["Invariant", "Where", "What", "is", "wrong"]
    assert out.splitlines()[1].startswith("I2         default  posted ")
    assert err == "The ledger is not sound: 1 finding.\n"
    code, out, _ = await say("audit", "ledger", "--json")
    told = json.loads(out)
    assert (code, told["ok"]) == (1, False)
    assert [(one["invariant"], one["where"]) for one in told["findings"]] == [("I2", "default")]


async def test_the_doctor_shows_the_key_of_receipts(served, say, tmp_path):
    public = (tmp_path / "home" / "receipts.pub").read_text().strip()
    _, out, _ = await say("doctor")
    assert public in out.replace("\n", "").replace(" ", "")
    (tmp_path / "home" / "receipts.pub").write_text("moon")
    code, out, _ = await say("doctor", "--json")
    found = {check["name"]: check["state"] for check in json.loads(out)["checks"]}
    assert (code, found["receipts"]) == (1, "broken")


@pytest.mark.parametrize("each", [(), ("--each",)])
async def test_a_name_in_csv_is_no_formula_to_a_spreadsheet(served, say, each):
    name = '=HYPERLINK("http://x.example","pay")'
    _, made = await served.app.office.dispatch("POST", "/admin/v1/keys", {}, {"name": name})
    head = {"authorization": f"Bearer {made['key']}"}
    await (await served.post(ask(), **head)).read()
    code, out, _ = await say("statement", "--format", "csv", *each)
    (row, total) = csv.DictReader(io.StringIO(out))
    assert code == 0
    assert (row["key_name"], row["model"]) == (f"'{name}", "kimi-k2.5")
    assert row["charge_usd"] == total["charge_usd"] != ""
    _, out, _ = await say("statement", "--json", *each)
    assert json.loads(out)["data"][0]["key_name"] == name


@pytest.mark.parametrize("first", "=+-@\t\r\n")
def test_what_may_begin_a_formula_is_quoted(capsys, first):
    row = {"key_name": f"{first}cmd", "account": "acme", "model": "a=b", "due_usd": "-1.5"}
    statement._csv({"data": [row], "total": {}}, tuple(row))
    out = capsys.readouterr().out
    (told, _) = csv.DictReader(io.StringIO(out, newline=""))
    assert told == {**row, "key_name": f"'{first}cmd".replace("\r", " ")}
