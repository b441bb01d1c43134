"""A prompt's tokens before anybody told us: exact with the model's tokenizer, else between bounds.

A token of a byte-level vocabulary stands for at least one byte, so UTF-8 bytes plus what a chat
template wraps around them bound the prompt from above. Without a tokenizer the estimate takes four
bytes a token and rounds down: where nobody told us, the doubt is the customer's benefit.
"""

from typing import Any, Final

import msgspec

from moongate.core.errors import Refused, UpstreamTooLong
from moongate.core.request import ImagePart, Request
from moongate.meter.template import BLANK, LOOSE, SPELT, Rendered, may_spell, render
from moongate.meter.tokenizer import Tokenizer, slices

MESSAGE_OVERHEAD: Final = 24
"""Tokens that a template may put around one message, its role and an empty think block."""
REQUEST_OVERHEAD: Final = 160
"""Tokens that a template may add once: generation prompt, tool declaration, a default system."""
BYTES_PER_TOKEN: Final = 4


class Count(msgspec.Struct, frozen=True):
    """A prompt's tokens: surely ``least``, surely no more than ``bound``.

    ``tokens`` is the figure where one is needed and nobody else tells.
    """

    least: int
    tokens: int
    bound: int

    @property
    def exact(self) -> bool:
        """Whether it is known."""
        return self.least == self.bound

    @classmethod
    def exactly(cls, tokens: int) -> "Count":
        """A count that somebody knows."""
        return cls(tokens, tokens, tokens)


def weight(request: Request) -> int:
    """Characters that counting ``request`` looks at, roughly: what decides where it is done."""
    total = sum(len(tool.description or "") + _written(tool.parameters) for tool in request.tools)
    total += _written(request.format.schema if request.format else None)
    for message in request.messages:
        total += len(message.thinking or "") + len(message.name or "")
        total += sum(len(call.arguments) + len(call.name) for call in message.tool_calls)
        content = message.content or ""
        if isinstance(content, str):
            total += len(content)
        else:
            total += sum(
                len(part.url) if isinstance(part, ImagePart) else len(getattr(part, "text", ""))
                for part in content
            )
    return total


def _written(schema: dict[str, Any] | None) -> int:
    """How long a schema is when it is written; its size was bounded where it was read."""
    return len(msgspec.json.encode(schema)) if schema else 0


def count(request: Request, window: int, tokenizer: Tokenizer | None = None) -> Count:
    """The tokens of ``request`` at a model with ``window``; heavy where the request is.

    Without a tokenizer neither vocabulary nor template is known.
    """
    rendered = render(request)
    heads, size = sum(map(_size, rendered.heads)), sum(map(_size, rendered.texts))
    loose = sum(map(_size, rendered.loose))
    if tokenizer is not None and rendered.control + tokenizer.least(heads + size + loose) < window:
        return _by_tokenizer(rendered, tokenizer, window)
    least = 1 if tokenizer is None else rendered.control + tokenizer.least(heads + size)
    size += loose
    wrapped = REQUEST_OVERHEAD + MESSAGE_OVERHEAD * len(request.messages) + rendered.control
    bound = heads + size + wrapped + LOOSE * len(rendered.loose) + BLANK * rendered.blank
    bound += rendered.moving
    told = max(least, size // BYTES_PER_TOKEN + rendered.shown + rendered.filmed)
    return _within(least, told, window if rendered.endless else bound, window)


def _by_tokenizer(rendered: Rendered, tokenizer: Tokenizer, window: int) -> Count:
    least = most = rendered.control
    for text in rendered.heads + rendered.texts:
        tokens = tokenizer.count(text)
        other = _with_control(text, tokenizer) if may_spell(text) else tokens
        least += min(tokens, other)
        most += max(tokens, other)
    told = most + sum(tokenizer.count(text) for text in rendered.loose) + rendered.filmed
    bound = most + sum(_size(text) + LOOSE for text in rendered.loose) + BLANK * rendered.blank
    bound += rendered.moving
    return _within(least, told, window if rendered.endless else bound, window)


def _with_control(text: str, tokenizer: Tokenizer) -> int:
    """Tokens of ``text`` where an engine reads control tokens in it."""
    count = 0
    for part in slices(text):
        pieces = SPELT.split(part)
        count += len(pieces) - 1 + sum(tokenizer.count(piece) for piece in pieces)
    return count


def _within(least: int, tokens: int, bound: int, window: int) -> Count:
    """A prompt that is served fits its window: no bound need be larger, unless it cannot fit."""
    bound = max(least, min(bound, window))
    return Count(least, min(tokens, bound), bound)


def cap(prompt: Count, wanted: int, window: int) -> int:
    """The output cap to send for a client's or a model's ``wanted`` (tokens).

    It is lowered to the room left beside the prompt: exactly where the prompt is known, else by
    the best estimate and a little less, for an estimate may be too low. It may be too high as well:
    where it leaves less than an eighth of the room that may be there, the upstream decides. Raises
    Refused (400) when there is no room for certain.
    """
    most = window - prompt.least
    if most < 1:
        raise Refused("context_length_exceeded", "messages", needs=prompt.least + 1, limit=window)
    if prompt.exact:
        return min(wanted, most)
    room = window - prompt.tokens
    doubt = min(prompt.bound - prompt.tokens, REQUEST_OVERHEAD + prompt.tokens // 4)
    return min(wanted, max(room - min(doubt, room // 8), most // 8, 1))


def lowered(cap: int, prompt: Count, error: UpstreamTooLong) -> int | None:
    """The output cap to ask with again after an upstream refused ``cap``; ``None``: none can fit.

    It told of its window and, mostly, of its own count of the prompt. Where it did not, our bound
    counts; where that is no help either, half of the room that may be there.
    """
    if error.limit is None:
        return None
    least = max(error.prompt or 0, prompt.least)
    if error.prompt is not None and error.exact:
        room = error.limit - error.prompt
    elif error.prompt is None and error.total is not None:
        room = error.limit - (error.total - cap)
    elif prompt.bound < error.limit:
        room = error.limit - max(least, prompt.bound)
    else:
        room = min(cap, error.limit - least) // 2
    return room if 0 < room < cap else None


def _size(text: str) -> int:
    """UTF-8 bytes of ``text``."""
    if text.isascii():
        return len(text)
    return sum(len(part.encode("utf-8", "surrogatepass")) for part in slices(text))
