"""``moongate ask``: one answer. Text on stdout; thinking and cost on stderr."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from moongate.cli import options, packing, screen
from moongate.cli.desk import Desk
from moongate.cli.line import Line, Refusal, Unanswered, refusal
from moongate.core.errors import UpstreamProtocolError
from moongate.core.money import nanos_to_usd
from moongate.wire.sse import DONE, Events

_URL = "http://127.0.0.1:8000/v1"


@click.command("ask", epilog='Example:  moongate ask "What does this do?" --file app.py')
@click.argument("prompt")
@click.option(
    "--file",
    "files",
    multiple=True,
    metavar="F",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Text file to send along; may be given several times.",
)
@click.option(
    "--image",
    "images",
    multiple=True,
    metavar="F",
    help='Picture to look at: a file, an http(s) address, or "-" for stdin; may be given several '
    "times.",
)
@click.option(
    "--schema",
    metavar="F",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="File with a JSON Schema: the answer is JSON that fits it.",
)
@click.option("--system", metavar="S", help="System message.")
@click.option("--model", metavar="M", help="Model.  [default: the first on offer]")
@click.option("--no-stream", is_flag=True, help="Print the answer when it is whole.")
@click.option("--json", "as_json", is_flag=True, help="Print the API's answer as JSON.")
@options.place
def command(
    *,
    prompt: str,
    files: tuple[Path, ...],
    images: tuple[str, ...],
    schema: Path | None,
    system: str | None,
    model: str | None,
    no_stream: bool,
    as_json: bool,
    home: Path | None,
    config: Path | None,
) -> None:
    """Ask the model for one answer. PROMPT "-" is read from stdin.

    Beside a running server no key is needed: the call is billed to the account "default".
    MOONGATE_URL and MOONGATE_API_KEY name another server and a key; the key alone goes to
    the server that runs here.
    """
    asked = {"role": "user", "content": packing.packed(prompt, files, images)}
    form = packing.schema(schema)
    line = _line(options.desk(home, config))
    messages = [{"role": "system", "content": system}, asked] if system else [asked]
    body: dict[str, Any] = {"model": model or _first(line), "messages": messages, **form}
    if no_stream or as_json:
        answer = line.call("POST", "/v1/chat/completions", body=body)
        if as_json:
            screen.show_json(answer)
        else:
            _whole(answer)
        return
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    with line.exchange("POST", "/v1/chat/completions", body=body) as pieces:
        _streamed(pieces)


def _line(desk: Desk) -> Line:
    """To the server that the environment names, else to the one that runs here."""
    url, key = os.environ.get("MOONGATE_URL"), os.environ.get("MOONGATE_API_KEY")
    if url or key:
        return Line(url or _here(desk) or _URL, key)
    local = desk.line(900.0)
    if local is None:
        raise Unanswered(
            "No server runs on this home folder. Start one with `moongate serve`, or name "
            "another with MOONGATE_URL and MOONGATE_API_KEY."
        )
    return local


def _here(desk: Desk) -> str | None:
    """The address of the server that runs on this home folder, if one does and tells it."""
    try:
        told = desk.server()
    except Unanswered:
        return None
    return str(told["api"]) if told and told.get("api") else None


def _first(line: Line) -> str:
    models = line.call("GET", "/v1/models")["data"]
    if not models:
        raise Refusal("The server offers no model.")
    return str(models[0]["id"])


def _whole(answer: dict[str, Any]) -> None:
    message = answer["choices"][0]["message"]
    _thinking(message.get("reasoning_content") or "", end="\n")
    click.echo(message.get("content") or "")
    _cost(answer.get("usage"), answer["choices"][0].get("finish_reason"), answer)


def _streamed(pieces: Iterator[bytes]) -> None:
    """Print a stream as it comes. Raises Refusal when it ends in an error event."""
    usage: dict[str, Any] | None = None
    finish, last, thought = None, {}, False
    for chunk in _chunks(pieces):
        last = chunk
        usage = chunk.get("usage") or usage
        for choice in chunk.get("choices", ()):
            delta = choice.get("delta") or {}
            if thinking := delta.get("reasoning_content"):
                thought = True
                _thinking(thinking)
            if text := delta.get("content"):
                if thought:
                    click.echo("\n", err=True)
                    thought = False
                click.echo(text, nl=False)
                sys.stdout.flush()
            finish = choice.get("finish_reason") or finish
            usage = choice.get("usage") or usage
    click.echo("")
    _cost(usage, finish, last)


def _chunks(pieces: Iterator[bytes]) -> Iterator[dict[str, Any]]:
    events, done = Events(), False
    try:
        for piece in pieces:
            for payload in events.feed(piece):
                if payload == DONE:
                    done = True
                    continue
                chunk = json.loads(payload)
                if "error" in chunk:
                    click.echo("")
                    raise refusal(chunk["error"])
                yield chunk
    except (UpstreamProtocolError, ValueError):
        raise Unanswered("The server's stream is not one of this API.") from None
    if not done:
        click.echo("")
        raise Unanswered("The answer broke off: the server or the line went away.")


def _thinking(text: str, end: str = "") -> None:
    if text:
        click.secho(text + end, err=True, nl=False, dim=screen.colours(err=True))
        sys.stderr.flush()


def _cost(usage: dict[str, Any] | None, finish: str | None, answer: dict[str, Any]) -> None:
    """One line about what was used, what it cost, and who answered."""
    if usage is None:
        return
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    parts = [
        f"{usage['prompt_tokens']} tokens in ({cached} cached)",
        f"{usage['completion_tokens']} out",
    ]
    if isinstance(usage.get("cost_nanos"), int):
        parts.append(f"${nanos_to_usd(usage['cost_nanos'])}")
    served = answer.get("model", "")
    mark = answer.get("system_fingerprint")
    parts.append(f"{served} ({mark})" if mark else served)
    click.secho(", ".join(parts), err=True, dim=screen.colours(err=True))
    if finish == "length":
        click.echo("The answer was cut: its token limit was reached.", err=True)
