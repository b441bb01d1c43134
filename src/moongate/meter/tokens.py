"""Prompt tokens without the model's tokenizer: a bound that is never too low, and an estimate.

A token of a byte-level vocabulary stands for at least one byte, so UTF-8 bytes plus what a chat
template wraps around them bound the prompt from above. The estimate takes four bytes a token and
rounds down: where nobody told us, the doubt is the customer's benefit.
"""

from typing import Any, Final

import msgspec

from moongate.core.request import ImagePart, Message, Request, TextPart, VideoPart

MESSAGE_OVERHEAD: Final = 24
"""Tokens that a template may put around one message, its role and an empty think block."""
REQUEST_OVERHEAD: Final = 160
"""Tokens that a template may add once: generation prompt, tool declaration, a default system."""
TOOL_OVERHEAD: Final = 64
IMAGE_MAX: Final = 4_480
"""Tokens that one picture can take at most (largest result of Kimi's formula, wrapper included)."""
BYTES_PER_TOKEN: Final = 4

_encode = msgspec.json.Encoder().encode


def _size(text: str | None) -> int:
    return 0 if text is None else len(text.encode("utf-8", "surrogatepass"))


def _json_size(value: Any) -> int:
    return len(_encode(value))


def _content(message: Message) -> tuple[int, int, bool]:
    """Bytes of text, number of pictures, and whether there is a video."""
    if message.content is None or isinstance(message.content, str):
        return _size(message.content), 0, False
    size = sum(_size(part.text) for part in message.content if isinstance(part, TextPart))
    images = sum(isinstance(part, ImagePart) for part in message.content)
    video = any(isinstance(part, VideoPart) for part in message.content)
    return size, images, video


def _measure(request: Request) -> tuple[int, int, bool]:
    """Bytes of everything that a template renders, pictures, and whether there is a video."""
    size = images = 0
    video = False
    for message in request.messages:
        text, pictures, moving = _content(message)
        size += text + _size(message.name) + _size(message.thinking)
        size += _size(message.tool_call_id)
        size += sum(_size(c.id) + _size(c.name) + _size(c.arguments) for c in message.tool_calls)
        images += pictures
        video = video or moving
    for tool in request.tools:
        size += _size(tool.name) + _size(tool.description) + _json_size(tool.parameters)
    if request.format is not None and request.format.schema is not None:
        size += _json_size(request.format.schema)
    return size, images, video


def bound(request: Request, window: int) -> int:
    """Tokens that the prompt cannot exceed; at most ``window``."""
    size, images, video = _measure(request)
    if video:
        return window
    calls = sum(len(message.tool_calls) for message in request.messages)
    overhead = (
        REQUEST_OVERHEAD
        + MESSAGE_OVERHEAD * (len(request.messages) + calls)
        + TOOL_OVERHEAD * len(request.tools)
    )
    return min(window, size + overhead + IMAGE_MAX * images)


def estimate(request: Request) -> int:
    """Tokens that the prompt has at least, by a rule of thumb: text only, rounded down."""
    return max(1, _measure(request)[0] // BYTES_PER_TOKEN)
