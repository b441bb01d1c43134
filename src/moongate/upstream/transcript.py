r"""The transcript language of the scripted upstream: one line, one thing that the wire shows.

::

    # a comment; `---` alone on a line begins the next turn
    think The user wants moons.        a piece of reasoning
    text Io, Europa                    a piece of content; "…" takes JSON escapes: "a\nb"
    tool get_weather {"city":"Oslo"}   a whole tool call, its arguments in pieces
    tool get_weather                   opens a call; `args` lines follow
    args {"city":                      arguments of the latest call; `args#0 …` names a call
    usage prompt=12 cached=4 completion=9 reasoning=3 at=both
    finish stop                        why; without it `tool_calls` after a tool, else `stop`
    delay 0.2                          silence of so many seconds at this point
    comment keep-alive                 an SSE comment line
    garbage "\u0000{"                  these characters on the wire, as they are
    error-in-stream server_error Oops  an error object inside the stream, which then ends
    cut                                the connection breaks here
    silence                            nothing more, and the connection stays open
    no-done                            the stream ends without its end mark
    hold 0.5                           silence before the head; `hold forever`
    hangup                             the connection breaks before the head
    error 429 engine_overloaded_error retry-after=2 The engine is overloaded
    status 500                         a bare status with an HTML body
    reply 200 application/json {}      any status, content type and body instead of a stream

Pure: text in, frozen steps out. It refuses to know HTTP and JSON frames.
"""

import json
from typing import Final, Literal

import msgspec

from moongate.core.sealed import Sealed

Placement = Literal["choice", "top", "both", "nested", "every", "none"]
PLACEMENTS: Final = ("choice", "top", "both", "nested", "every", "none")


class TranscriptError(ValueError):
    """A line that is not of the language: its number and what was expected."""


class Think(Sealed, frozen=True):
    """A piece of reasoning."""

    text: str


class Say(Sealed, frozen=True):
    """A piece of content."""

    text: str


class Open(Sealed, frozen=True):
    """A tool call begins."""

    name: str


class Args(Sealed, frozen=True):
    """A piece of arguments; ``call`` is the call's index, ``None`` the latest."""

    text: str
    call: int | None = None


class Tokens(msgspec.Struct, frozen=True):
    """What the answer claims to have used (tokens; ``None``: reckon it), and ``at`` which place."""

    prompt: int | None = None
    cached: int | None = None
    completion: int | None = None
    reasoning: int | None = None
    at: Placement | None = None


class Finish(msgspec.Struct, frozen=True):
    """The finish reason, any word."""

    reason: str


class Delay(msgspec.Struct, frozen=True):
    """Silence; ``None`` is for good."""

    seconds: float | None


class Raw(Sealed, frozen=True):
    """Characters that go on the wire as they are."""

    text: str


class Break(Sealed, frozen=True):
    """An error object inside the stream."""

    type: str
    message: str


class Cut(msgspec.Struct, frozen=True):
    """The connection breaks."""


class NoDone(msgspec.Struct, frozen=True):
    """The stream ends without its end mark."""


class Reply(Sealed, frozen=True):
    """An HTTP answer that is no stream. ``status`` 0 breaks the connection instead."""

    status: int
    content_type: str = "text/html"
    body: str = ""
    retry_after: str | None = None


Step = Think | Say | Open | Args | Tokens | Finish | Delay | Raw | Break | Cut | NoDone


class Turn(Sealed, frozen=True):
    """One answer: silence before its head (seconds, ``None`` for good), then steps or a reply."""

    steps: tuple[Step, ...] = ()
    reply: Reply | None = None
    hold_s: float | None = 0.0


def parse(script: str) -> tuple[Turn, ...]:
    """The turns of a transcript. Raises TranscriptError naming the line."""
    turns: list[Turn] = []
    steps: list[Step | Reply | _Hold] = []
    lines = script.splitlines()
    for number, line in enumerate([*lines, "---"], 1):
        stripped = line.strip()
        if stripped == "---":
            if steps or number <= len(lines):
                turns.append(_turn(steps))
            steps = []
        elif stripped and not stripped.startswith("#"):
            word, _, rest = line.lstrip().partition(" ")
            try:
                steps.extend(_step(word, rest))
            except (ValueError, IndexError) as error:
                raise TranscriptError(f"line {number}: {error}") from None
    return tuple(turns)


class _Hold(msgspec.Struct, frozen=True):
    seconds: float | None


def _turn(steps: "list[Step | Reply | _Hold]") -> Turn:
    reply = next((step for step in steps if isinstance(step, Reply)), None)
    hold = next((step for step in steps if isinstance(step, _Hold)), _Hold(0.0))
    shown = tuple(step for step in steps if not isinstance(step, Reply | _Hold))
    return Turn(shown, reply, hold.seconds)


def _step(word: str, rest: str) -> "list[Step | Reply | _Hold]":
    match word.partition("#")[0]:
        case "think":
            return [Think(_string(rest))]
        case "text":
            return [Say(_string(rest))]
        case "tool":
            return _tool(rest)
        case "args":
            _, sharp, index = word.partition("#")
            return [Args(_string(rest), int(index) if sharp else None)]
        case "usage":
            return [_tokens(rest)]
        case "finish":
            return [Finish(_needed(rest))]
        case "delay":
            return [Delay(float(rest))]
        case "silence":
            return [Delay(None)]
        case "hold":
            return [_Hold(None if rest.strip() == "forever" else float(rest))]
        case "comment":
            return [Raw(f": {_string(rest)}\n\n")]
        case "garbage":
            return [Raw(_string(rest))]
        case "error-in-stream":
            kind, _, message = _needed(rest).partition(" ")
            return [Break(kind, message or "The stream broke off.")]
        case "cut":
            return [Cut()]
        case "no-done":
            return [NoDone()]
        case _:
            return [_reply(word, rest)]


def _reply(word: str, rest: str) -> Reply:
    match word:
        case "hangup":
            return Reply(0)
        case "status":
            return Reply(int(rest), body=f"<html><body>{int(rest)}</body></html>")
        case "reply":
            status, content_type, *text = rest.split(" ", 2)
            return Reply(int(status), content_type, text[0] if text else "")
        case "error":
            status, kind, *words = rest.split(" ", 2)
            message = words[0] if words else "The request failed."
            wait = None
            if message.startswith("retry-after="):
                wait, _, message = message.removeprefix("retry-after=").partition(" ")
            body = json.dumps({"error": {"message": message, "type": kind}})
            return Reply(int(status), "application/json", body, wait)
        case _:
            raise ValueError(f"unknown word {word!r}")


def _needed(rest: str) -> str:
    if not rest.strip():
        raise ValueError("a word is missing")
    return rest.strip()


def _string(rest: str) -> str:
    """The text as it stands, or a JSON string's value where it is one."""
    if len(rest) >= 2 and rest[0] == rest[-1] == '"':
        value = json.loads(rest)
        assert isinstance(value, str)
        return value
    return rest


_PIECE: Final = 12


def _tool(rest: str) -> "list[Step | Reply | _Hold]":
    name, _, arguments = _needed(rest).partition(" ")
    pieces = [arguments[at : at + _PIECE] for at in range(0, len(arguments), _PIECE)]
    return [Open(name), *(Args(piece) for piece in pieces)]


def _tokens(rest: str) -> Tokens:
    """``none``, or pairs ``NAME=NUMBER`` and ``at=PLACE``."""
    if rest.strip() == "none":
        return Tokens(at="none")
    pairs = dict(pair.split("=", 1) for pair in rest.split())
    at = pairs.pop("at", None)
    if at is not None and at not in PLACEMENTS:
        raise ValueError(f"at= takes one of {', '.join(PLACEMENTS)}")
    unknown = set(pairs) - {"prompt", "cached", "completion", "reasoning"}
    if unknown:
        raise ValueError(f"usage does not take {', '.join(sorted(unknown))}")
    counts: dict[str, int] = {name: int(value) for name, value in pairs.items()}
    return msgspec.convert({**counts, "at": at}, Tokens)
