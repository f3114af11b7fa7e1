"""Metrics as Prometheus text."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from gce_backend import __version__
from gce_backend.job import Verdict
from gce_backend.limits import QuotaGroup
from gce_backend.metrics import Metrics, Sample


def samples(metrics: Metrics) -> dict[tuple[str, frozenset[str]], float]:
    """Name and label values to the number, as a scraper reads them."""
    return {
        (sample.name, frozenset(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }


def labels(*values: str) -> frozenset[str]:
    """Label values, in any order."""
    return frozenset(values)


def test_runs_are_counted_by_outcome() -> None:
    """A run that failed does not move the time of the last success."""
    metrics = Metrics()
    metrics.job_run("a", Verdict.DEGRADED, 0.2, 100.0)
    metrics.job_run("a", Verdict.TIMEOUT, 30.0, 200.0)
    found = samples(metrics)
    assert found["gce_backend_job_runs_total", labels("a", "degraded")] == 1
    assert found["gce_backend_job_runs_total", labels("a", "timeout")] == 1
    assert found["gce_backend_job_last_success_timestamp_seconds", labels("a")] == 100
    assert found["gce_backend_job_duration_seconds_sum", labels("a")] == 30.2


def test_calls_are_counted_by_method_status_and_group() -> None:
    """Groups may be enums or texts; a call without an answer has a status of its own."""
    metrics = Metrics()
    metrics.call("compute.instances.get", QuotaGroup.READ, 200, 0.1)
    metrics.call("datastore.projects.commit", "", None, 0.1)
    found = samples(metrics)
    group = str(QuotaGroup.READ.value)
    assert found["gce_backend_calls_total", labels("compute.instances.get", "200", group)] == 1
    assert found["gce_backend_calls_total", labels("datastore.projects.commit", "none", "")] == 1
    assert found["gce_backend_call_duration_seconds_count", labels("compute.instances.get")] == 1


def test_states_are_what_was_set_last() -> None:
    """Gauges, and the build's version."""
    metrics = Metrics()
    metrics.queue_depth(3)
    metrics.config(problems=2, held=True)
    metrics.actuation_paused(paused=True)
    metrics.loop_lag(0.5)
    metrics.deletions_held(4)
    metrics.message("LEASED", "done")
    found = samples(metrics)
    expected = {
        "queue_depth": 3,
        "config_problems": 2,
        "config_held": 1,
        "actuation_paused": 1,
        "loop_lag_seconds": 0.5,
        "deletions_held": 4,
    }
    assert {name: found[f"gce_backend_{name}", labels()] for name in expected} == expected
    assert found["gce_backend_messages_total", labels("LEASED", "done")] == 1
    assert found["gce_backend_build_info", labels(__version__)] == 1


def test_machines_and_budget_are_read_at_each_look() -> None:
    """A state that nothing is in any more is gone, not stale."""
    metrics = Metrics()
    machines: list[Sample] = [(("t", "z", "running"), 5)]
    metrics.read_machines(lambda: machines)
    metrics.read_call_budget(lambda: [(("p", "read"), 1399.0)])
    found = samples(metrics)
    assert found["gce_backend_machines", labels("t", "z", "running")] == 5
    assert found["gce_backend_call_budget_remaining", labels("p", "read")] == 1399
    machines[:] = [(("t", "z", "deleting"), 5)]
    found = samples(metrics)
    assert ("gce_backend_machines", labels("t", "z", "running")) not in found
    assert found["gce_backend_machines", labels("t", "z", "deleting")] == 5


def test_two_metrics_do_not_share_anything() -> None:
    """There is no global registry."""
    first, second = Metrics(), Metrics()
    first.queue_depth(1)
    assert samples(second)["gce_backend_queue_depth", labels()] == 0
