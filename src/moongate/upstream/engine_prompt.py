"""From a request to a prompt: turns of plain text, then pieces that a tokenizer cannot misread.

Control tokens are written as token ids and nothing else is: text of clients is tokenized with
special tokens switched off, so ``<|im_end|>`` in a message is eight ordinary characters and
never the end of a turn. What the model's small size asks for is decided here too: tools stand
as JSON lines in the system turn, calls and results as marked text. Knows no sockets.
"""

import json
import secrets
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from moongate.core.errors import UpstreamRefused
from moongate.core.request import Call, ImagePart, Message, Request, Tool, VideoPart
from moongate.core.sealed import Sealed

CALL_OPENING: Final = "<tool_call>\n"
CALL_CLOSING: Final = "\n</tool_call>"

PICTURE: Final = f"\0{secrets.token_hex(16)}\0"
"""Stands in a turn's text for a picture; no client knows it."""

_NUDGE: Final = "Answer in plain words with this result."
"""After a tool's result; without it the small model tends to write code or the call again."""

Pieces = list[int | str]
"""Token ids and plain text in order: what llama.cpp's ``/tokenize`` takes as mixed content."""


class Turn(Sealed, frozen=True):
    """One turn: ``role`` is system, user or assistant; a ``speaker`` stands in its place."""

    role: str
    text: str
    speaker: str = ""


class Marks(msgspec.Struct, frozen=True):
    """The token ids that open and close a ChatML turn."""

    open: int
    close: int


def named_opening(name: str) -> str:
    """What an assistant turn starts with when it must call ``name``: its arguments follow."""
    return f'{CALL_OPENING}{{"name": {json.dumps(name)}, "arguments": '


def turns(request: Request, *, sees: bool = False) -> tuple[Turn, ...]:
    """The conversation without a partial last message: never two turns of one speaker in a row.

    Where the model ``sees``, ``PICTURE`` stands for each picture; else UpstreamRefused is raised.
    """
    out: list[Turn] = []
    listing = _tools_text(request)
    messages = request.messages[:-1] if prefill(request) is not None else request.messages
    if listing and not (messages and messages[0].role in ("system", "developer")):
        out.append(Turn("system", listing))
        listing = ""
    for message in messages:
        role, text = _turn(message, sees=sees)
        if listing:
            text = f"{text}\n\n{listing}"
            listing = ""
        speaker = named(message)
        if out and (out[-1].role, out[-1].speaker) == (role, speaker):
            text = f"{out.pop().text}\n{text}"
        out.append(Turn(role, text, speaker))
    return tuple(out)


def prefill(request: Request) -> tuple[str, str] | None:
    """Text and speaker of a partial last message, which the answer continues; else ``None``."""
    last = request.messages[-1] if request.messages else None
    if last is None or last.role != "assistant" or not last.partial:
        return None
    return last.text(), named(last)


def named(message: Message) -> str:
    """Who speaks, in one line; empty where the role says it. A tool's name is no speaker."""
    return "" if message.role == "tool" else " ".join((message.name or "").split())


def chatml(turns: Sequence[Turn], opening: str, marks: Marks, speaker: str = "") -> Pieces:
    """ChatML with ``opening`` as the begin of the assistant's answer."""
    pieces: Pieces = []
    for turn in turns:
        pieces += [marks.open, f"{turn.speaker or turn.role}\n{turn.text}", marks.close, "\n"]
    pieces += [marks.open, f"{speaker or 'assistant'}\n{opening}"]
    return pieces


def _turn(message: Message, *, sees: bool) -> tuple[str, str]:
    said = _said(message, sees=sees)
    match message.role:
        case "system" | "developer":
            return "system", said
        case "tool":
            return "user", f"<tool_response>\n{said}\n</tool_response>\n{_NUDGE}"
        case "assistant":
            pieces = [said, *(_call_text(call) for call in message.tool_calls)]
            return "assistant", "\n".join(piece for piece in pieces if piece)
        case _:
            return "user", said


def _call_text(call: Call) -> str:
    return f"{named_opening(call.name)}{call.arguments}}}{CALL_CLOSING}"


def _tools_text(request: Request) -> str:
    if not request.tools or (request.tool_choice and request.tool_choice.mode == "none"):
        return ""
    return "\n".join(["Tools:", *(_tool_line(tool) for tool in request.tools)])


def _tool_line(tool: Tool) -> str:
    fields: dict[str, Any] = {"name": tool.name}
    if tool.description:
        fields["description"] = tool.description
    if tool.parameters:
        fields["parameters"] = tool.parameters
    return json.dumps(fields, ensure_ascii=False)


def _said(message: Message, *, sees: bool) -> str:
    """The message's text, its pictures by their mark."""
    if not isinstance(message.content, tuple):
        return message.text()
    said: list[str] = []
    for part in message.content:
        if isinstance(part, VideoPart):
            raise UpstreamRefused("unsupported_ability", ability="video")
        if isinstance(part, ImagePart) and not sees:
            raise UpstreamRefused("unsupported_ability", ability="images")
        said.append(PICTURE if isinstance(part, ImagePart) else part.text)
    return "".join(said)
