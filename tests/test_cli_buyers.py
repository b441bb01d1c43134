"""The commands for buyers over the embedded store: rotation, rates, budgets, invitations."""

import json
import re

import pytest

from moongate.cli import run

KEY = r"mg-[0-9A-Za-z]{33}"


@pytest.fixture
def say(capsys, monkeypatch, tmp_path):
    """Run a command line; exit code, stdout, stderr."""
    for name in ("MOONGATE_URL", "MOONGATE_API_KEY", "MOONGATE_CONFIG", "MOONSHOT_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MOONGATE_HOME", str(tmp_path / "h"))
    monkeypatch.setenv("NO_COLOR", "1")

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


def made(say, *more: str) -> dict:
    return json.loads(done(say("keys", "create", "--name", "ci", "--json", *more)))


def words(line: str) -> list[str]:
    return re.split(r"\s{2,}", line.strip())


def test_a_key_with_project_rates_and_a_budget(say):
    lines = done(
        say(
            "keys", "create", "--name", "ci", "--account", "acme", "--project", "web",
            "--budget", "$2.50", "--per", "day", "--rpm", "60", "--tpm", "100000",
            "--concurrency", "none",
        )
    ).splitlines()  # fmt: skip
    assert lines[2:] == ["Account: acme", "Budget:  $2.50 per day"]
    listed = done(say("keys", "list"))
    assert "acme/web" in listed
    assert "active, 60 requests/min, 100,000 tokens/min, $0.00 of $2.50 per day" in listed
    row = made(say, "--budget", "5")
    assert [(cap["per"], cap["cap_usd"]) for cap in row["budgets"]] == [("month", "5.00")]
    assert say("keys", "create", "--name", "n", "--per", "day")[0] == 2
    for wrong in (("--rpm", "-1"), ("--rpm", "few"), ("--budget", "lots"), ("--per", "year")):
        code, _, err = say("keys", "create", "--name", "n", "--budget", "1", *wrong)
        assert code == 2
        assert wrong[0] in err


def test_a_key_is_rotated(say):
    row = made(say)
    code, out, err = say("keys", "rotate", row["id"], "--overlap", "1")
    assert code == 0
    assert re.fullmatch(rf"API key: {KEY}\n", out)
    assert row["key"] not in out
    assert err.startswith(
        "It is shown once; only a hash of it is kept.\nThe secret before it works"
    )
    assert "has ended" in say("keys", "rotate", row["id"], "--overlap", "0")[2]
    turned = json.loads(done(say("keys", "rotate", row["id"], "--json")))
    assert (turned["id"], turned["name"]) == (row["id"], "ci")
    code, _, err = say("keys", "rotate", row["id"], "--overlap", "721")
    assert code == 2
    assert "'--overlap': Use a number from 0 to 720." in err
    assert say("keys", "rotate", "../x")[0] == 2
    assert say("keys", "rotate", "key_00") == (1, "", "moongate: There is no such key.\n")
    done(say("keys", "revoke", row["id"]))
    assert say("keys", "rotate", row["id"])[2] == (
        "moongate: This key has ended; create another.\n"
    )


def test_rates_of_keys_and_accounts(say):
    row = made(say)
    lines = done(say("keys", "limit", row["id"], "--rpm", "60", "--tpm", "1000")).splitlines()
    assert words(lines[0]) == ["Id", "Name", "Requests/min", "Tokens/min", "At once"]
    assert words(lines[1]) == [row["id"], "ci", "60", "1,000", "-"]
    told = json.loads(done(say("keys", "limit", row["id"], "--tpm", "none", "--json")))
    assert (told["rpm"], told["tpm"]) == (60, None)
    lines = done(say("accounts", "limit", "default", "--concurrency", "4")).splitlines()
    assert words(lines[1]) == ["default", "$0.00", "-", "-", "4"]
    assert done(say("accounts", "list")).splitlines()[1] == lines[1]
    assert json.loads(done(say("accounts", "list", "--json")))["data"][0]["concurrency"] == 4
    for argv in (("keys", "limit", row["id"]), ("accounts", "limit", "default")):
        code, _, err = say(*argv)
        assert code == 2
        assert "Say which rate" in err
    assert say("accounts", "limit", "nobody", "--rpm", "1")[0] == 1


def test_budgets_are_set_shown_and_removed(say):
    row = made(say, "--account", "acme")
    assert "No budgets yet." in say("budgets", "list")[2]
    lines = done(say("budgets", "set", "--account", "acme", "--per", "month", "20")).splitlines()
    assert words(lines[0]) == ["Budget of", "Per", "Since", "Cap", "Spent", "Held", "Left"]
    assert words(lines[1])[:2] == ["account acme", "month"]
    assert words(lines[1])[3:] == ["$20.00", "$0.00", "$0.00", "$20.00"]
    done(say("budgets", "set", "--key", row["id"], "--per", "life", "$1.5"))
    told = json.loads(
        done(say("budgets", "set", "--project", "acme/web", "--per", "week", "3", "--json"))
    )
    assert (told["scope"], told["subject"], told["cap_nanos"]) == (
        "project",
        "acme/web",
        3_000_000_000,
    )
    listed = done(say("budgets", "list", "--account", "acme"))
    assert len(listed.splitlines()) == 4
    assert "-" in words(listed.splitlines()[2])
    gone = done(say("budgets", "remove", "--account", "acme"))
    assert gone == "account acme has no budget per month any more.\n"
    assert say("budgets", "remove", "--account", "acme") == (
        1,
        "",
        "moongate: There is no such budget.\n",
    )
    assert len(json.loads(done(say("budgets", "list", "--json")))["data"]) == 2
    for wrong in (
        ("set", "5"),
        ("set", "--account", "acme", "--key", row["id"], "5"),
        ("set", "--account", "acme", "lots"),
        ("set", "--project", "web", "5"),
    ):
        assert say("budgets", *wrong)[0] == 2


def test_an_invitation_is_a_link_shown_once(say, tmp_path):
    code, out, err = say("accounts", "invite", "acme", "--credit", "$5")
    assert code == 0
    assert re.fullmatch(r"http://127\.0\.0\.1:8000/join#mgi-[0-9A-Za-z]{33}\n", out)
    assert err.startswith("Account acme is new.\nIt is shown once, works once, and until ")
    assert "set server.public_url" in err
    assert json.loads(done(say("credit", "show", "acme", "--json")))["posted_nanos"] == 5 * 10**9
    file = tmp_path / "c.toml"
    file.write_text('[server]\npublic_url = "https://api.example/"\n')
    code, out, err = say(
        "accounts", "invite", "acme", "--name", "b", "--expires", "1", "--config", str(file)
    )
    assert out.startswith("https://api.example/join#mgi-")
    assert "public_url" not in err
    listed = done(say("accounts", "invites", "acme"))
    assert "mgi-" not in listed
    assert [words(line)[:3] for line in listed.splitlines()[1:]] == [
        ["acme", "acme", "open"],
        ["acme", "b", "open"],
    ]
    assert say("accounts", "invites", "nobody")[0] == 1
    assert say("accounts", "invite", "a/b")[0] == 2
    assert say("accounts", "invite", "acme", "--credit", "lots")[0] == 2
    assert say("accounts", "invite", "acme", "--expires", "9999")[0] == 2
