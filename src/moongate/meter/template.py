"""Kimi K2.5's chat template as counts: what it writes around a conversation, and the texts between.

A turn is its role's token, a name, a middle token, a body and an end token, with no white space of
its own. What the template leaves to others (how tools are spelt, whether a call's arguments are
written anew) is kept apart as loose. Text never becomes a control token here, though some engines
read one where a message spells it.

Source: the chat template and tokenizer that are published with the model, of 2026-01-29 and later.
"""

import re
from typing import Any, Final

import msgspec

from moongate.core.request import ImagePart, Message, Request, TextPart, Tool, VideoPart
from moongate.meter import images, videos
from moongate.wire.ids import numbered

SPELT: Final = re.compile(r"<\|[a-z0-9_]+\|>|</?think>|\[(?:BOS|EOS|EOT|UNK|PAD)\]")
"""Control tokens as text spells them, and what looks like one."""
_SIGNS: Final = ("<|", "think>", "[BOS]", "[EOS]", "[EOT]", "[UNK]", "[PAD]")
"""One of them stands in whatever :data:`SPELT` matches; found much faster."""

_PER_TURN: Final = 3
"""Role, middle, end."""
_THINK: Final = 2
"""The token that opens a think block, and the one that closes it."""
_SECTION: Final = 2
_PER_CALL: Final = 3
_IMAGE_LEAST: Final = 1 + images.WRAPPER

_encode = msgspec.json.Encoder().encode


class Rendered:
    """A prompt in pieces. ``control`` are tokens that stand for no text, pictures included.

    ``heads`` (role words and names) and ``texts`` stand between control tokens and are encoded each
    for itself; ``loose`` texts are in
    the prompt in a spelling that is not ours to know, each with at most ``LOOSE`` tokens around it.
    ``shown`` of the control tokens are pictures whose size is known;
    ``blank`` is how many pictures have a size that is not known: each is in ``control`` with the
    least, and may take ``BLANK`` more. Videos are in ``filmed`` by their estimate, in ``moving``
    by their bound; ``endless`` says that one of them has none.
    """

    def __init__(self) -> None:
        self.control = self.blank = self.shown = self.moving = self.filmed = 0
        self.heads: list[str] = []
        self.texts: list[str] = []
        self.loose: list[str] = []
        self.endless = False

    def __repr__(self) -> str:
        return f"Rendered({self.control} control, {len(self.texts)} texts, {len(self.loose)} loose)"


LOOSE: Final = 64
BLANK: Final = images.TOKENS_MAX - _IMAGE_LEAST


def render(request: Request) -> Rendered:
    """The pieces of the prompt that ``request`` becomes."""
    out = Rendered()
    for tool in request.tools:
        out.loose.append(_declared(tool))
    if request.tools:
        out.control += _PER_TURN
        out.heads.append("tool_declare")
    if request.format is not None and request.format.schema is not None:
        out.loose.append(_json(request.format.schema))
    plain = _last_plain(request.messages)
    for at, message in enumerate(numbered(request.messages)):
        _turn(out, message, recent=at > plain, thinks=request.thinking is not False)
    if not (request.messages and request.messages[-1].partial):
        out.control += 3 if request.thinking is not False else 4
        out.heads.append("assistant")
    return out


def may_spell(text: str) -> bool:
    """Whether ``text`` may spell a control token."""
    return any(sign in text for sign in _SIGNS)


def _last_plain(messages: tuple[Message, ...]) -> int:
    """Where the assistant last answered without calling: reasoning up to there is left out."""
    plain = [
        at
        for at, message in enumerate(messages)
        if message.role == "assistant" and not message.tool_calls and not message.partial
    ]
    return plain[-1] if plain else -1


def _turn(out: Rendered, message: Message, *, recent: bool, thinks: bool) -> None:
    out.control += _PER_TURN - message.partial
    role = "system" if message.role == "developer" else message.role
    out.heads.append(message.name or role)
    before = ""
    if message.role == "assistant":
        out.control += _THINK
        if message.thinking and (recent or message.partial):
            # Templates differ on reasoning that was thought in another mode, or before a prefix.
            sure = thinks and not message.partial
            (out.texts if sure else out.loose).append(message.thinking)
    elif message.role == "tool":
        before = f"## Return of {message.tool_call_id}\n"
    _content(out, message, before)
    if message.tool_calls:
        out.control += _SECTION + _PER_CALL * len(message.tool_calls)
        for call in message.tool_calls:
            out.texts.append(call.id)
            out.loose.append(call.arguments)


def _content(out: Rendered, message: Message, before: str) -> None:
    """The body: text parts without a break between them, cut by pictures."""
    if not isinstance(message.content, tuple):
        out.texts.append(before + (message.content or ""))
        return
    run = [before]
    for part in message.content:
        if isinstance(part, TextPart):
            run.append(part.text)
            continue
        out.texts.append("".join(run))
        run = []
        if isinstance(part, ImagePart):
            tokens, known = images.of_url(part.url)
            out.control += tokens if known else _IMAGE_LEAST
            out.shown += tokens if known else 0
            out.blank += not known
        elif isinstance(part, VideoPart):
            bound = videos.bound(part)
            out.endless = out.endless or bound is None
            out.moving += bound or 0
            out.filmed += videos.estimate(part)
    out.texts.append("".join(run))


def _declared(tool: Tool) -> str:
    function: dict[str, Any] = {"name": tool.name}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.parameters is not None:
        function["parameters"] = tool.parameters
    return _json({"type": tool.type, "function": function})


def _json(value: Any) -> str:
    return _encode(value).decode()
