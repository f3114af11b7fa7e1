"""The metrics of the process as Prometheus text. Each `Metrics` has its own registry.

Counters and histograms are notified of events. The gauges of `READINGS` are read at each scrape,
and passed to `Metrics.render`. The number of values of a label is bounded by the configuration or
by the code. `job` and `instance` are not used as labels, because Prometheus sets labels of these
names.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from gce_backend import __version__
from gce_backend.base.dates import UnixSeconds
from gce_backend.engine.job import Verdict

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""The content type of `Metrics.render`."""

UNKNOWN_KIND = "unknown"
"""The kind of a message that cannot be understood."""
MESSAGE_OUTCOMES = ("processed", "stale", "set-aside")
"""What becomes of a message."""
NOTICE_OUTCOMES = ("sent", "dropped", "refused", "expired")
"""What becomes of a notice for a webhook."""
REFUSALS = ("crowded", "malformed", "token")
"""Why the HTTP endpoint refuses a connection or a request before a handler sees it."""

_PREFIX = "gce_backend_"
_RUN_SECONDS = (0.005, 0.02, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_LAG_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 60.0, 300.0)
_CALL_SECONDS = (0.002, 0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 130.0)
_LIFE_SECONDS = (1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 14400.0, 86400.0)

# For the whole process: no `_created` series beside each counter and histogram.
disable_created_metrics()  # type: ignore[no-untyped-call]  # it has no types

M = TypeVar("M", Counter, Gauge, Histogram)

Sample = tuple[tuple[str, ...], float]
"""Label values, and the number."""


class Reading(NamedTuple):
    """A gauge that is read at each scrape."""

    name: str
    text: str
    labels: tuple[str, ...] = ()


_PLACE = ("template", "zone")

READINGS = (
    Reading("machines", "Machines; tombstones are not counted.", ("template", "zone", "state")),
    Reading(
        "machines_useful", "Machines that are leased or can be, old revisions' included.", _PLACE
    ),
    Reading("machines_lost", "Machines that the catalog no longer holds.", _PLACE),
    Reading("group_minimum_size", "Machines to keep at least.", _PLACE),
    Reading("group_wanted_size", "Machines that are needed now.", _PLACE),
    Reading("group_surplus", "Machines beyond those that are needed.", _PLACE),
    Reading("group_maximum_size", "Machines to keep at most; none without limit.", _PLACE),
    Reading(
        "group_target_size",
        "Machines that Compute tries to have, as last seen; revision is active or drained.",
        ("template", "zone", "revision"),
    ),
    Reading("cost_per_hour", "About what the machines cost in an hour.", _PLACE),
    Reading(
        "idle_cost_per_hour",
        "About what the machines that can be leased cost in an hour.",
        _PLACE,
    ),
    Reading("requests_waiting", "Machines that requests wait for, by who serves.", _PLACE),
    Reading("requests_unserved", "Machines that requests wait for and no group can serve."),
    Reading("conditions", "Conditions, by job and reason.", ("job_name", "reason")),
    Reading("corrupt_entities", "Stored entities that cannot be read."),
    Reading(
        "deletions_held",
        "Deletions that the caps hold back; cause is rollout or other.",
        ("permit", "cause"),
    ),
    Reading(
        "config_info", "Always 1; says the configuration in force.", ("config_set", "revision")
    ),
    Reading(
        "config_imported_timestamp_seconds",
        "When the configuration in force was imported, in Unix seconds.",
    ),
    Reading("actuation_paused", "1 while the whole fleet is paused."),
    Reading(
        "pause_since_timestamp_seconds",
        "When an operator paused this part, in Unix seconds; an empty label means any.",
        _PLACE,
    ),
    Reading(
        "rollout_order_since_timestamp_seconds",
        "When an operator paused or undid a roll-out, in Unix seconds; order is paused or undone.",
        ("template", "order"),
    ),
    Reading("ready", "Each check of /readyz: 1 while it passes.", ("check",)),
    Reading("leader", "1 while this daemon works, 0 while it stands by."),
    Reading(
        "picture_age_seconds",
        "Seconds since the picture of the entities was known to be current; 0 in a leader.",
    ),
    Reading("queue_depth", "Pulled messages that wait for the job."),
    Reading("queue_working", "Pulled messages that the job is processing."),
    Reading("queue_oldest_message_age_seconds", "How long ago the oldest pulled message arrived."),
    Reading("set_aside_messages", "Messages that could not be understood and are kept."),
    Reading(
        "call_budget_remaining",
        "Calls that may be sent at this moment; 0 during a pause.",
        ("project", "region", "group"),
    ),
    Reading(
        "call_budget_limit", "Calls that may be sent in any minute.", ("project", "region", "group")
    ),
    Reading("job_consecutive_failures", "Failed runs since the last success.", ("job_name",)),
)


def _lines(values: Mapping[str, Iterable[Sample]]) -> Iterator[str]:
    """The gauges of `READINGS` in the text format, line by line.

    There may be many thousands, for which the library takes ten times as long.
    """
    for reading in READINGS:
        name = _PREFIX + reading.name
        yield f"# HELP {name} {reading.text}\n# TYPE {name} gauge\n"
        for labels, number in values.get(reading.name, ()):
            pairs = sorted(zip(reading.labels, map(_escaped, labels), strict=True))
            told = ",".join([f'{label}="{value}"' for label, value in pairs])
            series = f"{name}{{{told}}}" if told else name
            yield f"{series} {float(number)!r}\n"


def _escaped(value: str) -> str:
    if value.isalnum():
        return value
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _quick(metric: M) -> M:
    """The metric, whose children are found without a lock: each call and run looks for some."""
    metric.labels = functools.cache(metric.labels)  # type: ignore[method-assign]  # only quicker
    return metric


class Metrics:
    """All metrics of the process; the observer of jobs' runs and of calls to services."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._runs = self._counter("job_runs", "Runs of jobs.", "job_name", "outcome")
        self._run_seconds = self._histogram(
            "job_duration_seconds", "How long runs of jobs took.", _RUN_SECONDS, "job_name"
        )
        self._run_lag = self._histogram(
            "job_lag_seconds",
            "How late runs of jobs began after they were due.",
            _LAG_SECONDS,
            "job_name",
        )
        self._last_success = self._gauge(
            "job_last_success_timestamp_seconds",
            "When a run last succeeded, in Unix seconds.",
            "job_name",
        )
        self._calls = self._counter(
            "calls",
            "Requests sent to services; the status is `none` when no answer came.",
            *("api", "method", "status", "group"),
        )
        self._call_seconds = self._histogram(
            "call_duration_seconds",
            "How long requests to services took.",
            _CALL_SECONDS,
            *("api", "method"),
        )
        self._idle_seconds = self._counter(
            "idle_machine_seconds",
            "Seconds that machines in the catalog were not leased, all machines together.",
            *("template", "zone"),
        )
        self._idle_cost = self._counter(
            "idle_cost", "About what these machines cost meanwhile.", "template", "zone"
        )
        self._preempted = self._counter(
            "preemptions", "Machines whose VMs Compute Engine took back.", "template", "zone"
        )
        self._retries = self._counter(
            "call_retries", "Calls that met a transient error and were sent again.", "api", "method"
        )
        self._messages = self._counter(
            "messages", "Messages of the Machine Provider.", "kind", "outcome"
        )
        self._cataloged = self._histogram(
            "machine_created_to_cataloged_seconds",
            "From a machine's first listing in its group to its first entry in the catalog.",
            _LIFE_SECONDS,
            "template",
        )
        self._deleted = self._histogram(
            "machine_reclaimed_to_deleted_seconds",
            "From the news that a machine was reclaimed to the proof that its VM is gone.",
            _LIFE_SECONDS,
            "template",
        )
        self._config_problems = self._gauge(
            "config_problems", "Problems in the configuration that was last read."
        )
        self._config_held = self._gauge(
            "config_held", "1 while a configuration waits for an operator's approval."
        )
        self._untracked = self._gauge(
            "untracked",
            "Resources that carry the daemon's mark at Compute and have no entity.",
            "kind",
        )
        self._loop_lag = self._histogram(
            "loop_lag_seconds", "How late the event loop was, measured each second.", _LAG_SECONDS
        )
        self._refused = self._counter(
            "http_refused",
            "Connections and requests that the HTTP endpoint refused.",
            "reason",
        )
        for reason in REFUSALS:
            self._refused.labels(reason)
        self._tokens_valid = self._gauge(
            "http_tokens_valid", "1 while the newest `http.tokens_file` is in force, else 0."
        )
        self._notices = self._counter(
            "webhook_notices", "What became of notices for webhooks.", "webhook", "outcome"
        )
        self._notices_waiting = self._gauge(
            "webhook_waiting", "Notices that wait for a webhook.", "webhook"
        )
        build = self._gauge("build_info", "Always 1; says the version.", "version")
        build.labels(__version__).set(1)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return _quick(Counter(_PREFIX + name, text, labels, registry=self._registry))

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return _quick(Gauge(_PREFIX + name, text, labels, registry=self._registry))

    def _histogram(
        self, name: str, text: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        made = Histogram(_PREFIX + name, text, labels, buckets=buckets, registry=self._registry)
        return _quick(made)

    def expect(
        self, *, jobs: Iterable[str], kinds: Iterable[str], webhooks: Iterable[str] = ()
    ) -> None:
        """Starts these counters at 0, so that the first failure shows as a rise.

        Args:
            jobs: the jobs' names.
            kinds: of messages.
            webhooks: their formats.
        """
        for job in jobs:
            for verdict in Verdict:
                self._runs.labels(job, verdict.value)
        for kind in kinds:
            for outcome in MESSAGE_OUTCOMES:
                self._messages.labels(kind, outcome)
        for webhook in webhooks:
            self._notices_waiting.labels(webhook)
            for outcome in NOTICE_OUTCOMES:
                self._notices.labels(webhook, outcome)

    def job_run(
        self, job: str, verdict: Verdict, seconds: float, now: UnixSeconds, late: float
    ) -> None:
        """Counts a run that ended.

        Args:
            job: the job's name.
            verdict: how it ended.
            late: seconds from when it was due to when it began.
        """
        self._runs.labels(job, verdict.value).inc()
        self._run_seconds.labels(job).observe(seconds)
        self._run_lag.labels(job).observe(late)
        if verdict in {Verdict.OK, Verdict.DEGRADED}:
            self._last_success.labels(job).set(now)

    def call(self, method: str, group: str | None, status: int | None, seconds: float) -> None:
        """Counts a request to a service.

        Args:
            method: `service.resource.method`, a constant.
            group: the quota group that it counts against; None where there is none.
            status: the HTTP status; None when no answer came.
        """
        api = method.partition(".")[0]
        word = "none" if status is None else str(status)
        self._calls.labels(api, method, word, group or "").inc()
        self._call_seconds.labels(api, method).observe(seconds)

    def retry(self, method: str) -> None:
        """Counts a call that is sent again."""
        self._retries.labels(method.partition(".")[0], method).inc()

    def message(self, kind: str, outcome: str) -> None:
        """Counts a processed message.

        Args:
            kind: SUBSCRIBED, LEASED, RECLAIMED, or `UNKNOWN_KIND`.
            outcome: what became of it, one of `MESSAGE_OUTCOMES`.
        """
        self._messages.labels(kind, outcome).inc()

    def cataloged(self, template: str, seconds: float) -> None:
        """Records the seconds from a machine's first listing to its catalog entry."""
        self._cataloged.labels(template).observe(max(0.0, seconds))

    def preempted(self, template: str, zone: str, number: int) -> None:
        """Counts machines whose VMs Compute Engine took back; 0 starts the series."""
        self._preempted.labels(template, zone).inc(number)

    def deleted(self, template: str, seconds: float) -> None:
        """Records the seconds from a machine's reclamation until its VM was gone."""
        self._deleted.labels(template).observe(max(0.0, seconds))

    def config(self, *, problems: int, held: bool) -> None:
        """Sets the state of the configuration: its problems, and whether it waits for approval."""
        self._config_problems.set(problems)
        self._config_held.set(held)

    def loop_lag(self, seconds: float) -> None:
        """Records by how many seconds the event loop was late."""
        self._loop_lag.observe(seconds)

    def refused_request(self, reason: str) -> None:
        """Counts what the HTTP endpoint refused, for one of `REFUSALS`."""
        self._refused.labels(reason).inc()

    def tokens(self, *, valid: bool) -> None:
        """Sets whether the newest file of tokens is in force."""
        self._tokens_valid.set(valid)

    def notice(self, webhook: str, outcome: str) -> None:
        """Counts a notice for a webhook.

        Args:
            webhook: its format.
            outcome: what became of it, one of `NOTICE_OUTCOMES`.
        """
        self._notices.labels(webhook, outcome).inc()

    def notices_waiting(self, webhook: str, number: int) -> None:
        """Sets how many notices wait for a webhook."""
        self._notices_waiting.labels(webhook).set(number)

    def idle(self, template: str, zone: str, seconds: float, cost: float | None) -> None:
        """Counts machine-seconds without a lease, and what they cost; None when that is unknown."""
        self._idle_seconds.labels(template, zone).inc(seconds)
        if cost is not None:
            self._idle_cost.labels(template, zone).inc(cost)

    def untracked(self, kind: str, number: int) -> None:
        """Sets how many of our resources have no entity. `kind` is instance, group or template."""
        self._untracked.labels(kind).set(number)

    def render(self, readings: Mapping[str, Iterable[Sample]] | None = None) -> bytes:
        """All metrics in the Prometheus text format (`CONTENT_TYPE`).

        Args:
            readings: the numbers of `READINGS`, by name; one that is absent has no series.
        """
        return generate_latest(self._registry) + "".join(_lines(readings or {})).encode()
