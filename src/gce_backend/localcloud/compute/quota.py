"""Calls per minute, per project and method group, as Compute counts them."""

from __future__ import annotations

from typing import Literal

from gce_backend.localcloud.cloud import ServiceError

QuotaGroup = Literal["read", "mutate", "operation_get", "operation_wait"]

_METRICS: dict[QuotaGroup, str] = {
    "read": "read_requests",
    "mutate": "heavy_weight_write_requests",
    "operation_get": "operation_read_requests",
    "operation_wait": "global_operation_wait_requests",
}


class Quota:
    """What each project has used of each method group in the current calendar minute."""

    def __init__(self) -> None:
        self._used: dict[tuple[str, QuotaGroup], tuple[int, int]] = {}

    def charge(self, project: str, group: QuotaGroup, now: float, limit: int) -> None:
        """Counts a call.

        Args:
            project: who calls.
            group: the method group of what is called.
            now: Unix seconds.
            limit: calls allowed in a minute.

        Raises:
            ServiceError: 403 rateLimitExceeded when the minute is used up.
        """
        this_minute = int(now // 60)
        minute, used = self._used.get((project, group), (this_minute, 0))
        if minute != this_minute:
            used = 0
        if used >= limit:
            raise _exceeded(project, _METRICS[group], limit)
        self._used[project, group] = (this_minute, used + 1)


def _exceeded(project: str, metric: str, limit: int) -> ServiceError:
    name = f"compute.googleapis.com/{metric}"
    per_minute = f"{metric}_per_minute_per_project"
    message = (
        f"Quota exceeded for quota metric '{metric}' and limit '{per_minute}' of service "
        f"'compute.googleapis.com' for consumer 'project:{project}'."
    )
    info = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": "RATE_LIMIT_EXCEEDED",
        "domain": "googleapis.com",
        "metadata": {
            "consumer": f"projects/{project}",
            "quota_limit": per_minute,
            "quota_limit_value": str(limit),
            "quota_metric": name,
            "service": "compute.googleapis.com",
        },
    }
    return ServiceError(403, "rateLimitExceeded", message, details=[info])
