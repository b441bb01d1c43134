"""Reading the address that a stranger asks us to fetch; strict, and one parser for all of it.

The parser is yarl, whose result aiohttp connects by, so what is judged is what is used. Refused is
whatever parsers are known to read differently: user names, backslashes, white space, percent signs
in the host, IPv4 in short, octal, decimal or hexadecimal spelling, digits that are none in ASCII.
"""

import re
import unicodedata
from typing import Final

import idna
from yarl import URL

from moongate.core.errors import UrlRefused
from moongate.core.sealed import Sealed
from moongate.media import addresses
from moongate.media.addresses import Address

URL_CHARS_MAX: Final = 8192
PORTS: Final = frozenset({80, 443})

_SHAPE: Final = re.compile(r"https?://(?P<place>[^/?#]+)", re.IGNORECASE)
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_PLACE: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:@%]+)(:[0-9]{1,5})?", re.ASCII)
_LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
_NAME_CHARS_MAX: Final = 253
_INSIDE: Final = frozenset({"alt", "arpa", "internal", "local", "localhost", "onion"})
"""Last labels that lead to no public server: asking for some of them already speaks inside."""


class Place(Sealed, frozen=True):
    """A URL that may be fetched as far as its text tells: where to connect, what to ask for.

    ``host`` is ASCII, in lower case, without a trailing dot; ``literal`` is set where it is an
    address.
    """

    url: URL
    host: str
    port: int
    literal: Address | None = None


def read(text: str, ports: frozenset[int] = PORTS) -> Place:
    """Where ``text`` leads. Raises UrlRefused."""
    if not text or len(text) > URL_CHARS_MAX:
        raise UrlRefused("length")
    if any(char == "\\" or unicodedata.category(char)[0] in "CZ" for char in text):
        raise UrlRefused("characters")
    shape = _SHAPE.match(text)
    if shape is None:
        raise UrlRefused("scheme")
    if _PLACE.fullmatch(shape["place"]) is None:
        raise UrlRefused("authority")
    try:
        url = URL(text).with_fragment(None)
        port = url.port
    except ValueError:
        raise UrlRefused("syntax") from None
    if port not in ports:
        raise UrlRefused("port")
    host = (url.raw_host or "").removesuffix(".")
    literal = addresses.parse(host)
    if literal is None:
        _check_name(host)
    elif not shape["place"].isascii() or (url.raw_host or "").endswith("."):
        raise UrlRefused("host")
    if host != url.raw_host:
        url = url.with_host(host)
    return Place(url, host, port, literal)


def follow(place: Place, location: str, ports: frozenset[int] = PORTS) -> Place:
    """Where a redirect from ``place`` leads. Raises UrlRefused."""
    if not location or len(location) > URL_CHARS_MAX:
        raise UrlRefused("redirect")
    if any(char == "\\" or unicodedata.category(char)[0] in "CZ" for char in location):
        raise UrlRefused("redirect")
    if _SCHEME.match(location):
        return read(location, ports)
    try:
        target = place.url.join(URL(location))
    except ValueError:
        raise UrlRefused("redirect") from None
    if location.startswith("//"):  # as it was written, not as a parser smoothed it
        return read(f"{place.url.scheme}:{location}", ports)
    return read(str(target), ports)


def _check_name(host: str) -> None:
    """A DNS name of two labels or more that nobody can read as an address."""
    labels = host.split(".")
    if len(host) > _NAME_CHARS_MAX or len(labels) < 2:
        raise UrlRefused("host")
    if not all(_LABEL.fullmatch(label) for label in labels):
        raise UrlRefused("host")
    if _NUMBER.fullmatch(labels[-1]) or labels[-1] in _INSIDE:
        raise UrlRefused("host")
    for label in labels:
        if label.startswith("xn--") and not _canonical(label):
            raise UrlRefused("host")


def _canonical(label: str) -> bool:
    """Whether an encoded label stands for a text that is encoded like that."""
    try:
        return idna.alabel(idna.ulabel(label)) == label.encode()
    except idna.IDNAError:
        return False
