"""What Compute's error answers mean: one table, from status and reason to the project's errors."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from gce_backend.base.dates import UnixSeconds
from gce_backend.base.errors import (
    AlreadyExistsError,
    ConditionNotMetError,
    InvalidRequestError,
    MalformedResponseError,
    NotFoundError,
    PermissionDeniedError,
    QuotaExceededError,
    RateLimitedError,
    RemoteError,
    ResourceInUseError,
    ResourceNotReadyError,
    TransientError,
    UnauthenticatedError,
)
from gce_backend.clients.exchange import MESSAGE_CHARACTERS, decode, delay_of

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
    403: PermissionDeniedError,
    404: MalformedResponseError,  # without Compute's own notFound it may come from anybody
    412: ConditionNotMetError,
}
WHATEVER_THE_REASON: Mapping[int, type[RemoteError]] = {
    401: UnauthenticatedError,
    408: TransientError,
    429: RateLimitedError,
}


class _Reason(msgspec.Struct, frozen=True, gc=False):
    reason: str = ""


class _ErrorBody(msgspec.Struct, frozen=True, gc=False):
    code: int
    message: str = ""
    errors: tuple[_Reason, ...] = ()
    details: tuple[_Reason, ...] = ()  # ErrorInfo is the only one of them with a reason


class _ErrorEnvelope(msgspec.Struct, frozen=True, gc=False):
    error: _ErrorBody


_ENVELOPE = msgspec.json.Decoder(_ErrorEnvelope, strict=False)


def error_from(
    method: str, status: int, retry_after: str | None, body: bytes, now: UnixSeconds
) -> RemoteError:
    """The error that an answer with a status other than 2xx means.

    Args:
        method: what was called.
        retry_after: the Retry-After header.
        body: the answer's body; only Compute's own error envelope can say `notFound`.
    """
    try:
        error = decode(method, body, _ENVELOPE).error
    except MalformedResponseError:
        error = _ErrorBody(code=0, message="an answer that is not Compute's error")
    genuine = error.code == status
    reason = error.errors[0].reason if genuine and error.errors else ""
    kind = WHATEVER_THE_REASON.get(status) or BY_REASON.get(reason) or BY_STATUS.get(status)
    if status >= 500:
        kind = TransientError
    elif kind is None or (kind is NotFoundError and status != 404):
        kind = InvalidRequestError
    details = {detail.reason for detail in error.details}
    delay = delay_of(retry_after, now)
    if kind is RateLimitedError:
        if CONCURRENT_OPERATIONS in details:
            reason = CONCURRENT_OPERATIONS
            delay = delay or _CONCURRENCY_SECONDS
        # The next of Google's minutes, and a second in case its clock is behind ours.
        delay = delay or 61.0 - now % 60.0
    message = error.message[:MESSAGE_CHARACTERS] or "no message"
    if 300 <= status < 400:
        message = "redirects are not followed"
    return kind(method, message, status=status, reason=reason, retry_after=delay)
