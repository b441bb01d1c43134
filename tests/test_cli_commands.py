"""The commands without a server: what they print, and how they end."""

import csv
import io
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from moongate.cli import run
from moongate.cli.commands import COMMANDS, moongate
from moongate.cli.reference import commands

KEY = r"mg-[0-9A-Za-z]{33}"


@pytest.fixture(autouse=True)
def no_environment(monkeypatch, tmp_path):
    for name in ("MOONGATE_URL", "MOONGATE_API_KEY", "MOONGATE_CONFIG", "MOONSHOT_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MOONGATE_HOME", str(tmp_path / "h"))
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.fixture
def say(capsys):
    """Run a command line; exit code, stdout, stderr."""

    def said(*argv: str) -> tuple[int, str, str]:
        code = run(argv)
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return code, out, err

    return said


def done(told: tuple[int, str, str]) -> str:
    code, out, err = told
    assert code == 0, out + err
    return out


def test_a_key_from_its_making_to_its_end(say):
    made = json.loads(done(say("keys", "create", "--name", "ci", "--account", "acme", "--json")))
    assert made["key"].startswith("mg-")
    plain = say("keys", "create", "--name", "laptop", "--expires", "2099-12-31")
    lines = done(plain).splitlines()
    assert lines[0].startswith("API key: mg-")
    assert lines[2:] == ["Account: default", "Expires: 2100-01-01 00:00 UTC"]
    assert plain[2] == (
        "It is shown once; only a hash of it is kept.\n"
        "Account default is new.\n"
        "It has no credit yet: moongate credit add default 5\n"
    )

    listed = done(say("keys", "list"))
    assert listed.splitlines()[0].split("  ")[0] == "Id"
    assert "until 2099-12-31" in listed
    assert made["key"] not in listed
    rows = json.loads(done(say("keys", "list", "--account", "acme", "--json")))["data"]
    assert [row["name"] for row in rows] == ["ci"]
    assert done(say("keys", "revoke", made["id"])) == f"{made['id']} (ci) is revoked.\n"
    assert json.loads(done(say("keys", "list", "--json")))["data"][0]["state"] == "revoked"
    assert say("keys", "revoke", "key_00") == (1, "", "moongate: There is no such key.\n")


def test_special_keys_are_listed_as_such(say):
    done(say("keys", "create", "--name", "a", "--admin", "--zero-retention", "--policy", "strict",
             "--models", "moonshotai/Kimi-K2.5"))  # fmt: skip
    assert "active, admin, strict, zero retention, only kimi-k2.5" in done(say("keys", "list"))


def test_credit(say):
    assert say("credit", "add", "acme", "$12.5") == (
        0,
        "Credited $12.50 to acme; available now: $12.50\n",
        "Account acme is new.\n",
    )
    assert "credit" not in say("keys", "create", "--name", "n", "--account", "acme")[2]
    shown = json.loads(done(say("credit", "show", "acme", "--json")))
    assert (shown["posted_nanos"], shown["held_nanos"], shown["available_nanos"]) == (
        12_500_000_000,
        0,
        12_500_000_000,
    )
    assert shown["available_usd"] == "12.50"
    assert done(say("credit", "show")).splitlines() == [
        "Account  Posted   Held  Available",
        "acme     $12.50  $0.00     $12.50",
    ]
    assert say("credit", "show", "nobody") == (1, "", "moongate: There is no such account.\n")
    assert say("keys", "list", "--account", "nobody") == say("credit", "show", "nobody")
    assert say("statement", "--account", "nobody") == say("credit", "show", "nobody")


def test_what_there_is_before_the_first_start(say):
    assert "first start of `moongate serve` makes one" in say("credit", "show")[2]
    assert "first start of `moongate serve` writes them" in say("prices", "list")[2]
    assert "moongate keys create" in say("keys", "list")[2]
    assert say("statement") == (0, "", "No charges in this span.\n")
    assert say("ask", "hi") == (
        1,
        "",
        (
            "moongate: No server runs on this home folder. Start one with `moongate serve`, or "
            "name another with MOONGATE_URL and MOONGATE_API_KEY.\n"
        ),
    )


def test_the_stand_in_is_told_on_its_card(say):
    card = done(say("models"))
    assert card.startswith("kimi-k2.5\n")
    assert "window       8,192 tokens" in card
    assert "is not Kimi" in card
    assert "$0.48 input, $0.10 cached, $2.00 output per million tokens" in card
    assert "1T total, 32B active per token, out 2026-01-27" in card
    (row,) = json.loads(done(say("models", "--json")))["data"]
    assert row["architecture"]["context_length"] == 262_144


def test_an_empty_statement_in_every_form(say):
    assert json.loads(done(say("statement", "--json")))["total"]["charge_nanos"] == 0
    rows = list(csv.DictReader(io.StringIO(done(say("statement", "--format", "csv")))))
    assert [row["day"] for row in rows] == ["total"]
    assert "forgiven_usd" in rows[0]


WRONG = [
    (("kyes",), 'There is no command "kyes". Did you mean "keys"?'),
    (("serve", "--prt", "1"), "No such option"),
    (("serve", "--port", "70000"), "70000 is not in the range"),
    (("keys", "create"), "Missing option '--name'"),
    (("keys", "create", "--name", "n", "--policy", "loose"), "'loose' is not one of"),
    (("keys", "revoke", "../x"), 'A key\'s id looks like "key_…"'),
    (("credit", "show", "a/b"), "An account is named with letters"),
    (("ask", " "), "The prompt is empty."),
    (("ask", "x", "--file", "no-such"), "does not exist"),
    (("statement", "--format", "xml"), "'xml' is not one of"),
    (
        ("statement", "--from", "soon"),
        "'--from': Use a day or a time, like 2026-01-27 (ISO 8601).\n",
    ),
    (("keys", "create", "--name", "n", "--expires", "soon"), "'--expires': Use a day"),
    (("keys", "create", "--name", " "), "'--name': A name has 1 to 80"),
    (("keys", "create", "--name", "n", "--models", "x"), "'--models': There is no such model.\n"),
    (("keys", "list", "--account", "a b"), "'--account': An account is named with letters"),
    (("credit", "add", "acme", "x"), "'USD': Use dollars above 0"),
    (("credit", "add", "acme", "NaN"), "'USD': Use dollars above 0"),
    (("credit", "add", "acme", "-5"), "an amount of credit cannot be negative"),
    (("credit", "add", "acme", "--", "-5"), "'USD': Use dollars above 0"),
    (("credit", "add", "acme", "5", "--tria"), "No such option"),
]


@pytest.mark.parametrize(("argv", "words"), WRONG, ids=[" ".join(argv) for argv, _ in WRONG])
def test_wrong_use_ends_with_2(say, argv, words, monkeypatch):
    monkeypatch.setenv("MOONGATE_URL", "http://127.0.0.1:9/v1")
    code, out, err = say(*argv)
    assert (code, out) == (2, "")
    assert words in err


ODD_PLACES = ["http://[bad", "http://x:99999/v1", "http://x:y", "http://a..b/", "moon", "http://u:p@x",
              "http://x/\u00e9", "ftp://x"]  # fmt: skip


@pytest.mark.parametrize("address", ODD_PLACES)
def test_an_address_that_is_none_is_told(say, monkeypatch, address):
    monkeypatch.setenv("MOONGATE_URL", address)
    code, out, err = say("ask", "x")
    assert (code, out) == (1, "")
    assert err.startswith("moongate: MOONGATE_URL takes ")


@pytest.mark.parametrize("key", ["mg-canary\nx", "mg-canary\u00e9", "mg-\x07canary"])
def test_a_key_that_is_none_is_told_and_never_shown(say, monkeypatch, key):
    monkeypatch.setenv("MOONGATE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("MOONGATE_API_KEY", key)
    code, out, err = say("ask", "x")
    assert (code, out) == (1, "")
    assert err.startswith("moongate: MOONGATE_API_KEY is no API key")
    assert "canary" not in err


def test_a_bad_configuration_is_a_message(say, tmp_path):
    file = tmp_path / "c.toml"
    file.write_text("[server]\nprot = 1\n")
    for argv in (("serve",), ("keys", "list"), ("models",)):
        code, out, err = say(*argv, "--config", str(file))
        assert (code, out) == (1, "")
        assert 'server.prot is not a setting; did you mean "port"?' in err
    code, out, err = say("doctor", "--config", str(file))
    assert code == 1
    assert "FAIL  configuration" in out
    assert out.endswith("1 failure, no warnings.\n")


def test_a_home_that_cannot_be_used_is_a_message(say, tmp_path):
    (tmp_path / "h").write_text("")
    for argv in (("keys", "list"), ("serve", "--port", "0")):
        code, _, err = say(*argv)
        assert code == 1
        assert "it is a file, not a folder" in err


def test_a_corrupt_store_is_a_message(say, tmp_path):
    done(say("keys", "list"))
    (tmp_path / "h" / "moongate.db").write_bytes(b"not a database" * 1000)
    code, _, err = say("keys", "list")
    assert code == 1
    assert "moongate.db" in err
    code, out, _ = say("doctor", "--json")
    broken = [check for check in json.loads(out)["checks"] if check["state"] == "broken"]
    assert (code, [check["name"] for check in broken]) == (1, ["store"])


def test_a_list_of_keys_fits_a_terminal(say, monkeypatch):
    monkeypatch.setattr("moongate.cli.screen._WIDE", 80)
    done(say("keys", "create", "--name", "laptop", "--expires", "2099-12-31"))
    done(say("keys", "create", "--name", "first"))
    lines = done(say("keys", "list")).splitlines()
    assert len(lines) == 3
    assert max(map(len, lines)) <= 80


def test_the_doctor_without_a_server(say, tmp_path):
    code, out, _ = say("doctor")
    assert code == 0, out
    assert "Configuration: the built-in default" in out
    for words in ("ok    store", "fsync", "ok    clock", "policy embedded", "No failures"):
        assert words in out
    # The stand-in's window and abilities, not those of the card that it stands in for.
    words = " ".join(out.split())
    assert "embedded serves a window of 8,192 tokens (its card: 262,144); json, " in words
    assert "; not, as its card has it: images, video" in words
    file = tmp_path / "c.toml"
    file.write_text(
        '[media]\nfetch = false\n[[upstreams]]\nname = "gone"\nkind = "openai"\n'
        'base_url = "http://127.0.0.1:9/v1"\napi_key_file = "key"\n'
    )
    (tmp_path / "key").write_text("sk-canary")
    code, out, _ = say("doctor", "--config", str(file), "--json")
    told = json.loads(out)
    assert (code, told["ok"]) == (1, False)
    (model,) = [check for check in told["checks"] if check["name"].startswith("model ")]
    assert model["detail"].startswith("gone serves a window of 262,144 tokens; images, ")
    assert "its card" not in model["detail"]
    states = {check["name"]: check["state"] for check in told["checks"]}
    assert (states["upstream gone"], states["policy gone"]) == ("broken", "warning")
    assert told["configuration"]["upstreams"][0]["api_key"] == "<secret>"
    assert "sk-canary" not in out


def test_every_command_has_help_with_an_example(say):
    pages = "\n".join(commands()).split("\n## ")[1:]
    assert {page.split()[1] for page in pages[1:] if page.split()[0] == "moongate"} >= set(COMMANDS)
    for page in pages:
        assert "Example:  moongate" in page, page
        assert "--help" in page
    assert "Example:" in done(say("--help"))
    assert done(say("--version")).startswith("moongate ")


def test_the_table_of_commands_says_what_each_says_itself():
    for name, words in COMMANDS.items():
        command = moongate.get_command(None, name)
        assert command is not None
        first = (command.help or "").replace("\n", " ").split(". ")[0].split(":")[0].rstrip(".")
        shown = words.rstrip(".")
        assert shown.split()[0] == first.split()[0], name


def test_help_is_quick_and_loads_no_server():
    code = (
        "import sys; from moongate.cli import run; run(['--help']); "
        "heavy = {'aiohttp', 'apsw', 'asyncio', 'rich', 'uvloop'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    begin = time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=30)
    assert time.monotonic() - begin < 5


def test_a_closed_pipe_is_quiet():
    script = f"'{sys.executable}' -m moongate statement --format csv | true; exit 0"
    for _ in range(2):
        ended = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=60)
        assert ended.stderr == ""


def test_a_second_writer_on_the_store_is_told_whose_it_is(say, tmp_path):
    done(say("keys", "list"))
    holder = (
        "import asyncio, sys; from pathlib import Path\n"
        "from moongate.store.sqlite import SqliteStore\n"
        "async def hold():\n"
        "    store = SqliteStore(Path(sys.argv[1])); await store.open()\n"
        "    print('held', flush=True); await asyncio.to_thread(sys.stdin.read)\n"
        "    await store.close()\n"
        "asyncio.run(hold())\n"
    )
    file = tmp_path / "h" / "moongate.db"
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        told = [say("keys", "list"), say("serve", "--port", "0")]
        assert other.stdin is not None
        other.stdin.close()
        other.wait(20)
    for code, _, err in told:
        assert code == 1
        assert str(other.pid) in err


def test_python_m_moongate_is_the_same():
    ended = subprocess.run(
        [sys.executable, "-m", "moongate", "--version"], capture_output=True, text=True, timeout=60
    )
    assert ended.stdout.startswith("moongate ")
    assert Path(sys.executable).exists()


def test_a_home_that_is_not_ours_to_enter_is_a_message(say, tmp_path, monkeypatch):
    (tmp_path / "h").mkdir()

    def closed(*_):
        raise PermissionError(13, "Permission denied")

    # Root may enter every folder, so the system's answers are given here.
    monkeypatch.setattr("socket.socket.connect", closed)
    monkeypatch.setattr("os.access", lambda *_: False)
    for argv in (("keys", "list"), ("doctor",), ("ask", "x")):
        code, out, err = say(*argv, "--home", str(tmp_path / "h"))
        assert (code, out) == (1, "")
        assert "--home or MOONGATE_HOME" in err
