"""A prompt with pictures, for an engine whose model came with a projector.

llama.cpp takes pictures beside a prompt of one text, in which its own marker stands for each. In
such a text control tokens are read wherever they are spelt, so what clients wrote is checked
against the tokenizer first, and loosened where it spells one. The marker is new with every start
of the engine, and nobody outside knows it.

Source: llama.cpp's server, ``POST /completion`` with ``prompt_string`` and ``multimodal_data``.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import Any, Final

from moongate.core.errors import UpstreamRefused
from moongate.core.request import ImagePart, Request
from moongate.core.sealed import Sealed
from moongate.upstream.engine_client import EngineClient
from moongate.upstream.engine_prompt import PICTURE, Turn, prefill
from moongate.upstream.engine_template import OwnTemplate, split

FORMATS: Final = frozenset({"image/png", "image/jpeg", "image/gif"})
_READ: Final = "PNG, JPEG and GIF"
_SPELT: Final = re.compile(r"<(?=[|/a-z_\uff5c])|\[(?=[A-Z_/])", re.IGNORECASE)
_JOINER: Final = "\u2060"
"""A word joiner: no width, no meaning, and no control token has one."""


class Sight(Sealed, frozen=True):
    """A prompt with pictures. ``tokens`` has an id for each of its tokens.

    A picture's are made of its digest: they tell one prompt's begin from another's, and are no ids
    of the model.
    """

    text: str
    pictures: tuple[str, ...]
    tokens: tuple[int, ...]

    def prompt(self) -> dict[str, Any]:
        """As the engine takes it."""
        return {"prompt_string": self.text, "multimodal_data": self.pictures}


def pictures(request: Request) -> tuple[str, ...]:
    """The base64 texts of what ``request`` shows, in order.

    Raises UpstreamRefused for a format that the engine does not read.
    """
    messages = request.messages[:-1] if prefill(request) is not None else request.messages
    found: list[str] = []
    for message in messages:
        for part in message.content if isinstance(message.content, tuple) else ():
            if isinstance(part, ImagePart):
                head, _, data = part.url.partition(",")
                if head.removeprefix("data:").removesuffix(";base64") not in FORMATS:
                    raise UpstreamRefused("unsupported_image", formats=_READ)
                found.append(data)
    return tuple(found)


async def look(
    client: EngineClient,
    template: OwnTemplate,
    turns: Sequence[Turn],
    opening: str,
    speaker: str,
    shown: tuple[str, ...],
) -> Sight:
    """The prompt of ``turns``, which show ``shown``. Raises UpstreamError."""
    frames, bodies = await template.parts(turns, opening, speaker)
    bodies = await _harmless(client, bodies)
    text = frames[0]
    for body, frame in zip(bodies, frames[1:], strict=True):
        text += body + frame
    pieces = text.split(PICTURE)
    if len(pieces) != len(shown) + 1:
        raise UpstreamRefused("rejected_by_model")
    ids = await split(client, pieces, special=True)
    tokens = list(ids[0])
    sizes = await client.picture_tokens(shown)
    for data, size, piece in zip(shown, sizes, ids[1:], strict=True):
        tokens += [_mark(data)] * size
        tokens += piece
    marker = await client.media_marker()
    return Sight(marker.join(pieces), shown, tuple(tokens))


async def _harmless(client: EngineClient, texts: list[str]) -> list[str]:
    """``texts`` such that none spells a control token."""
    for _ in range(2):
        read = await split(client, texts, special=True)
        plain = await split(client, texts)
        if read == plain:
            return texts
        texts = [
            text if one == other else _SPELT.sub(rf"\g<0>{_JOINER}", text)
            for text, one, other in zip(texts, read, plain, strict=True)
        ]
    raise UpstreamRefused("rejected_by_model")


def _mark(data: str) -> int:
    digest = hashlib.blake2b(data.encode(), digest_size=8).digest()
    return int.from_bytes(digest)
