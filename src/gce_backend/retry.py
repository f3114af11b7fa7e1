"""Failed calls: what Compute's answer means, whether to repeat it, after how long and how often."""

from __future__ import annotations

import asyncio
import email.utils
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import msgspec

from gce_backend.errors import (
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

T = TypeVar("T")


class Backoff(msgspec.Struct, frozen=True, kw_only=True):
    """Capped exponential back-off with full jitter.

    Attributes:
        first: upper bound of the first wait, in seconds; each next bound is twice as high.
        cap: upper bound of every wait, in seconds.
        tries: how often a call is sent at most, the first time included.
    """

    first: float = 0.5
    cap: float = 10.0
    tries: int = 4

    def delay(self, retry: int, chance: random.Random) -> float:
        """Seconds to wait before the `retry`-th repetition, counted from 1."""
        return chance.uniform(0.0, min(self.cap, self.first * 2.0 ** min(retry - 1, 60)))


class RetryBudget:
    """Lets retries be only a part of all calls, so that they cannot double a service's trouble.

    A token bucket: each first try puts `ratio` of a token in, each retry takes a whole one.

    Args:
        ratio: retries per first try in the long run.
        burst: retries allowed at once when there were few lately.
    """

    def __init__(self, *, ratio: float = 0.1, burst: float = 10.0) -> None:
        self._ratio = ratio
        self._burst = burst
        self._tokens = burst

    def deposit(self) -> None:
        """Notes a first try."""
        self._tokens = min(self._burst, self._tokens + self._ratio)

    def withdraw(self) -> bool:
        """Takes one retry; False when there is none left."""
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


class Retrier:
    """Sends a call again while its failure is transient and the budget lasts.

    A refused token is not repeated here (whoever holds tokens does that once), nor is a call whose
    error asks for a longer wait than the back-off's cap: that is the caller's to schedule.
    """

    def __init__(self, backoff: Backoff, budget: RetryBudget, chance: random.Random) -> None:
        self._backoff = backoff
        self._budget = budget
        self._chance = chance

    async def run(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """The first success of `attempt`, or its last error."""
        self._budget.deposit()
        tries = 1
        while True:
            try:
                return await attempt()
            except UnauthenticatedError:
                raise
            except TransientError as error:
                delay = max(self._backoff.delay(tries, self._chance), error.retry_after or 0.0)
                if tries >= self._backoff.tries or delay > self._backoff.cap:
                    raise
                if not self._budget.withdraw():
                    raise
            tries += 1
            await asyncio.sleep(delay)


CONCURRENT_OPERATIONS = "CONCURRENT_OPERATIONS_QUOTA_EXCEEDED"
"""ErrorInfo's reason when too many operations run at once; calls per minute are not used up."""

MAX_RETRY_AFTER_SECONDS = 300.0
_CONCURRENCY_SECONDS = 10.0
_MAX_MESSAGE = 1000

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


class _Envelope(msgspec.Struct, frozen=True, gc=False):
    error: _ErrorBody


_ENVELOPE = msgspec.json.Decoder(_Envelope, strict=False)


def error_from(
    method: str, status: int, retry_after: str | None, body: bytes, now: float
) -> RemoteError:
    """The error that an answer with a status other than 2xx means.

    Args:
        method: what was called.
        status: HTTP status.
        retry_after: the Retry-After header.
        body: the answer's body; only Compute's own error envelope can say `notFound`.
        now: wall-clock time in Unix seconds.
    """
    try:
        error = _ENVELOPE.decode(body).error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        error = _ErrorBody(code=0, message="an answer that is not Compute's error")
    genuine = error.code == status
    reason = error.errors[0].reason if genuine and error.errors else ""
    kind = WHATEVER_THE_REASON.get(status) or BY_REASON.get(reason) or BY_STATUS.get(status)
    if status >= 500:
        kind = TransientError
    elif kind is None or (kind is NotFoundError and status != 404):
        kind = InvalidRequestError
    details = {detail.reason for detail in error.details}
    delay = _delay(retry_after, now)
    if kind is RateLimitedError:
        if CONCURRENT_OPERATIONS in details:
            reason = CONCURRENT_OPERATIONS
            delay = delay or _CONCURRENCY_SECONDS
        # The next of Google's minutes, and a second in case its clock is behind ours.
        delay = delay or 61.0 - now % 60.0
    message = error.message[:_MAX_MESSAGE] or "no message"
    if 300 <= status < 400:
        message = "redirects are not followed"
    return kind(method, message, status=status, reason=reason, retry_after=delay)


def _delay(retry_after: str | None, now: float) -> float | None:
    """Seconds that a Retry-After header asks for, capped; None when it does not."""
    if not retry_after:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(retry_after).timestamp() - now
        except ValueError:
            return None
    return min(seconds, MAX_RETRY_AFTER_SECONDS) if seconds > 0 else None
