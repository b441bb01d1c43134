"""What operators scrape: counters and histograms whose labels come from closed lists.

A label is a catalogue's model id, a configured upstream's name, an outcome or a status; never a
key, an account or anything that a client sent.
"""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from moongate.core.rows import UsageRow

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
        self.running = Gauge("moongate_requests_running", "Requests in flight", registry=registry)
        self.drift = Gauge(
            "moongate_ledger_drift_nanos", "What the books are off by; 0 always", registry=registry
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

    def resolved(self, row: UsageRow) -> None:
        """Count a resolved request from its usage row."""
        self.requests.labels(row.model, row.upstream, row.outcome).inc()
        if row.charge_nanos:
            self.tokens.labels(row.model, "input").inc(row.usage.input)
            self.tokens.labels(row.model, "cached").inc(row.usage.cache_read)
            self.tokens.labels(row.model, "output").inc(row.usage.output)
            self.charged.labels(row.model).inc(row.charge_nanos)
        if row.forgiven_nanos:
            self.forgiven.labels(row.model).inc(row.forgiven_nanos)
        if row.first_token_ms is not None:
            self.first_token.labels(row.model).observe(row.first_token_ms / 1000)
        self.duration.labels(row.model).observe(row.duration_ms / 1000)

    def text(self) -> bytes:
        """The registry in Prometheus' text format."""
        return generate_latest(self.registry)
