"""What Compute's error answers mean: one table, from status and reason to the project's errors."""

from __future__ import annotations

from collections.abc import Mapping

from gce_backend.base.dates import UnixSeconds
from gce_backend.base.errors import (
    AlreadyExistsError,
    ConditionNotMetError,
    MalformedResponseError,
    NotFoundError,
    QuotaExceededError,
    RateLimitedError,
    RemoteError,
    ResourceInUseError,
    ResourceNotReadyError,
    TransientError,
)
from gce_backend.clients.error_table import ErrorTable, said_in
from gce_backend.clients.exchange import Answer

CONCURRENT_OPERATIONS = "CONCURRENT_OPERATIONS_QUOTA_EXCEEDED"
"""ErrorInfo's reason when too many operations run at once; calls per minute are not used up."""

_CONCURRENCY_SECONDS = 10.0

BY_REASON: Mapping[str, type[RemoteError]] = {
    "notFound": NotFoundError,
    "alreadyExists": AlreadyExistsError,
    "conditionNotMet": ConditionNotMetError,
    "rateLimitExceeded": RateLimitedError,
    "userRateLimitExceeded": RateLimitedError,
    "quotaExceeded": QuotaExceededError,
    "dailyLimitExceeded": QuotaExceededError,
    "resourceNotReady": ResourceNotReadyError,
    "resourceInUseByAnotherResource": ResourceInUseError,
    "backendError": TransientError,
    "internalError": TransientError,
}
BY_STATUS: Mapping[int, type[RemoteError]] = {
    404: MalformedResponseError,  # without Compute's own notFound it may come from anybody
    412: ConditionNotMetError,
}
ERRORS = ErrorTable(BY_REASON, BY_STATUS)


def error_from(method: str, answer: Answer, now: UnixSeconds) -> RemoteError:
    """The error that an answer with a status other than 2xx means, with when to try again.

    Args:
        method: what was called.
        answer: only Compute's own error object in its body can say `notFound`.
    """
    error = ERRORS.error(method, answer, now)
    if isinstance(error, RateLimitedError):
        said = said_in(answer.body)
        if said is not None and CONCURRENT_OPERATIONS in said.details:
            error.reason = CONCURRENT_OPERATIONS
            error.retry_after = error.retry_after or _CONCURRENCY_SECONDS
        # The next of Google's minutes, and a second in case its clock is behind ours.
        error.retry_after = error.retry_after or 61.0 - now % 60.0
    return error
