"""Metrics of the Machine Provider's process as Prometheus text, in a registry of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

NAMESPACE = "machine_provider"
PREFIX = f"{NAMESPACE}_"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_WAIT_SECONDS = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0)
_CALL_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0)

GAUGES = {
    "machines": ("Machines in the catalog.", ("state",)),
    "leases": ("Leases that run.", ("group",)),
    "machines_leased": ("Leased machines.", ("group", "os_family")),
    "machines_idle": ("Machines that can be leased and are not.", ("os_family",)),
    "agents": ("Machines by what their agents do: reports, silent, or none.", ("state",)),
    "requests_waiting": ("Lease requests without a machine.", ()),
    "request_waiting_longest_seconds": ("How long the oldest of them has waited.", ()),
    "leader": ("1 in the process that works, 0 in those that stand by.", ()),
    "access_valid": ("1 while the newest access.cfg is in force, else 0.", ()),
}
"""Gauges that are computed at each scrape: their help texts and labels."""

Readings = Mapping[str, Mapping[tuple[str, ...], float]]
"""The values of each gauge, by label values."""


class _Read(Collector):
    """The gauges."""

    def __init__(self) -> None:
        self.readings: Readings = {}

    def collect(self) -> Iterator[GaugeMetricFamily]:
        for name, (text, labels) in GAUGES.items():
            family = GaugeMetricFamily(PREFIX + name, text, labels=labels)
            for values, number in self.readings.get(name, {}).items():
                family.add_metric(values, number)
            yield family


class ProviderMetrics:
    """Counters, histograms and gauges of one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._read = _Read()
        self.registry.register(self._read)
        ProcessCollector(namespace=NAMESPACE, registry=self.registry)
        counter = partial(Counter, namespace=NAMESPACE, registry=self.registry)
        histogram = partial(Histogram, namespace=NAMESPACE, registry=self.registry)
        self._calls = counter("calls", "Calls answered.", ("method", "status"))
        self._call_seconds = histogram(
            "call_seconds", "How long an answer took.", ("method",), buckets=_CALL_SECONDS
        )
        self._decisions = counter(
            "access_decisions",
            "Who was let in: allowed, denied, no_token, bad_token.",
            ("method", "outcome"),
        )
        self._waits = histogram(
            "request_wait_seconds", "From a lease request to its machine.", buckets=_WAIT_SECONDS
        )
        self._ended = counter(
            "leases_ended",
            "Leases that ended, and requests that stopped waiting: RELEASED, EXPIRED, ...",
            ("reason",),
        )
        self._sent = counter(
            "requests_sent",
            "Requests to Datastore, Pub/Sub, Google's sign-in and issuers.",
            ("method", "status"),
        )
        self._repeated = counter("requests_repeated", "Of these, repetitions.", ("method",))
        self._refused = counter(
            "refused_connections",
            "Connections refused before a request was understood: crowded, malformed.",
            ("reason",),
        )

    def answered(self, method: str, status: int, seconds: float) -> None:
        """A call was answered."""
        self._calls.labels(method, str(status)).inc()
        self._call_seconds.labels(method).observe(seconds)

    def call(self, method: str, group: str | None, status: int | None, seconds: float) -> None:
        """A request was sent."""
        del group, seconds
        self._sent.labels(method, str(status or "none")).inc()

    def retry(self, method: str) -> None:
        """A request is sent again."""
        self._repeated.labels(method).inc()

    def decided(self, method: str, outcome: str) -> None:
        """A caller was allowed or refused."""
        self._decisions.labels(method, outcome).inc()

    def waited(self, seconds: float) -> None:
        """A lease request got a machine."""
        self._waits.observe(seconds)

    def ended(self, reason: str) -> None:
        """A lease ended, or a request stopped waiting."""
        self._ended.labels(reason).inc()

    def refused(self, reason: str) -> None:
        """A connection or a request was refused before a handler saw it."""
        self._refused.labels(reason).inc()

    def render(self, readings: Readings) -> bytes:
        """Everything as text."""
        self._read.readings = readings
        return generate_latest(self.registry)
