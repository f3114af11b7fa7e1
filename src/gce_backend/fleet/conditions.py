"""Conditions: why a job cannot continue with a subject, since when, and when it tries again.

A failure affects only its own subject: it is noted against its subject, which backs off, and is
shown wherever the subject is shown. Conditions live in memory: after a restart the first try sets
them again. A condition lasts while its subject concerns its job: each job declares its
subjects, and conditions of all others end after each run.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, TypeAlias

import msgspec

from gce_backend.base.clock import Clock
from gce_backend.base.dates import UnixSeconds
from gce_backend.base.errors import (
    BackendError,
    ForeignResourceError,
    OperationFailedError,
    PermissionDeniedError,
    QuotaExceededError,
    RateLimitedError,
    ReplacedResourceError,
    ResourceInUseError,
    ResourceNotReadyError,
    TransientError,
)
from gce_backend.model.keys import GroupKey, Key, MachineKey

FIRST_DELAY = 2.0
LONGEST_DELAY = 600.0
RATE_LIMITED = "RateLimited"
PASSING = frozenset({"Unavailable", RATE_LIMITED})
"""Reasons that end by themselves: a subject with one is tried again every minute."""
LONGEST_PASSING_DELAY = 60.0
SHARED_DELAY = 10.0
"""Seconds at least until subjects that wait for the same call budget are tried again together."""


Subject: TypeAlias = Key | str
"""An entity's key, or the name of another subject: `configuration`, `project NAME`, ..."""


class Condition(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Why a job cannot continue with a subject.

    Attributes:
        job: the job that set it.
        reason: one CamelCase word, constant, for searching and alerting.
        message: the explanation, for people.
        since: when it was first set, in Unix seconds.
        failures: the number of failures in a row.
        retry_at: when it is tried again, on the clock's monotonic time.
    """

    subject: Subject
    job: str
    reason: str
    message: str
    since: UnixSeconds
    failures: int
    retry_at: float

    def retried(self, clock: Clock) -> UnixSeconds | None:
        """When it is tried again by the wall clock; None when that is at any time."""
        wait = self.retry_at - clock.monotonic()
        return clock.now() + wait if wait > 0 else None


class Alike(NamedTuple):
    """What machines' conditions have in common that are shown as one.

    Attributes:
        group: the machines'.
    """

    group: GroupKey
    job: str
    reason: str


class _Index:
    """All conditions, found by subject, by job, and those of machines by what they share."""

    def __init__(self) -> None:
        self.by_subject: dict[Subject, dict[str, Condition]] = {}
        self.by_job: dict[str, dict[Subject, Condition]] = {}
        self.alike: dict[Alike, dict[MachineKey, Condition]] = {}
        self.others: dict[tuple[Subject, str], Condition] = {}

    def put(self, condition: Condition) -> None:
        subject, job = condition.subject, condition.job
        earlier = self.by_subject.get(subject, {}).get(job)
        if earlier is not None and earlier.reason != condition.reason:
            self._part(earlier)
        self.by_subject.setdefault(subject, {})[job] = condition
        self.by_job.setdefault(job, {})[subject] = condition
        if isinstance(subject, MachineKey):
            alike = Alike(subject.group, job, condition.reason)
            self.alike.setdefault(alike, {})[subject] = condition
        else:
            self.others[subject, job] = condition

    def remove(self, condition: Condition) -> None:
        subject, job = condition.subject, condition.job
        del self.by_subject[subject][job]
        if not self.by_subject[subject]:
            del self.by_subject[subject]
        del self.by_job[job][subject]
        self._part(condition)

    def _part(self, condition: Condition) -> None:
        subject = condition.subject
        if isinstance(subject, MachineKey):
            alike = Alike(subject.group, condition.job, condition.reason)
            del self.alike[alike][subject]
            if not self.alike[alike]:
                del self.alike[alike]
        else:
            del self.others[subject, condition.job]


class Conditions:
    """All conditions in force, through the view of one job that sets and ends its own.

    Args:
        rng: for the jitter of the delays.
        job: the job whose conditions this view sets.
    """

    def __init__(self, clock: Clock, rng: random.Random, job: str) -> None:
        self._clock = clock
        self._random = rng
        self._job = job
        self._index = _Index()

    def of_job(self, job: str) -> Conditions:
        """The same conditions, through the view of another job."""
        other = Conditions(self._clock, self._random, job)
        other._index = self._index
        return other

    def fail(self, subject: Subject, error: BackendError) -> Condition:
        """Notes a failure, and backs the subject off for at least the time in the error."""
        return self.back_off(subject, reason_of(error), str(error), retry_after=error.retry_after)

    def back_off(
        self, subject: Subject, reason: str, message: str, *, retry_after: float | None = None
    ) -> Condition:
        """Notes why a subject is blocked for the job; backs it off exponentially.

        It backs off for up to 10 minutes, or one minute if the reason ends by itself. Machines that
        failed at about the same time are due at the same time, as is what waits for a call budget:
        one by one they would fail one by one, each with a run and a log line. Other subjects have
        jitter.

        Args:
            subject: what the job cannot continue with.
            reason: one CamelCase word.
            message: the explanation.
            retry_after: seconds to wait at least.
        """
        earlier = self._mine(subject)
        failures = earlier.failures + 1 if earlier else 1
        longest = LONGEST_PASSING_DELAY if reason in PASSING else LONGEST_DELAY
        delay = min(FIRST_DELAY * 2.0 ** min(failures - 1, 16), longest)
        spread = self._random.uniform(0.75, 1.0) * delay
        delay = max(self._shared(delay) if _is_machine(subject) else spread, retry_after or 0.0)
        if reason == RATE_LIMITED and retry_after is not None:
            delay = max(retry_after, SHARED_DELAY)
        return self._set(subject, reason, message, failures, delay)

    def _shared(self, delay: float) -> float:
        """At most this delay and three quarters of it at least, until a moment that many share."""
        now, step = self._clock.monotonic(), delay / 4
        return math.floor((now + delay) / step) * step - now

    def note(self, subject: Subject, reason: str, message: str) -> bool:
        """Notes what a subject waits for, without backing it off.

        Returns:
            Whether this is new: not noted with the same words before.
        """
        earlier = self._mine(subject)
        if earlier is not None and (earlier.reason, earlier.message) == (reason, message):
            return False
        self._set(subject, reason, message, 0, 0.0)
        return True

    def clear(self, subject: Subject) -> bool:
        """Ends a condition. Returns whether there was one."""
        condition = self._mine(subject)
        if condition is None:
            return False
        self._index.remove(condition)
        return True

    def retain(self, is_business: Callable[[Subject], bool]) -> None:
        """Ends the job's conditions whose subjects no longer concern it.

        Args:
            is_business: whether the job would still act on a subject.
        """
        for condition in self.mine():
            if not is_business(condition.subject):
                self.clear(condition.subject)

    def blocked(self, subject: Subject) -> bool:
        """Whether the subject must still wait before the job tries it again."""
        return bool(self.wait(subject))

    def wait(self, subject: Subject) -> float | None:
        """Seconds until the subject may be tried again; None when it does not back off."""
        condition = self._mine(subject)
        if condition is None:
            return None
        return max(0.0, condition.retry_at - self._clock.monotonic())

    def reason(self, subject: Subject) -> str | None:
        """Why the job cannot continue with a subject; None when it can."""
        condition = self._mine(subject)
        return condition.reason if condition is not None else None

    def mine(self) -> list[Condition]:
        """The conditions that the job has set."""
        return list(self._index.by_job.get(self._job, {}).values())

    def of_machines(self) -> Mapping[Alike, Mapping[MachineKey, Condition]]:
        """The conditions of machines by what they have in common, the oldest first."""
        return self._index.alike

    def of_others(self) -> list[Condition]:
        """The conditions of all that is no machine."""
        return list(self._index.others.values())

    def of(self, subject: Subject) -> tuple[Condition, ...]:
        """The conditions of one subject, whichever job has set them."""
        return tuple(self._index.by_subject.get(subject, {}).values())

    def __iter__(self) -> Iterator[Condition]:
        for jobs in tuple(self._index.by_subject.values()):
            yield from tuple(jobs.values())

    def _mine(self, subject: Subject) -> Condition | None:
        return self._index.by_subject.get(subject, {}).get(self._job)

    def _set(
        self, subject: Subject, reason: str, message: str, failures: int, delay: float
    ) -> Condition:
        earlier = self._mine(subject)
        condition = Condition(
            subject=subject,
            job=self._job,
            reason=reason,
            message=message,
            since=earlier.since if earlier and earlier.reason == reason else self._clock.now(),
            failures=failures,
            retry_at=self._clock.monotonic() + delay,
        )
        self._index.put(condition)
        return condition


def _is_machine(subject: Subject) -> bool:
    return isinstance(subject, MachineKey)


def reason_of(error: BackendError) -> str:
    """The condition's reason for a failure: one CamelCase word."""
    if isinstance(error, OperationFailedError):
        return _operation_reason(error)
    for kind, reason in (
        (ReplacedResourceError, "Replaced"),
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


_CODES = {
    "ZONE_RESOURCE_POOL_EXHAUSTED": "StockOut",
    "QUOTA_EXCEEDED": "QuotaExceeded",
    "QUOTA_LIMIT": "QuotaExceeded",
    "IP_SPACE_EXHAUSTED": "IpSpaceExhausted",
    "PERMISSIONS_ERROR": "PermissionDenied",
    "RESOURCE_NOT_FOUND": "NotFound",
    "INTERNAL_ERROR": "InternalError",
}


def error_code_reason(code: str) -> str:
    """The condition's reason for an error code of an operation or of a group's action."""
    for beginning, reason in _CODES.items():
        if code.startswith(beginning):
            return reason
    return "OperationFailed"


def _operation_reason(error: OperationFailedError) -> str:
    return error_code_reason(error.codes[0]) if error.codes else "OperationFailed"
