"""What operators scrape: counters and histograms whose labels come from closed lists.

A label is a catalogue's model id, a configured upstream's name, an outcome or a status; never a
key, an account or anything that a client sent.
"""

from collections.abc import Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from moongate.core.money import Bill
from moongate.core.rows import Finding, Outcome

LABELS: Final = ("model", "upstream", "outcome", "kind", "status")
_SECONDS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """One registry of our own, so that two applications in one process do not share counts."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry(auto_describe=True)
        self.requests = Counter(
            "moongate_requests",
            "Resolved requests",
            ["model", "upstream", "outcome"],
            registry=registry,
        )
        self.refusals = Counter(
            "moongate_refusals", "Requests refused before a hold", ["status"], registry=registry
        )
        self.tokens = Counter(
            "moongate_tokens", "Billed tokens", ["model", "kind"], registry=registry
        )
        self.charged = Counter(
            "moongate_charged_nanos", "Nano-dollars charged", ["model"], registry=registry
        )
        self.forgiven = Counter(
            "moongate_forgiven_nanos",
            "Nano-dollars of work not charged",
            ["model"],
            registry=registry,
        )
        self.faults = Counter(
            "moongate_upstream_faults",
            "Faults of upstreams",
            ["upstream", "kind"],
            registry=registry,
        )
        self.rates_degraded = Gauge(
            "moongate_rates_degraded",
            "1 while rates are counted by this process alone for want of the shared counter",
            registry=registry,
        )
        self.running = Gauge("moongate_requests_running", "Requests in flight", registry=registry)
        self.drift = Gauge(
            "moongate_ledger_drift_nano_usd",
            "Nano-dollars by which the ledger contradicts itself, from the check each minute",
            registry=registry,
        )
        self.first_token = Histogram(
            "moongate_first_token_seconds",
            "Time to the first content",
            ["model"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.duration = Histogram(
            "moongate_request_seconds",
            "Time from acceptance to the end",
            ["model"],
            buckets=_SECONDS,
            registry=registry,
        )

    def resolved(
        self, model: str, upstream: str, outcome: Outcome, bill: Bill, forgiven_nanos: int
    ) -> None:
        """Count a resolved request, what was billed and what was forgiven."""
        self.requests.labels(model, upstream, outcome).inc()
        if bill.cost_nanos:
            self.tokens.labels(model, "input").inc(bill.usage.input)
            self.tokens.labels(model, "cached").inc(bill.usage.cache_read)
            self.tokens.labels(model, "output").inc(bill.usage.output)
            self.charged.labels(model).inc(bill.cost_nanos)
        if forgiven_nanos:
            self.forgiven.labels(model).inc(forgiven_nanos)

    def checked(self, found: Sequence[Finding]) -> None:
        """Note what the ledger's check of itself found; 0 means that every sum is right."""
        self.drift.set(sum(max(1, abs(one.nanos)) for one in found))

    def timed(self, model: str, first_token_ms: int | None, duration_ms: int) -> None:
        """Note how long a request took (milliseconds)."""
        if first_token_ms is not None:
            self.first_token.labels(model).observe(first_token_ms / 1000)
        self.duration.labels(model).observe(duration_ms / 1000)

    def text(self) -> bytes:
        """The registry in Prometheus' text format."""
        return generate_latest(self.registry)
