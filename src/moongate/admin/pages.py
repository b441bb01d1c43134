"""Pages to print, made from data: escaped by default, without scripts, without another's origin.

A page carries its style and the policy that forbids everything else, so that a saved file is as
tame as a served one.
"""

import base64
import hashlib
from collections.abc import Mapping
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from moongate.core.money import NANOS_PER_USD, nanos_to_usd

_MONTHS: Final = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip
_PLACES_MIN: Final = 2
_ENVIRONMENT: Final = Environment(
    loader=PackageLoader("moongate.admin"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_STYLE: Final = _ENVIRONMENT.get_template("page.css").render()
_DIGEST: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{_DIGEST}'; base-uri 'none'; form-action 'none'"
)
"""The Content-Security-Policy of a page."""


def invoice(data: Mapping[str, Any]) -> str:
    """An invoice as HTML. Every amount has as many decimals as the finest of them needs."""
    amounts = [*_amounts(data), *(n for row in data["lines"] for n in _amounts(row))]
    amounts += [n for row in data["credits"] for n in _amounts(row)]
    places = max(len(nanos_to_usd(nanos).partition(".")[2]) for nanos in amounts)
    return _ENVIRONMENT.get_template("invoice.html").render(
        data,
        css=_STYLE,
        policy=POLICY,
        month_words=f"{_MONTHS[int(data['month'][5:]) - 1]} {data['month'][:4]}",
        usd=lambda nanos: dollars(nanos, places),
    )


def dollars(nanos: int, places: int) -> str:
    """An amount with exactly ``places`` decimals, which suffice for it: ``$1,234.50``."""
    whole, part = divmod(abs(nanos), NANOS_PER_USD)
    sign = "\u2212" if nanos < 0 else ""
    return f"{sign}${whole:,}.{f'{part:09d}'[: max(places, _PLACES_MIN)]}"


def _amounts(row: Mapping[str, Any]) -> list[int]:
    return [
        nanos for name, nanos in row.items() if name.endswith("_nanos") and name != "unit_nanos"
    ]
