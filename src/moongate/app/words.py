"""What the operator is told at the start, in sentences."""

import errno

from moongate.core.cards import Offer
from moongate.core.money import Price, nanos_to_per_million


def summary(offer: Offer) -> dict[str, object]:
    """What people are told of a model at the start."""
    return {
        "id": offer.card.id,
        "upstream": offer.upstream,
        "window": offer.window,
        "data_policy": offer.data_policy,
        "stand_in": offer.stand_in,
    }


def price(price: Price) -> str:
    """Input, cached and output price in USD per million tokens."""
    figures = (price.input, price.cached, price.output)
    return " / ".join(f"${nanos_to_per_million(nanos)}" for nanos in figures)


def cannot_listen(host: str, port: int, error: OSError) -> str:
    """Why the address cannot be listened on, and what to do."""
    if error.errno == errno.EADDRINUSE:
        return (
            f"Port {port} on {host} is taken by another program. Stop it, or choose another "
            "port with --port."
        )
    if error.errno == errno.EACCES:
        return f"Port {port} on {host} is not ours to open: ports below 1024 need root."
    why = (error.strerror or "unknown error").lower()
    return f"{host}:{port} cannot be listened on: {why}. Choose with --host and --port."


def callable_host(host: str) -> str:
    """The host to put into an address that is called from this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - not to bind
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
