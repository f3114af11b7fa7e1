"""What the process counts, as Prometheus text. Each `Metrics` has a registry of its own."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from gce_backend import __version__
from gce_backend.job import Verdict

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""The content type of `Metrics.render`."""

Sample = tuple[tuple[str, ...], float]
"""Label values, and the number."""

_RUN_SECONDS = (0.005, 0.02, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_CALL_SECONDS = (0.002, 0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 130.0)


class _Read(Collector):
    """A gauge whose values are asked for when somebody looks."""

    def __init__(
        self, name: str, text: str, labels: tuple[str, ...], source: Callable[[], Iterable[Sample]]
    ) -> None:
        self._head = (name, text)
        self._labels = labels
        self._source = source

    def describe(self) -> Iterator[GaugeMetricFamily]:
        yield GaugeMetricFamily(*self._head, labels=self._labels)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily(*self._head, labels=self._labels)
        for labels, number in self._source():
            family.add_metric(labels, number)
        yield family


class Metrics:
    """All metrics of the process; the observer of jobs' runs and of calls to services."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self._runs = Counter(
            "gce_backend_job_runs", "Runs of jobs.", ["job", "outcome"], registry=registry
        )
        self._run_seconds = Histogram(
            "gce_backend_job_duration_seconds",
            "How long runs of jobs took.",
            ["job"],
            registry=registry,
            buckets=_RUN_SECONDS,
        )
        self._last_success = Gauge(
            "gce_backend_job_last_success_timestamp_seconds",
            "When a run last ended without failing, in Unix seconds.",
            ["job"],
            registry=registry,
        )
        self._calls = Counter(
            "gce_backend_calls",
            "Calls to services; the status is `none` when no answer came.",
            ["method", "status", "group"],
            registry=registry,
        )
        self._call_seconds = Histogram(
            "gce_backend_call_duration_seconds",
            "How long calls to services took.",
            ["method"],
            registry=registry,
            buckets=_CALL_SECONDS,
        )
        self._messages = Counter(
            "gce_backend_messages",
            "Messages of the Machine Provider.",
            ["kind", "outcome"],
            registry=registry,
        )
        self._queue_depth = self._gauge("queue_depth", "Messages waiting in the internal queue.")
        self._config_problems = self._gauge(
            "config_problems", "Problems in the configuration that was last read."
        )
        self._config_held = self._gauge(
            "config_held", "1 while a configuration waits for an operator's confirmation."
        )
        self._actuation_paused = self._gauge(
            "actuation_paused", "1 while nothing that changes the world is done."
        )
        self._loop_lag = self._gauge(
            "loop_lag_seconds", "How late the event loop was when last measured."
        )
        self._deletions_held = self._gauge(
            "deletions_held", "Deletions that wait because of the cap on deletions."
        )
        self._untracked = Gauge(
            "gce_backend_untracked",
            "What carries our mark at Compute and has no entity.",
            ["kind"],
            registry=registry,
        )
        build = Gauge(
            "gce_backend_build_info", "Always 1; says the version.", ["version"], registry=registry
        )
        build.labels(__version__).set(1)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"gce_backend_{name}", text, registry=self._registry)

    def job_run(self, job: str, verdict: Verdict, seconds: float, now: float) -> None:
        """Counts a run that ended.

        Args:
            job: the job's name.
            verdict: how it ended.
            seconds: how long it took.
            now: wall-clock time of its end in Unix seconds.
        """
        self._runs.labels(job, verdict.value).inc()
        self._run_seconds.labels(job).observe(seconds)
        if verdict in {Verdict.OK, Verdict.DEGRADED}:
            self._last_success.labels(job).set(now)

    def call(self, method: str, group: enum.Enum | str, status: int | None, seconds: float) -> None:
        """Counts a call to a service.

        Args:
            method: `service.resource.method`, a constant.
            group: the quota group that it counts against; "" when there is none.
            status: the HTTP status; None when no answer came.
            seconds: how long it took.
        """
        name = group.value if isinstance(group, enum.Enum) else group
        self._calls.labels(method, "none" if status is None else status, name).inc()
        self._call_seconds.labels(method).observe(seconds)

    def message(self, kind: str, outcome: str) -> None:
        """Counts a message that was dealt with.

        Args:
            kind: SUBSCRIBED, LEASED, RECLAIMED; another fixed word for what is none of them.
            outcome: what became of it, a fixed word.
        """
        self._messages.labels(kind, outcome).inc()

    def queue_depth(self, messages: int) -> None:
        """Sets the number of messages that wait in the internal queue."""
        self._queue_depth.set(messages)

    def config(self, *, problems: int, held: bool) -> None:
        """Sets the state of the configuration: its problems, and whether it waits for approval."""
        self._config_problems.set(problems)
        self._config_held.set(held)

    def actuation_paused(self, *, paused: bool) -> None:
        """Sets whether the switch that stops all actuation is on."""
        self._actuation_paused.set(paused)

    def loop_lag(self, seconds: float) -> None:
        """Sets how late the event loop was."""
        self._loop_lag.set(seconds)

    def deletions_held(self, machines: int) -> None:
        """Sets how many deletions the cap holds back."""
        self._deletions_held.set(machines)

    def untracked(self, kind: str, number: int) -> None:
        """Sets how many resources of ours have no entity: of kind instance, group or template."""
        self._untracked.labels(kind).set(number)

    def read_machines(self, source: Callable[[], Iterable[Sample]]) -> None:
        """Has the machines counted at each look: `((template, zone, state), number)`. Call once."""
        self._read("machines", "Machines.", ("template", "zone", "state"), source)

    def read_call_budget(self, source: Callable[[], Iterable[Sample]]) -> None:
        """Has the call budget read at each look: `((project, group), remaining)`. Call once."""
        text = "Calls that may still be sent in the current minute."
        self._read("call_budget_remaining", text, ("project", "group"), source)

    def _read(
        self, name: str, text: str, labels: tuple[str, ...], source: Callable[[], Iterable[Sample]]
    ) -> None:
        self._registry.register(_Read(f"gce_backend_{name}", text, labels, source))

    def render(self) -> bytes:
        """All metrics in the Prometheus text format (`CONTENT_TYPE`)."""
        return generate_latest(self._registry)
