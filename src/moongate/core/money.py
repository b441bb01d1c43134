"""Usage, prices and charges as integers: one nano-dollar is 10^-9 USD, and no float comes near.

A price quoted in USD per million tokens with at most three decimals is a whole number of
nano-dollars per token ($0.001 per million is exactly 1), so a charge is a dot product of
integers: no division, no rounding. This module refuses to know who pays.
"""

import re

import msgspec

NANOS_PER_USD = 1_000_000_000
_USD = re.compile(r"(-?)(\d{1,9})(?:\.(\d{1,9}))?")


class Counts(msgspec.Struct, frozen=True):
    """Token counts in an upstream's own words; ``None`` is *not said*, which is not 0.

    ``prompt`` includes ``cached``; ``completion`` includes ``reasoning`` (tokens).
    """

    prompt: int | None = None
    completion: int | None = None
    cached: int | None = None
    reasoning: int | None = None


class Usage(msgspec.Struct, frozen=True):
    """What one request used, in disjoint classes that are billed (tokens; searches in calls).

    ``input`` is the uncached prompt, ``cache_read`` the cached one, ``output`` everything
    generated. ``reasoning`` is a remark about ``output`` (``None``: not told), never billed
    beside it. ``estimated`` says that a count is ours because the upstream stayed silent.
    """

    input: int = 0
    cache_read: int = 0
    output: int = 0
    searches: int = 0
    reasoning: int | None = None
    estimated: bool = False

    def __post_init__(self) -> None:
        if min(self.input, self.cache_read, self.output, self.searches) < 0:
            raise ValueError("usage classes cannot be negative")

    @property
    def prompt(self) -> int:
        """Tokens of the whole prompt, cached ones included."""
        return self.input + self.cache_read

    @property
    def total(self) -> int:
        """Tokens of prompt and output together."""
        return self.prompt + self.output


class Price(msgspec.Struct, frozen=True):
    """Nano-dollars per uncached input, cached input and output token, and per search call."""

    input: int
    cached: int
    output: int
    search: int = 0


class Bill(msgspec.Struct, frozen=True):
    """What the customer sees at the end of an answer: the usage and its charge in nano-dollars.

    ``attempts``: how many answers were made until one was as promised; ``usage`` is that one's.
    ``saved_nanos``: what its cached tokens cost less than uncached ones. ``search_errors``: a word
    for each search that was asked for and brought nothing; it is no part of the charge.
    """

    usage: Usage
    cost_nanos: int
    attempts: int = 1
    saved_nanos: int = 0
    search_errors: tuple[str, ...] = ()


def charge(usage: Usage, price: Price) -> int:
    """Nano-dollars for ``usage`` at ``price``: an exact integer dot product."""
    return (
        usage.input * price.input
        + usage.cache_read * price.cached
        + usage.output * price.output
        + usage.searches * price.search
    )


def saved(cached: int, price: Price) -> int:
    """Nano-dollars that ``cached`` prompt tokens cost less at ``price`` than uncached ones."""
    return cached * (price.input - price.cached)


def usd_to_nanos(text: str) -> int:
    """Read a decimal string of dollars (``"5"``, ``"0.48"``, ``"-1.25"``) as nano-dollars.

    Raises ValueError when it is not such a decimal, or finer than a nano-dollar.
    """
    found = _USD.fullmatch(text.strip())
    if found is None:
        raise ValueError("not an amount in dollars with at most nine decimals")
    sign, whole, part = found.groups()
    nanos = int(whole) * NANOS_PER_USD + int((part or "").ljust(9, "0"))
    return -nanos if sign else nanos


def per_million_to_nanos(text: str) -> int:
    """Read a price in USD per million tokens (``"0.48"``) as nano-dollars per token (480).

    Raises ValueError when it is negative, or has more than three decimals: a finer price is
    no whole number of nano-dollars per token.
    """
    nanos = usd_to_nanos(text)
    if nanos < 0:
        raise ValueError("a price cannot be negative")
    if nanos % 1_000_000:
        raise ValueError("a price per million tokens has at most three decimals")
    return nanos // 1_000_000


def nanos_to_usd(nanos: int) -> str:
    """Write nano-dollars as an exact decimal string of dollars, at least two decimals."""
    whole, part = divmod(abs(nanos), NANOS_PER_USD)
    digits = f"{part:09d}".rstrip("0").ljust(2, "0")
    return f"{'-' if nanos < 0 else ''}{whole}.{digits}"


def nanos_to_per_million(nanos: int) -> str:
    """Write nano-dollars per token (480) as USD per million tokens (``"0.48"``)."""
    return nanos_to_usd(nanos * 1_000_000)
