"""Which IP addresses may be connected to on behalf of a stranger: public ones, nothing else.

IPv4 is judged by the special-purpose registry written out here, not by a library's idea of
"global", which differs between versions. Of IPv6 only the global unicast range counts, less what
is special in it, and an address that carries an IPv4 address is judged by that one as well.

Source: IANA's IPv4 and IPv6 special-purpose address registries; RFC 4291, 4380, 5214, 6052, 3056.
168.63.129.16 is a cloud's wire server on the inside of its machines.
"""

import ipaddress
import socket
from collections.abc import Iterator
from contextlib import closing
from typing import Final

IPv4 = ipaddress.IPv4Address
IPv6 = ipaddress.IPv6Address
Address = IPv4 | IPv6

_SPECIAL4: Final = tuple(
    ipaddress.IPv4Network(text)
    for text in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "168.63.129.16/32"),
        *("169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24"),
        *("192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24"),
        *("224.0.0.0/4", "240.0.0.0/4"),
    )
)
_GLOBAL6: Final = ipaddress.IPv6Network("2000::/3")
_SPECIAL6: Final = tuple(
    ipaddress.IPv6Network(text)
    for text in ("2001::/23", "2001:db8::/32", "3fff::/20")  # the first holds Teredo
)
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_ISATAP: Final = frozenset({0x0000_5EFE, 0x0200_5EFE})
_DISCARD_PORT: Final = 9


def parse(text: str) -> Address | None:
    """The address that ``text`` spells in full: four decimal numbers, or IPv6; else ``None``.

    No short, octal or hexadecimal IPv4, and no scope id.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return None if isinstance(address, IPv6) and address.scope_id is not None else address


def public(address: Address) -> bool:
    """Whether ``address`` and every address that it carries lies in the public internet."""
    if isinstance(address, IPv4):
        return not any(address in network for network in _SPECIAL4)
    if address.scope_id is not None:
        return False
    if not all(map(public, carried(address))):
        return False
    if address.ipv4_mapped is not None or address in _NAT64:
        return True
    return address in _GLOBAL6 and not any(address in network for network in _SPECIAL6)


def carried(address: IPv6) -> Iterator[IPv4]:
    """The IPv4 addresses inside ``address``: mapped, compatible, 6to4, Teredo, NAT64, ISATAP."""
    low = int(address) & 0xFFFF_FFFF
    if address.ipv4_mapped is not None:
        yield address.ipv4_mapped
    if int(address) >> 32 == 0 or address in _NAT64:
        yield IPv4(low)
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo
    if int(address) >> 32 & 0xFFFF_FFFF in _ISATAP:
        yield IPv4(low)


def ours(address: Address) -> bool:
    """Whether this machine has ``address`` itself.

    The kernel sends what is for one of its own addresses from that address; a UDP socket shows
    the choice when it is connected, and sends nothing.
    """
    plain = address.ipv4_mapped if isinstance(address, IPv6) else address
    target = plain or address
    family = socket.AF_INET if isinstance(target, IPv4) else socket.AF_INET6
    try:
        with closing(socket.socket(family, socket.SOCK_DGRAM)) as probe:
            probe.connect((str(target), _DISCARD_PORT))
            return parse(probe.getsockname()[0]) == target
    except OSError:
        return False  # no way there: nothing can be connected to either
