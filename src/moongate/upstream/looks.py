"""Looking at an upstream for the operator: whether it answers and which models it lists.

The sentences made here are for logs, ``doctor`` and the start-up lines: they name what to check
and hold nothing that the other side wrote, and no credential.

Sources: OpenAI API reference (list models), Moonshot API documentation (two platforms, models).
"""

import asyncio
import socket
from typing import Any, Final

import aiohttp
import msgspec

from moongate.core.ports import Probe

TIMEOUT_S: Final = 5.0
_BODY_BYTES_MAX: Final = 4 * 2**20
_MODELS_MAX: Final = 10_000

_SAID: Final = {
    "dns": "Its host name does not resolve; check base_url and the network.",
    "refused": "Connection refused: nothing listens at base_url.",
    "tls": "The TLS handshake failed; check the scheme, the port and the certificate.",
    "connect": "It cannot be reached; check base_url, the network and firewalls.",
    "reset": "It closed the connection before it answered.",
    "not_http": "It does not speak HTTP as it should; check the scheme and the port.",
    "slow": f"No answer within {TIMEOUT_S:g} s.",
}
_KEY: Final = "It refuses our key; check api_key_env or api_key_file."
_MOONSHOT_KEY: Final = (
    "It refuses our key: a wrong key, or one of the other Moonshot platform (keys of "
    "api.moonshot.ai and api.moonshot.cn are not interchangeable)."
)


def trouble(error: aiohttp.ClientError) -> str:
    """One word for a failure before the head: a key of the table of sentences here."""
    match error:
        case aiohttp.ClientConnectorDNSError():
            return "dns"
        case aiohttp.ClientSSLError():
            return "tls"
        case aiohttp.ClientConnectorError():
            if isinstance(error.os_error, socket.gaierror):
                return "dns"
            return "refused" if isinstance(error.os_error, ConnectionRefusedError) else "connect"
        case aiohttp.ServerConnectionError() if isinstance(error, TimeoutError):
            return "connect"
        case aiohttp.InvalidURL():
            return "connect"
        case aiohttp.ClientResponseError():
            return "not_http"
        case _:
            return "reset"


async def look(
    session: aiohttp.ClientSession, url: str, headers: dict[str, str], kind: str
) -> Probe:
    """GET the model list at ``url`` and say what was found. Never raises."""
    try:
        async with (
            asyncio.timeout(TIMEOUT_S),
            session.get(url, headers=headers, allow_redirects=False) as response,
        ):
            return _judge(response.status, await _body(response), kind)
    except TimeoutError:
        return _bad(_SAID["slow"])
    except aiohttp.ClientError as error:
        return _bad(_SAID[trouble(error)])


async def _body(response: aiohttp.ClientResponse) -> bytes:
    pieces: list[bytes] = []
    size = 0
    while size <= _BODY_BYTES_MAX and (piece := await response.content.readany()):
        pieces.append(piece)
        size += len(piece)
    return b"".join(pieces)


def _bad(detail: str) -> Probe:
    return Probe(ok=False, models=None, detail=detail)


def _judge(status: int, body: bytes, kind: str) -> Probe:
    if status in (401, 403):
        return _bad(f"{_MOONSHOT_KEY if kind == 'moonshot' else _KEY} (HTTP {status})")
    if status in (404, 405):
        return Probe(ok=True, models=None, detail=f"It answers but lists no models: HTTP {status}.")
    if not 200 <= status < 300:
        return _bad(f"It answers HTTP {status} where its model list should be.")
    models = _models(body)
    if models is None:
        return _bad(
            "Its model list is not JSON of the known shape; check that base_url ends in /v1."
        )
    return Probe(ok=True, models=models, detail=f"It answers and lists {len(models)} models.")


def _models(body: bytes) -> tuple[str, ...] | None:
    try:
        whole: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    data = whole.get("data") if isinstance(whole, dict) else None
    if not isinstance(data, list):
        return None
    ids = (item.get("id") for item in data[:_MODELS_MAX] if isinstance(item, dict))
    return tuple(id for id in ids if isinstance(id, str))
