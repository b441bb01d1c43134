"""Search receipts: results that the client carries, sealed, so that nothing is kept here.

In the maker's own form a client runs the loop: it gets an opaque receipt as a call's arguments and
sends it back verbatim. Here the receipt holds query and results, under a key of this installation
and bound to the organisation: nobody can read, change, or make one, or use another's. One that was
altered opens to nothing.
"""

import base64
import binascii
import os
import zlib
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from moongate.core.sealed import Sealed

BYTES_MAX: Final = 2**20
_ARGUMENTS_CHARS_MAX: Final = 2**18
"""Several times what a receipt of ours can have: more is not even looked at."""
_NONCE_BYTES: Final = 12
_FORM: Final = b"moongate-search-1"


class Carried(Sealed, frozen=True):
    """What a receipt holds: the query, and the message that the model reads."""

    query: str
    message: str


class _Usage(msgspec.Struct, frozen=True):
    total_tokens: int


class _Search(Sealed, frozen=True):
    search_id: str


class _Receipt(Sealed, frozen=True):
    search_result: _Search
    usage: _Usage


class Seal:
    """Seals and opens with ``secret`` (32 bytes), which is used for nothing else."""

    def __init__(self, secret: bytes) -> None:
        self._key = AESGCM(secret)

    def __repr__(self) -> str:
        return "Seal()"

    def receipt(self, tenant: str, carried: Carried, tokens: int) -> str:
        """A call's arguments, as the maker writes them; ``tokens``: what the results will take."""
        nonce = os.urandom(_NONCE_BYTES)
        whole = self._key.encrypt(
            nonce, zlib.compress(msgspec.json.encode(carried)), _FORM + tenant.encode()
        )
        token = base64.urlsafe_b64encode(nonce + whole).decode()
        return msgspec.json.encode(_Receipt(_Search(token), _Usage(tokens))).decode()

    def open(self, tenant: str, arguments: str) -> Carried | None:
        """What :meth:`receipt` sealed for ``tenant``; ``None`` where anything was altered."""
        if len(arguments) > _ARGUMENTS_CHARS_MAX:
            return None
        try:
            token = msgspec.json.decode(arguments, type=_Receipt).search_result.search_id
            whole = base64.b64decode(token, altchars=b"-_", validate=True)
            packed = self._key.decrypt(
                whole[:_NONCE_BYTES], whole[_NONCE_BYTES:], _FORM + tenant.encode()
            )
            return msgspec.json.decode(
                zlib.decompressobj().decompress(packed, BYTES_MAX), type=Carried
            )
        except (InvalidTag, binascii.Error, msgspec.MsgspecError, zlib.error, ValueError):
            return None
