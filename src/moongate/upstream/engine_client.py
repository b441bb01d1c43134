"""Talking to the engine's process: llama.cpp's HTTP, in the few calls that we make.

``/tokenize`` with mixed content, ``/apply-template`` for a model of the operator's own,
``/slots/N?action=erase``, ``/v1/completions`` always streamed, or ``/completion`` where pictures
stand beside the prompt. Connections are not kept:
llama.cpp's server drops idle ones after five seconds, and a loopback connect costs little.
It knows tokens and bodies, not requests.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import aiohttp
import msgspec

from moongate.core.errors import (
    UpstreamDown,
    UpstreamProtocolError,
    UpstreamRefused,
    UpstreamTimeout,
)
from moongate.upstream.engine_process import EngineProcess

_CONNECT_S: Final = 5.0
_SILENCE_S: Final = 120.0
_CALL_S: Final = 60.0


class _Tokens(msgspec.Struct):
    tokens: list[int]


class _Prompt(msgspec.Struct):
    prompt: str


class _Input(msgspec.Struct):
    input_tokens: int


class _Modalities(msgspec.Struct):
    vision: bool = False


class _Props(msgspec.Struct):
    media_marker: str = ""
    modalities: _Modalities = msgspec.field(default_factory=_Modalities)


_WORD: Final = {"type": "text", "text": "x"}
_input: Final = msgspec.json.Decoder(_Input).decode
_props: Final = msgspec.json.Decoder(_Props).decode
_tokens: Final = msgspec.json.Decoder(_Tokens).decode
_prompt: Final = msgspec.json.Decoder(_Prompt).decode


class EngineClient:
    """A client of one engine process, wherever that lives after a restart."""

    def __init__(self, process: EngineProcess) -> None:
        self._process = process
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=_CONNECT_S, sock_read=_SILENCE_S
            ),
        )

    async def close(self) -> None:
        """Release the connections."""
        await self._session.close()

    async def tokenize(
        self, content: Sequence[int | str], *, special: bool = False, begin: bool = False
    ) -> list[int]:
        """Token ids of mixed content: ids stay as they are, text is tokenized.

        ``special`` reads control tokens in text; never set it for text of clients. ``begin``
        adds what the model wants at a text's begin.
        """
        body = {"content": list(content), "parse_special": special, "add_special": begin}
        return _tokens(await self._call("/tokenize", body)).tokens

    async def apply_template(self, messages: list[dict[str, str]]) -> str:
        """The model's own template over ``messages``, up to the begin of the answer."""
        body = {"messages": messages, "add_generation_prompt": True}
        return _prompt(await self._call("/apply-template", body)).prompt

    async def sees(self) -> bool:
        """Whether the model takes pictures."""
        return (await self._told()).modalities.vision

    async def media_marker(self) -> str:
        """What stands for a picture in a prompt's text; new with every start of the engine."""
        return (await self._told()).media_marker

    async def picture_tokens(self, pictures: Sequence[str]) -> list[int]:
        """Tokens of each picture in base64, with what the engine writes around it.

        Raises UpstreamRefused where the engine cannot read one.
        """
        bare = await self._counted([_WORD])
        counts: list[int] = []
        for data in pictures:
            shown = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
            try:
                counts.append(await self._counted([_WORD, shown]) - bare)
            except UpstreamDown as error:
                if error.kind != "engine_500":
                    raise
                # How the engine says that it cannot decode one: no fault of its health.
                raise UpstreamRefused("invalid_image") from None
        return counts

    async def _counted(self, content: list[dict[str, Any]]) -> int:
        body = {"messages": [{"role": "user", "content": content}]}
        return _input(await self._call("/v1/chat/completions/input_tokens", body)).input_tokens

    async def _told(self) -> _Props:
        await self._process.ready()
        try:
            async with self._session.get(
                f"{self._process.address}/props",
                headers={"Authorization": f"Bearer {self._process.api_key}"},
            ) as answer:
                return _props(await answer.read())
        except (aiohttp.ClientError, OSError, msgspec.MsgspecError):
            raise UpstreamDown("engine_gone") from None

    async def erase(self, slot: int) -> None:
        """Empty a slot's cache; waits until the slot is free."""
        await self._call(f"/slots/{slot}?action=erase", {})

    async def healthy(self) -> bool:
        """Whether it says that it serves."""
        await self._process.ready()
        async with self._session.get(f"{self._process.address}/health") as answer:
            return answer.status == 200

    @asynccontextmanager
    async def completion(self, body: dict[str, Any]) -> AsyncGenerator[AsyncGenerator[bytes]]:
        """The bytes of one streamed completion; leaving the context stops the engine's work."""
        # Only the engine's own dialect takes a prompt that is more than text or tokens.
        path = "/completion" if isinstance(body["prompt"], dict) else "/v1/completions"
        async with self._post(path, body) as answer:
            yield _bytes(answer)

    async def _call(self, path: str, body: dict[str, Any]) -> bytes:
        try:
            async with self._post(path, body, total_s=_CALL_S) as answer:
                return await answer.read()
        except (aiohttp.ClientError, OSError):
            raise UpstreamDown("engine_gone") from None

    @asynccontextmanager
    async def _post(
        self, path: str, body: dict[str, Any], total_s: float | None = None
    ) -> AsyncGenerator[aiohttp.ClientResponse]:
        # A crash that nobody noticed yet: what can do no harm twice goes to the next child.
        harmless = aiohttp.ClientConnectorError if total_s is None else aiohttp.ClientError
        try:
            try:
                answer = await self._send(path, body, total_s)
            except (aiohttp.ClientError, OSError) as error:
                if not isinstance(error, harmless) or not await self._process.gone():
                    raise
                answer = await self._send(path, body, total_s)
        except TimeoutError:
            raise UpstreamTimeout("engine_silent") from None
        except (aiohttp.ClientError, OSError):
            raise UpstreamDown("engine_gone") from None
        try:
            if answer.status == 400:
                raise UpstreamRefused("rejected_by_model")
            if answer.status != 200:
                raise UpstreamDown(f"engine_{answer.status}")
            yield answer
        finally:
            answer.close()

    async def _send(
        self, path: str, body: dict[str, Any], total_s: float | None
    ) -> aiohttp.ClientResponse:
        await self._process.ready()
        return await self._session.post(
            self._process.address + path,
            data=msgspec.json.encode(body),
            headers={
                "Authorization": f"Bearer {self._process.api_key}",
                "Content-Type": "application/json",
            },
            timeout=aiohttp.ClientTimeout(
                total=total_s, sock_connect=_CONNECT_S, sock_read=_SILENCE_S
            ),
        )


async def _bytes(answer: aiohttp.ClientResponse) -> AsyncGenerator[bytes]:
    try:
        async for data in answer.content.iter_any():
            yield data
    except TimeoutError:
        raise UpstreamTimeout("engine_silent") from None
    except (aiohttp.ClientError, OSError):
        raise UpstreamProtocolError("cut") from None
