"""The commands beside a running server, over its admin socket; `ask`, and what `serve` prints."""

import asyncio
import io
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from moongate.cli import run
from moongate.cli.opening import Announcer, told_command
from moongate.core.money import charge
from moongate.upstream.scripted import ScriptedServer
from serving_kit import ONE_UPSTREAM, Served, serve

MOONS = """
think Moons.
text Io, Europa,
text  Ganymede.
usage prompt=120 cached=40 completion=17 reasoning=3 at=both
finish stop
"""
CUT = """
text Io
cut
"""


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    for name in ("MOONGATE_URL", "MOONGATE_API_KEY", "MOONGATE_CONFIG", "MOONGATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.fixture
def say(capsys, tmp_path):
    """Run a command line in a thread, so that the test's loop can serve it."""

    async def said(*argv: str) -> tuple[int, str, str]:
        home = ("--home", str(tmp_path / "home"))
        code = await asyncio.to_thread(run, [*argv, *home])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return code, out, err

    return said


async def served_with(tmp_path: Path, scripted: ScriptedServer):
    return serve(tmp_path, ONE_UPSTREAM.format(kind="moonshot", base_url=scripted.base_url))


async def test_ask_then_statement_then_wallet_agree(tmp_path, say):
    async with ScriptedServer(MOONS) as scripted, await served_with(tmp_path, scripted) as served:
        before, _ = await served.wallet()
        code, out, err = await say("ask", "Name three moons", "--no-stream")
        assert (code, out) == (0, "Io, Europa, Ganymede.\n")
        assert err.startswith("Moons.\n120 tokens in (40 cached), 17 out, $0.0000764, kimi-k2.5")
        code, streamed, err = await say("ask", "Name three moons", "--system", "Be brief.")
        assert (code, streamed) == (0, "Io, Europa, Ganymede.\n")
        assert "Moons." in err
        assert "$0.0000764" in err
        code, out, _ = await say("ask", "Name three moons", "--json")
        assert json.loads(out)["usage"]["cost_nanos"] == 76_400

        code, out, _ = await say("statement", "--json")
        (line,) = json.loads(out)["data"]
        price = (await served.app.store.prices())[0].price
        rows = await served.usage()
        assert (line["key_name"], line["requests"]) == ("local", 3)
        assert line["charge_nanos"] == sum(charge(row.usage, price) for row in rows) == 3 * 76_400
        _, out, _ = await say("credit", "show", "default", "--json")
        assert before - json.loads(out)["posted_nanos"] == line["charge_nanos"]
        _, out, _ = await say("statement")
        assert out.splitlines()[0].split() == [
            "Day", "Key", "Model", "Requests", "Uncached", "Cached", "Output",
            *("Saved", "by", "cache"), "USD",
        ]  # fmt: skip
        total = ["Total", "3", "240", "120", "51", "0.0000456", "0.0002292"]
        assert out.splitlines()[-1].split() == total
        _, out, _ = await say("statement", "--each")
        assert out.count("kimi-k2.5  done") == 3


async def test_what_ask_sends(tmp_path, say):
    (tmp_path / "a.py").write_text("print('a')\n")
    (tmp_path / "b.bin").write_bytes(b"\xff\xfe")
    async with ScriptedServer(MOONS) as scripted, await served_with(tmp_path, scripted):
        done = await say("ask", "What?", "--file", str(tmp_path / "a.py"), "--system", "S")
        assert done[0] == 0
        sent = scripted.requests[-1].body["messages"]
        assert sent == [
            {"role": "system", "content": "S"},
            {"role": "user", "content": f"--- {tmp_path}/a.py ---\nprint('a')\n\n\nWhat?"},
        ]
        code, _, err = await say("ask", "What?", "--file", str(tmp_path / "b.bin"))
        assert code == 2
        assert "is not UTF-8 text." in err


async def test_ask_by_address_and_key(tmp_path, say, monkeypatch):
    async with ScriptedServer(MOONS) as scripted, await served_with(tmp_path, scripted) as served:
        monkeypatch.setenv("MOONGATE_URL", served.url)
        monkeypatch.setenv("MOONGATE_API_KEY", served.key)
        assert (await say("ask", "x"))[:2] == (0, "Io, Europa, Ganymede.\n")
        assert (await served.usage())[-1].key != "key_local"
        monkeypatch.setenv("MOONGATE_API_KEY", "mg-wrong")
        code, out, err = await say("ask", "x")
        assert (code, out) == (1, "")
        assert err == "moongate: Incorrect API key provided. [invalid_api_key]\n"
        monkeypatch.setenv("MOONGATE_URL", "http://127.0.0.1:9/v1")
        assert "is not there: nothing listens. Is it running?" in (await say("ask", "x"))[2]
        monkeypatch.setenv("MOONGATE_URL", "moon")
        assert "MOONGATE_URL takes an address" in (await say("ask", "x"))[2]


async def test_an_answer_that_fails_is_told_and_costs_nothing(tmp_path, say):
    async with ScriptedServer(CUT) as scripted, await served_with(tmp_path, scripted) as served:
        for how in ((), ("--no-stream",)):
            code, _, err = await say("ask", "x", *how)
            assert code == 1
            assert err.startswith("moongate: The model")
            assert "Nothing was charged. See `moongate doctor`." in err
        code, _, err = await say("ask", "x", "--model", "nope")
        assert err.startswith("moongate: The model does not exist or is not available.")
        assert sum(row.charge_nanos for row in await served.usage()) == 0


async def operate(say, served: Served) -> None:
    code, out, _ = await say("keys", "create", "--name", "ci", "--json")
    made = json.loads(out)
    assert code == 0
    assert (await served.app.keys.identify(made["key"])).key == made["id"]
    assert (await say("keys", "revoke", made["id"]))[0] == 0
    answer = await served.post({"model": "kimi-k2.5"}, authorization=f"Bearer {made['key']}")
    assert answer.status == 401
    assert (await say("credit", "add", "acme", "3"))[1].startswith("Credited $3.00 to acme")
    assert (await served.wallet("acme"))[0] == 3_000_000_000


async def test_every_command_works_beside_the_server(tmp_path, say):
    async with ScriptedServer(MOONS) as scripted, await served_with(tmp_path, scripted) as served:
        await operate(say, served)
        for argv in (("models",), ("prices", "list"), ("keys", "list"), ("credit", "show")):
            code, out, err = await say(*argv)
            assert (code, err.count("moongate:")) == (0, 0)
            assert out
        code, out, err = await say("doctor", "--config", str(tmp_path / "moongate.toml"))
        assert code == 0, out + err
        assert re.search(r"ok    server +running here", out)
        assert "ok    upstream moonshot" in out


async def test_the_doctor_and_ask_take_the_running_servers_word(tmp_path, say, monkeypatch):
    async with ScriptedServer(MOONS) as scripted, await served_with(tmp_path, scripted) as served:
        served.app.office.means.about = lambda: {
            "pid": 4711,
            "version": "0",
            "api": served.url,
            "configuration_from": served.app.settings.origin,
            "configuration": served.app.settings.effective(),
        }
        code, out, _ = await say("doctor")
        assert code == 0, out
        assert f"running here: {served.url}, process 4711" in " ".join(out.split())
        assert f"Configuration: {served.app.settings.origin}\n" in out
        assert f'base_url = "{scripted.base_url}"' in out
        file = tmp_path / "other.toml"
        file.write_text("[server]\ndrain_s = 7.0\n")
        code, out, _ = await say("doctor", "--json", "--config", str(file))
        told = json.loads(out)
        assert (code, told["from"]) == (0, served.app.settings.origin)
        assert told["configuration"]["server"]["drain_s"] != 7.0
        (check,) = [one for one in told["checks"] if one["name"] == "configuration"]
        assert "says otherwise than the server that runs" in check["detail"]
        # A key alone goes to the server of this home folder; an address needs no path.
        monkeypatch.setenv("MOONGATE_API_KEY", f" {served.key}\n")
        assert (await say("ask", "x"))[:2] == (0, "Io, Europa, Ganymede.\n")
        assert (await served.usage())[-1].key != "key_local"
        monkeypatch.setenv("MOONGATE_URL", served.url.removesuffix("/v1"))
        assert (await say("ask", "x"))[0] == 0


# What serve prints.
KEY = "mg-" + "0" * 33
READY = {
    "event": "ready",
    "api": "http://127.0.0.1:8000/v1",
    "console": None,
    "models": [{"id": "kimi-k2.5", "upstream": "embedded", "stand_in": "It is not Kimi."}],
}
FIRST = f"""\
Moongate 0.1.0: first start, with trial credit on account default.

API key: {KEY}
It is shown this once: only a hash of it is kept.
API: http://127.0.0.1:8000/v1
Model: kimi-k2.5, answered by upstream embedded
  ! It is not Kimi.

Try it (pip install openai):

  from openai import OpenAI

  client = OpenAI(
      api_key="{KEY}",
      base_url="http://127.0.0.1:8000/v1",
  )
  answer = client.chat.completions.create(
      model="kimi-k2.5",
      messages=[{{"role": "user", "content": "Name three moons."}}],
  )
  print(answer.choices[0].message.content)

Or in another terminal:  moongate ask "Name three moons."
Ctrl-C stops; running answers get time to end.
"""


def test_the_first_start_says_what_a_person_needs(capsys, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/moongate")
    announce = Announcer(as_json=False)
    for done in (0, 40, 100):
        announce({"event": "progress", "what": "model", "done": done, "total": 100})
    announce({"event": "key", "account": "default", "key": KEY})
    announce(READY)
    out, err = capsys.readouterr()
    assert out == FIRST
    assert err.splitlines() == [
        f"Fetching the model: {share}% of 0 MB" for share in ("0", "40", "100")
    ]


def test_a_command_is_told_as_another_terminal_takes_it(monkeypatch, tmp_path):
    script = tmp_path / "a b" / "moongate"
    script.parent.mkdir()
    script.touch()
    monkeypatch.setattr("sys.argv", [str(script), "serve"])
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/moongate")
    assert told_command("ask", str(Path.home() / ".moongate")) == "moongate ask"
    assert told_command("ask", "/srv/h") == "moongate ask --home /srv/h"
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert told_command("ask", None) == f"'{script}' ask"
    monkeypatch.setattr("sys.argv", ["/x/moongate/__main__.py", "serve"])
    assert told_command("keys create", None) == f"{sys.executable} -m moongate keys create"


def test_a_later_start_shows_no_key(capsys):
    announce = Announcer(as_json=False)
    announce(READY)
    announce({"event": "note", "text": "Upstream x does not answer."})
    announce({"event": "unheard-of"})
    announce({"event": "draining", "running": 2})
    announce({"event": "stopped"})
    out = capsys.readouterr().out
    assert "api_key" not in out
    assert out.splitlines()[:3] == ["Moongate 0.1.0", "", "API: http://127.0.0.1:8000/v1"]
    assert out.splitlines()[-3:] == [
        "  ! Upstream x does not answer.",
        "Stopping, 2 answers still running. Ctrl-C again stops at once.",
        "Stopped.",
    ]


def test_json_is_one_object_per_event(capsys):
    announce = Announcer(as_json=True)
    announce(READY)
    announce({"event": "stopped"})
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line) for line in lines] == [READY, {"event": "stopped"}]


async def test_serve_from_start_to_sigterm(tmp_path):
    async with ScriptedServer(MOONS) as scripted:
        file = tmp_path / "c.toml"
        file.write_text(ONE_UPSTREAM.format(kind="moonshot", base_url=scripted.base_url))
        argv = [sys.executable, "-m", "moongate", "serve", "--config", str(file)]
        env = {**os.environ, "MOONGATE_HOME": str(tmp_path / "h")}
        with subprocess.Popen(
            argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as server:
            assert isinstance(server.stdout, io.TextIOBase)
            seen = {}
            while "api" not in seen:
                line = await asyncio.to_thread(server.stdout.readline)
                assert line, server.stderr.read() if server.stderr else ""
                if found := re.fullmatch(r"API key: (mg-[0-9A-Za-z]{32,})\n", line):
                    seen["key"] = found[1]
                if found := re.fullmatch(r"API: (http://127\.0\.0\.1:\d+/v1)\n", line):
                    seen["api"] = found[1]
            request = urllib.request.Request(
                seen["api"] + "/models", headers={"authorization": f"Bearer {seen['key']}"}
            )
            with await asyncio.to_thread(urllib.request.urlopen, request, timeout=20) as answer:
                assert json.load(answer)["data"][0]["id"] == "kimi-k2.5"
            server.send_signal(signal.SIGTERM)
            rest, err = await asyncio.to_thread(server.communicate, None, 30)
        assert server.returncode == 0
        assert rest.endswith("Stopped.\n")
        assert "Traceback" not in err
