"""What operators scrape: counters and histograms whose labels come from closed lists.

A label is a catalogue's model id, a configured upstream's name, an outcome or a status; never a
key, an account or anything that a client sent.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families as families
from prometheus_client.registry import Collector

from moongate.core.money import Bill
from moongate.core.rows import Finding, Outcome

LABELS: Final = ("model", "upstream", "outcome", "kind", "status", "engine")
_DRIFT: Final = "moongate_ledger_drift_nano_usd"
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
        self.routed = Counter(
            "moongate_routed",
            "Requests sent to an upstream, by why it was chosen",
            ["upstream", "kind"],
            registry=registry,
        )
        self.retries = Counter(
            "moongate_retries", "Second tries, sent or over the budget", ["kind"], registry=registry
        )
        self.ejections = Counter(
            "moongate_ejections", "Upstreams ejected", ["upstream"], registry=registry
        )
        self.searches = Counter(
            "moongate_searches", "Searches of the web", ["engine", "outcome"], registry=registry
        )
        self.rates_degraded = Gauge(
            "moongate_rates_degraded",
            "Processes that count rates alone for want of the shared counter",
            registry=registry,
        )
        self.running = Gauge("moongate_requests_running", "Requests in flight", registry=registry)
        Gauge("moongate_workers", "Processes that these figures are of", registry=registry).set(1)
        self.drift = Gauge(
            _DRIFT,
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

    def searched(self, engine: str, outcome: str) -> None:
        """Count a search: ``ok``, or a word for how it failed."""
        self.searches.labels(engine, outcome).inc()

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


class _Given(Collector):
    """Families that somebody else made."""

    def __init__(self, found: Iterable[Metric]) -> None:
        self._found = found

    def collect(self) -> Iterable[Metric]:
        return self._found


def merged(texts: Sequence[bytes]) -> bytes:
    """The registries of several processes as one: counts are added.

    All look at the same ledger, so the largest drift stands for it; what began at some time began
    when the first of them did.
    """
    found: dict[str, Metric] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for text in texts:
        for family in families(text.decode()):
            found.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            into = values.setdefault(family.name, {})
            join = _joining(family.name)
            for sample in family.samples:
                at = sample.name, tuple(sample.labels.items())
                into[at] = join((into[at], sample.value)) if at in into else sample.value
    for name, family in found.items():
        for (sample_name, labels), value in values[name].items():
            family.add_sample(sample_name, dict(labels), value)
    registry = CollectorRegistry()
    registry.register(_Given(found.values()))
    return generate_latest(registry)


def _joining(family: str) -> Callable[[tuple[float, float]], float]:
    """How one figure of two processes becomes one of both."""
    if family.endswith("_created"):
        return min
    return max if family == _DRIFT else sum
