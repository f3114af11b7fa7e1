"""Calls per minute, as Compute counts them: by project, region and group of methods."""

from __future__ import annotations

from typing import NamedTuple

from gce_backend.base.dates import UnixSeconds
from gce_backend.localcloud.statuses import ServiceError

_LIMITS = {
    "default": "defaultPerMinutePerProject",
    "read_requests": "ReadRequestsPerMinutePerProject",
    "list_requests": "ListRequestsPerMinutePerProject",
    "operation_read_requests": "OperationReadRequestsPerMinutePerProject",
    "heavy_weight_read_requests": "HeavyWeightReadRequestsPerMinutePerProject",
    "default_per_region": "QueriesPerMinutePerRegion",
    "read_requests_per_region": "ReadRequestsPerMinutePerRegion",
    "list_requests_per_region": "ListRequestsPerMinutePerRegion",
    "operation_read_requests_per_region": "OperationReadRequestsPerMinutePerRegion",
    "heavy_weight_read_requests_per_region": "HeavyWeightReadRequestsPerMinutePerRegion",
}
"""The names of the limits, by metric."""


class Metric(NamedTuple):
    """The metric that a call counts towards.

    Attributes:
        name: the metric, without `compute.googleapis.com/`.
        region: its region; None for the whole project.
    """

    name: str
    region: str | None


def metric_of(method: str, region: str | None) -> Metric:
    """The metric that a method counts towards.

    Args:
        method: `compute.resource.method`.
        region: the region in its path; None when it is global.
    """
    _, resource, verb = method.split(".")
    if verb in {"aggregatedList", "wait"}:
        group = "heavy_weight_read_requests"
    elif verb.startswith("get"):
        group = "operation_read_requests" if resource.endswith("Operations") else "read_requests"
    elif verb == "list":
        group = "list_requests"
    else:
        group = "default"
    return Metric(group if region is None else f"{group}_per_region", region)


class Quota:
    """What each project has used of each metric in the current calendar minute."""

    def __init__(self) -> None:
        self._minute = 0
        self._used: dict[tuple[str, Metric], int] = {}

    def charge(self, project: str, metric: Metric, now: UnixSeconds, limit: int) -> None:
        """Counts a call.

        Args:
            project: the caller's project.
            metric: the metric of the call.
            limit: calls allowed in a minute.

        Raises:
            ServiceError: 403 rateLimitExceeded when the minute is used up.
        """
        minute = int(now // 60)
        if minute != self._minute:
            self._minute = minute
            self._used.clear()
        used = self._used.get((project, metric), 0)
        if used >= limit:
            raise _exceeded(project, metric, limit)
        self._used[project, metric] = used + 1


def _exceeded(project: str, metric: Metric, limit: int) -> ServiceError:
    limit_name = _LIMITS[metric.name]
    message = (
        f"Quota exceeded for quota metric 'compute.googleapis.com/{metric.name}' and limit "
        f"'{limit_name}' of service 'compute.googleapis.com' for consumer 'project:{project}'."
    )
    where = {} if metric.region is None else {"quota_location": metric.region}
    info = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": "RATE_LIMIT_EXCEEDED",
        "domain": "googleapis.com",
        "metadata": {
            "consumer": f"projects/{project}",
            "quota_limit": limit_name,
            "quota_limit_value": str(limit),
            "quota_metric": f"compute.googleapis.com/{metric.name}",
            "service": "compute.googleapis.com",
            **where,
        },
    }
    return ServiceError(403, "rateLimitExceeded", message, details=[info])
