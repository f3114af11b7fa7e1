"""Why something cannot go on now, since when, and when it is tried again.

One bad thing spoils only itself: a failure is noted against its subject, backs off alone, and is
shown wherever the subject is shown. Conditions live in memory: after a restart the first try sets
them again.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import msgspec

from gce_backend.base.clock import Clock
from gce_backend.base.errors import (
    BackendError,
    ForeignResourceError,
    OperationFailedError,
    PermissionDeniedError,
    QuotaExceededError,
    RateLimitedError,
    ResourceInUseError,
    ResourceNotReadyError,
    TransientError,
)

FIRST_DELAY = 2.0
LONGEST_DELAY = 600.0
RATE_LIMITED = "RateLimited"
PASSING = frozenset({"Unavailable", RATE_LIMITED})
"""Reasons that end without anybody's doing: what has them is tried again every minute."""
LONGEST_PASSING_DELAY = 60.0
SHARED_DELAY = 10.0
"""Seconds at least until what waits for the same budget of calls is tried again, all together."""


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """What keeps a subject from going on.

    Attributes:
        subject: an entity's key as text, or `configuration`, `machine-provider`, ...
        job: the job that met it.
        reason: one CamelCase word, constant, for searching and alerting.
        message: the explanation, for people.
        since: when it was met first, Unix seconds.
        failures: how often in a row.
        retry_at: when it is tried again, on the clock's monotonic time.
    """

    subject: str
    job: str
    reason: str
    message: str
    since: float
    failures: int
    retry_at: float


class Conditions:
    """All conditions in force, by subject and job.

    Args:
        clock: the time.
        rng: for the jitter of the delays.
    """

    def __init__(self, clock: Clock, rng: random.Random) -> None:
        self._clock = clock
        self._random = rng
        self._by_subject: dict[str, dict[str, Condition]] = {}

    def fail(
        self, subject: str, job: str, reason: str, message: str, *, retry_after: float | None = None
    ) -> Condition:
        """Notes a failure and backs the subject off: exponentially, with jitter.

        Up to 10 minutes, or up to one minute where the reason passes by itself. Those that wait for
        a budget of calls are due at the same moment: one by one they would only fail one by one.

        Args:
            subject: what failed.
            job: the job that met it.
            reason: one CamelCase word.
            message: the explanation.
            retry_after: seconds to wait at least, where the failure said so.
        """
        earlier = self._by_subject.setdefault(subject, {}).get(job)
        failures = earlier.failures + 1 if earlier else 1
        longest = LONGEST_PASSING_DELAY if reason in PASSING else LONGEST_DELAY
        delay = min(FIRST_DELAY * 2.0 ** min(failures - 1, 16), longest)
        delay = max(delay * self._random.uniform(0.75, 1.0), retry_after or 0.0)
        if reason == RATE_LIMITED and retry_after is not None:
            delay = max(retry_after, SHARED_DELAY)
        condition = Condition(
            subject=subject,
            job=job,
            reason=reason,
            message=message,
            since=earlier.since if earlier and earlier.reason == reason else self._clock.now(),
            failures=failures,
            retry_at=self._clock.monotonic() + delay,
        )
        self._by_subject[subject][job] = condition
        return condition

    def note(self, subject: str, job: str, reason: str, message: str) -> bool:
        """Notes what a subject waits for, without backing it off.

        Returns:
            Whether this is new: not noted with the same words before.
        """
        earlier = self._by_subject.setdefault(subject, {}).get(job)
        if earlier is not None and (earlier.reason, earlier.message) == (reason, message):
            return False
        same = earlier is not None and earlier.reason == reason
        self._by_subject[subject][job] = Condition(
            subject=subject,
            job=job,
            reason=reason,
            message=message,
            since=earlier.since if earlier is not None and same else self._clock.now(),
            failures=0,
            retry_at=self._clock.monotonic(),
        )
        return True

    def clear(self, subject: str, job: str) -> bool:
        """Ends a condition. Returns whether there was one."""
        jobs = self._by_subject.get(subject)
        if jobs is None or jobs.pop(job, None) is None:
            return False
        if not jobs:
            del self._by_subject[subject]
        return True

    def blocked(self, subject: str, job: str) -> bool:
        """Whether the subject must still wait before this job tries it again."""
        condition = self._by_subject.get(subject, {}).get(job)
        return condition is not None and self._clock.monotonic() < condition.retry_at

    def wait(self, subject: str, job: str) -> float | None:
        """Seconds until the subject may be tried again; None when nothing holds it."""
        condition = self._by_subject.get(subject, {}).get(job)
        if condition is None:
            return None
        return max(0.0, condition.retry_at - self._clock.monotonic())

    def of(self, subject: str) -> tuple[Condition, ...]:
        """The conditions of one subject."""
        return tuple(self._by_subject.get(subject, {}).values())

    def __iter__(self) -> Iterator[Condition]:
        for jobs in tuple(self._by_subject.values()):
            yield from tuple(jobs.values())


def reason_of(error: BackendError) -> str:
    """The condition's reason for a failure: one CamelCase word."""
    if isinstance(error, OperationFailedError):
        return _operation_reason(error)
    for kind, reason in (
        (ForeignResourceError, "NameTaken"),
        (RateLimitedError, "RateLimited"),
        (QuotaExceededError, "QuotaExceeded"),
        (PermissionDeniedError, "PermissionDenied"),
        (ResourceInUseError, "ResourceInUse"),
        (ResourceNotReadyError, "ResourceNotReady"),
        (TransientError, "Unavailable"),
    ):
        if isinstance(error, kind):
            return reason
    return type(error).__name__.removesuffix("Error")


def error_code_reason(code: str) -> str:
    """The condition's reason for an error code of an operation or of a group's action."""
    if code.startswith("ZONE_RESOURCE_POOL_EXHAUSTED"):
        return "StockOut"
    if code.startswith(("QUOTA_EXCEEDED", "QUOTA_LIMIT")):
        return "QuotaExceeded"
    if code.startswith("IP_SPACE_EXHAUSTED"):
        return "IpSpaceExhausted"
    if code.startswith("PERMISSIONS_ERROR"):
        return "PermissionDenied"
    return "OperationFailed"


def _operation_reason(error: OperationFailedError) -> str:
    return error_code_reason(error.codes[0]) if error.codes else "OperationFailed"
