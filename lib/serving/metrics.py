"""What a replica counts, as Prometheus reads it. No label holds a value that a client sends."""

from collections.abc import Sequence
from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)


class Metrics:
    """The counts of one replica."""

    def __init__(self) -> None:
        own = self._registry = CollectorRegistry()
        self._requests = Counter("cartwheel_serve_requests", "Requests.", ("path", "status"), registry=own)
        self._seconds = Histogram(
            "cartwheel_serve_seconds", "From a request to its answer.", ("path",), registry=own, buckets=BUCKETS
        )
        self._answers = Counter("cartwheel_serve_answers", "Answers by what made them.", ("policy",), registry=own)
        self._events = Counter("cartwheel_serve_events", "Events that were taken.", ("event_type",), registry=own)
        self._degraded = Counter("cartwheel_serve_degraded", "Answers without a part.", ("part",), registry=own)
        self._waiting = Gauge("cartwheel_serve_waiting", "Requests that wait or are answered.", registry=own)
        self._release = Gauge("cartwheel_serve_release_info", "1 for the release that answers.", ("release",), registry=own)
        self._as_of = Gauge("cartwheel_serve_release_as_of_seconds", "The moment of the release.", registry=own)
        self._log = Gauge("cartwheel_serve_log_records", "Records of the live log.", ("state",), registry=own)

    def requested(self, path: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._requests.labels(path, status).inc()
        self._seconds.labels(path).observe(seconds)

    def answered(self, policy: str, degraded: Sequence[str]) -> None:
        """A list was made."""
        self._answers.labels(policy).inc()
        self._without(degraded)

    def took(self, kinds: Sequence[str], degraded: Sequence[str]) -> None:
        """Events were taken."""
        for kind in kinds:
            self._events.labels(kind).inc()
        self._without(degraded)

    def _without(self, degraded: Sequence[str]) -> None:
        for part in degraded:
            self._degraded.labels(part).inc()

    def loaded(self, release: str, as_of: datetime) -> None:
        """A release answers from now on."""
        self._release.clear()
        self._release.labels(release).set(1)
        self._as_of.set(as_of.timestamp())

    def text(self, *, waiting: int, log: dict[str, int]) -> bytes:
        """All of it in Prometheus' text format."""
        self._waiting.set(waiting)
        for state, number in log.items():
            self._log.labels(state).set(number)
        return generate_latest(self._registry)
