"""What `/metrics` shows, in the format of Prometheus. Labels hold no ids of people or items."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """Counters of one server."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self.requests = Counter(
            "llmrec_requests", "Requests by route, method and status.", ["route", "method", "status"], registry=registry
        )
        self.seconds = Histogram(
            "llmrec_request_seconds",
            "Seconds until the end of the answer.",
            ["route"],
            buckets=SECONDS,
            registry=registry,
        )
        self.in_progress = Gauge("llmrec_requests_in_progress", "Requests in progress.", registry=registry)
        self.lists = Counter("llmrec_lists", "Lists by the way they were chosen.", ["choice"], registry=registry)
        self.impressions = Counter("llmrec_impressions", "Shown items.", ["outcome"], registry=registry)
        self.feedback = Counter("llmrec_feedback_events", "Events from clients.", ["outcome"], registry=registry)
        self.batch = Histogram(
            "llmrec_batch_size",
            "Rankings in a forward pass of the model.",
            buckets=(1, 2, 4, 8, 16, 32),
            registry=registry,
        )
        self.cache = Counter("llmrec_rankings", "Rankings by their source.", ["source"], registry=registry)
        self.commit_seconds = Histogram(
            "llmrec_commit_seconds", "Seconds of a transaction of the store.", buckets=SECONDS, registry=registry
        )
        self.commit_rows = Counter("llmrec_commit_rows", "Rows that the store committed.", registry=registry)

    def watch(self, name: str, description: str, value: Callable[[], float]) -> None:
        """Adds a gauge that is read when the metrics are shown."""
        Gauge(name, description, registry=self._registry).set_function(value)

    def committed(self, seconds: float, rows: int) -> None:
        """Counts a transaction of the store."""
        self.commit_seconds.observe(seconds)
        self.commit_rows.inc(rows)

    def cached(self, hit: bool) -> None:
        """Counts a ranking that was kept from before, or that the model has to compute."""
        self.cache.labels("cache" if hit else "model").inc()

    def text(self) -> bytes:
        """All metrics in the text format of Prometheus."""
        return generate_latest(self._registry)
