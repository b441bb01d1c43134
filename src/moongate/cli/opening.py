"""What `serve` says: lines for people, or one JSON object per event for scripts.

The lines ``API key: …`` and ``API: …`` are a promise: scripts read them. They, and everything
that a person should keep, go to stdout; progress goes to stderr.
"""

import json
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from moongate import __version__
from moongate.cli import screen
from moongate.core.errors import ConfigurationError
from moongate.home import Home

_SNIPPET = """\
  from openai import OpenAI

  client = OpenAI(
      api_key="{key}",
      base_url="{api}",
  )
  answer = client.chat.completions.create(
      model="{model}",
      messages=[{{"role": "user", "content": "Name three moons."}}],
  )
  print(answer.choices[0].message.content)
"""
_TENTHS = 10


class Announcer:
    """Takes the events of a running server and prints them as they come."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._key = ""
        self._bar: Progress | None = None
        self._tenth = -1

    def __call__(self, event: dict[str, Any]) -> None:
        """Print one event. An event that is not known is printed in JSON only."""
        if self._as_json:
            _line(json.dumps(event, ensure_ascii=False))
            return
        if event["event"] != "progress":
            self._end_progress()
        tell: dict[str, Callable[[dict[str, Any]], None]] = {
            "progress": self._progress,
            "key": self._remember,
            "note": lambda said: screen.show_note(said["text"]),
            "ready": self._ready,
            "draining": _draining,
            "stopped": lambda _: _line("Stopped."),
        }
        known = tell.get(event["event"])
        if known is not None:
            known(event)

    def _remember(self, event: dict[str, Any]) -> None:
        """Keep the new key for the snippet, and print its line."""
        self._key = event["key"]
        _line(
            f"Moongate {__version__}: first start, with trial credit on account {event['account']}."
        )
        _line("")
        _line(f"API key: {self._key}")
        _line("It is shown this once: only a hash of it is kept.")

    def _ready(self, event: dict[str, Any]) -> None:
        if not self._key:
            _line(f"Moongate {__version__}")
            _line("")
        _line(f"API: {event['api']}")
        if event.get("console"):
            _line(f"Console: {event['console']}")
        for model in event["models"]:
            _line(f"Model: {model['id']}, answered by upstream {model['upstream']}")
            if model.get("stand_in"):
                screen.show_note(model["stand_in"])
        if event.get("workers"):
            _line(f"Workers: {event['workers']}")
        _line("")
        if self._key and event["models"]:
            _line("Try it (pip install openai):")
            _line("")
            _line(_SNIPPET.format(key=self._key, api=event["api"], model=event["models"][0]["id"]))
            ask = told_command("ask", event.get("home"))
            _line(f'Or in another terminal:  {ask} "Name three moons."')
        else:
            create = told_command("keys create", event.get("home"))
            _line(f"Another key:  {create} --name NAME")
        _line("Ctrl-C stops; running answers get time to end.")

    def _progress(self, event: dict[str, Any]) -> None:
        """A bar on a terminal, else a line for each tenth."""
        done, total = int(event["done"]), int(event["total"])
        if not sys.stderr.isatty():
            tenth = _TENTHS * done // total if total else 0
            if tenth != self._tenth:
                self._tenth = tenth
                share = f"{tenth * 10}% of {total / 1e6:.0f} MB" if total else f"{done:,} bytes"
                click.echo(f"Fetching the {event['what']}: {share}", err=True)
            return
        if self._bar is None:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
                console=screen.console(err=True),
            )
            self._bar.add_task(f"Fetching the {event['what']}", total=total or None)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=done, total=total or None)

    def _end_progress(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def told_command(words: str, home: str | None) -> str:
    """A command as another terminal takes it: found, and on the same home folder."""
    script = Path(sys.argv[0]).absolute()
    parts = ["moongate"]
    if shutil.which("moongate") is None:
        named = script.name == "moongate" and script.is_file()
        parts = [str(script)] if named else [sys.executable, "-m", "moongate"]
    parts += words.split()
    if home and Path(home) != _usual_home():
        parts += ["--home", home]
    return shlex.join(parts)


def _usual_home() -> Path | None:
    """The home folder that a command takes when nobody names one."""
    try:
        return Home.chosen(None, {}).path
    except ConfigurationError:
        return None


def _draining(event: dict[str, Any]) -> None:
    running = int(event.get("running", 0))
    wait = f", {running} answer{'s' * (running != 1)} still running" if running else ""
    _line(f"Stopping{wait}. Ctrl-C again stops at once." if running else "Stopping.")


def _line(text: str) -> None:
    """One line on stdout, there at once even when stdout is a file or a pipe."""
    click.echo(text)
    sys.stdout.flush()
