"""Turns to token ids, so that no text of a client can act as a control token.

The stand-in's ChatML is written by us with two known ids, in one call. A model of the
operator's own brings its template, which its server applies to placeholders: what the template
wrote around them is tokenized with control tokens, what belongs in their place without.
"""

import re
import secrets
from collections.abc import Sequence
from typing import Final, Self

from moongate.core.errors import UpstreamProtocolError
from moongate.upstream.engine_client import EngineClient
from moongate.upstream.engine_prompt import Marks, Turn, chatml

_GAP: Final = -1
"""No token: keeps the pieces of one tokenizing call apart."""


class ChatML:
    """The stand-in's format."""

    def __init__(self, client: EngineClient, marks: Marks) -> None:
        self._client = client
        self._marks = marks

    @classmethod
    async def learn(cls, client: EngineClient) -> Self:
        """Ask for the ids of the two control tokens. Raises UpstreamError."""
        ids = await client.tokenize(["<|im_start|>", _GAP, "<|im_end|>"], special=True)
        if len(ids) != 3:
            raise UpstreamProtocolError("no_chatml")
        return cls(client, Marks(ids[0], ids[2]))

    async def tokens(self, turns: Sequence[Turn], opening: str, speaker: str) -> list[int]:
        """The prompt. Raises UpstreamError."""
        return await self._client.tokenize(chatml(turns, opening, self._marks, speaker))


class OwnTemplate:
    """The template inside the operator's model file.

    It writes role words only; a speaker stands before the text instead.
    """

    def __init__(self, client: EngineClient) -> None:
        self._client = client

    async def tokens(self, turns: Sequence[Turn], opening: str, speaker: str) -> list[int]:
        """The prompt. Raises UpstreamError."""
        texts, told = await self.parts(turns, opening, speaker)
        frames = await split(self._client, texts, special=True)
        bodies = await split(self._client, told)
        out = frames[0]
        for body, frame in zip(bodies, frames[1:], strict=True):
            out += body + frame
        return out

    async def parts(
        self, turns: Sequence[Turn], opening: str, speaker: str
    ) -> tuple[list[str], list[str]]:
        """What the template writes, and what stands between: one text fewer. Raises UpstreamError.

        Only the template's own texts may spell control tokens.
        """
        mark = f"x{secrets.token_hex(8)}x"
        messages = [
            {"role": turn.role, "content": f"{mark}{index}z"} for index, turn in enumerate(turns)
        ]
        text = await self._client.apply_template(messages)
        pieces = re.split(rf"{mark}(\d+)z", text)
        frames, told = pieces[::2], [_told(turns[int(index)]) for index in pieces[1::2]]
        if opening or speaker:
            frames.append("")
            told.append(f"{speaker}: {opening}" if speaker else opening)
        return frames, told


async def split(
    client: EngineClient, texts: Sequence[str], *, special: bool = False
) -> list[list[int]]:
    """Token ids of each text, in one call. Raises UpstreamError."""
    if not texts:
        return []
    content: list[int | str] = []
    for text in texts:
        content += [text, _GAP]
    ids = await client.tokenize(content[:-1], special=special, begin=special)
    out: list[list[int]] = [[]]
    for id in ids:
        if id == _GAP:
            out.append([])
        else:
            out[-1].append(id)
    return out


def _told(turn: Turn) -> str:
    return f"{turn.speaker}: {turn.text}" if turn.speaker else turn.text
