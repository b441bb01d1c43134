"""Ways to write an address that lies inside: URLs, the fake DNS behind their names, redirects.

Nothing of it may be connected to. ``PUBLIC`` are the only addresses that may.
"""

from typing import Final

PUBLIC: Final = ("93.184.215.14", "2606:2800:21f:cb07::14")
HOST: Final = "pictures.example.com"
"""A public server, which redirects ``/to?N`` to ``REDIRECTS[N]``."""

INSIDE4: Final = (
    *("0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.127.255.254", "127.0.0.1"),
    *("127.255.255.254", "168.63.129.16", "169.254.169.254", "169.254.170.2", "172.16.0.1"),
    *("172.31.255.254", "192.0.0.8", "192.0.0.170", "192.0.2.1", "192.88.99.1", "192.168.0.1"),
    *("198.18.0.1", "198.19.255.254", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.1.1.1"),
    *("240.0.0.1", "255.255.255.255"),
)
EMBEDDED: Final = ("7f00:1", "a9fe:a9fe", "a00:1")
INSIDE6: Final = (
    *("::", "::1", "fe80::1", "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1", "ff0e::1"),
    *("2001:db8::1", "3fff::1", "100::1", "2001:2::1", "2001:20::1", "5f00::1", "64:ff9b:1::1"),
    *(f"::ffff:{low}" for low in EMBEDDED),
    *(f"::{low}" for low in EMBEDDED),
    *("2002:7f00:1::", "2002:a9fe:a9fe::1", "2002:a00:1:1::1"),
    *(f"64:ff9b::{low}" for low in EMBEDDED),
    *(f"64:ff9b:1::{low}" for low in EMBEDDED),
    # Teredo: the server in front, the client's address inverted at the end.
    *("2001:0:7f00:1::", "2001:0:5db8:d70e::80ff:fffe", "2001:0:5db8:d70e:0:0:5601:5601"),
    *(f"2606:2800:21f:cb07:0:5efe:{low}" for low in EMBEDDED),
    "2606:2800:21f:cb07:200:5efe:a9fe:a9fe",
)
SPELT: Final = (
    *("2130706433", "017700000001", "0x7f000001", "0x7f.0.0.1", "0x7f.1", "127.1", "127.0.1"),
    *("0177.0.0.1", "0177.0.0.01", "127.0.0.0x1", "00.0.0.0", "0", "0x0", "127.0.0.1.", "1."),
    *("127.00.0.1", "2852039166", "0xa9fea9fe", "169.254.43518", "0251.0376.0251.0376"),
    *(
        "①②⑦.⓪.⓪.①",
        "127。0。0。1",
        "\uff11\uff12\uff17.0.0.1",
        "127\uff0e0\uff0e0\uff0e1",
        "①.①.①.①",
    ),
    *("0x7f。1", "[::1%25lo]", "[fe80::1%lo]", "[::ffff:127.0.0.1]", "[0:0:0:0:0:0:0:1]"),
    *("[::ffff:0x7f.1]", "[::127.0.0.1]", "[v1.127]", "127.0.0.1%00.example.com", "%31%32%37.1"),
    *("localhost", "LOCALHOST", "localhost.", "a.localhost", "printer.local", "vault.internal"),
    *("x.onion", "1.0.0.127.in-addr.arpa", "intranet", "ⓛocalhost", "127.0.0.1.0x", "a..b.com"),
)
WRITTEN: Final = (
    *("http://127.0.0.1:8000/v1/models", "http://93.184.215.14:22/", "http://93.184.215.14:6379/"),
    *("http://93.184.215.14:8443/", "http://93.184.215.14:٨٠/", "http://93.184.215.14:0/"),
    *("file:///etc/passwd", "ftp://127.0.0.1/", "gopher://127.0.0.1:80/_x", "//127.0.0.1/"),
    *("dict://127.0.0.1/", "unix:///run/x.sock", "javascript:alert(1)", "http:127.0.0.1"),
    *("http:/127.0.0.1/", "http:///127.0.0.1/", "http://", "jar:http://127.0.0.1/!/"),
    *("http://pictures.example.com@127.0.0.1/", "http://127.0.0.1@pictures.example.com/"),
    *("http://pictures.example.com:80@127.0.0.1/", "http://a:b@127.0.0.1/", "http://@127.0.0.1/"),
    *("http://127.0.0.1\\@pictures.example.com/", "http://pictures.example.com\\@127.0.0.1/"),
    *("http://127.0.0.1#@pictures.example.com/", "http://127.0.0.1?@pictures.example.com/"),
    *("http://127.0.0.1\t/", "http://127.0.0.1\n.example.com/", " http://127.0.0.1/"),
    *("http://127.0.0.1 .example.com/", "http://exa\u200bmple.com/", "http://127.0.0.1:80:443/"),
    *("http://127.0.0.1;pictures.example.com/", "http://127.0.0.1&pictures.example.com/"),
    *("http://[::1]pictures.example.com/", "http://::1/", "http://xn--/", "http://xn--a.com/"),
)
NAMES: Final[dict[str, tuple[tuple[str, ...], ...]]] = {
    HOST: (PUBLIC,),
    **{f"v4-{n}.example.com": ((address,),) for n, address in enumerate(INSIDE4)},
    **{f"v6-{n}.example.com": ((address,),) for n, address in enumerate(INSIDE6)},
    "mixed-a.example.com": ((PUBLIC[0], "127.0.0.1"),),
    "mixed-b.example.com": (("10.0.0.1", PUBLIC[0]),),
    "mixed-c.example.com": ((*PUBLIC, "::1"),),
    "scoped.example.com": (("fe80::1%2",),),
    "short.example.com": (("127.1",),),
    "empty.example.com": ((),),
}
"""A name's answers; the last one holds on."""
REBOUND: Final[dict[str, tuple[tuple[str, ...], ...]]] = {
    "rebound-a.example.com": ((PUBLIC[0],), ("127.0.0.1",)),
    "rebound-b.example.com": ((PUBLIC[0],), ("169.254.169.254",)),
    "rebound-c.example.com": ((PUBLIC[1],), ("::1",)),
    "rebound-d.example.com": (PUBLIC, ("10.0.0.1", PUBLIC[0])),
}
"""Public when they are looked up first, inside from the second time on."""


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


DIRECT: Final = (
    *(f"http://{_host(address)}/" for address in (*INSIDE4, *INSIDE6)),
    *(f"http://{host}/" for host in SPELT),
    *WRITTEN,
    *(f"http://{name}/" for name in NAMES if name != HOST),
)
REDIRECTS: Final = (
    *(f"http://{_host(address)}/" for address in (*INSIDE4[::4], *INSIDE6[::5])),
    *("http://0x7f.1/", "http://2130706433/", "//127.0.0.1/", "/\\127.0.0.1/", "file:///etc/hosts"),
    *("http://v4-5.example.com/", "http://mixed-a.example.com/", "//v4-8.example.com/x"),
    *("http:127.0.0.1/", "///127.0.0.1/", "http://x@127.0.0.1/", "\thttp://127.0.0.1/", ""),
    *("https://127.0.0.1/", "http://93.184.215.14:22/", "data:image/png;base64,AAAA"),
)
FORMS: Final = (*DIRECT, *(f"http://{HOST}/to?{n}" for n in range(len(REDIRECTS))))
