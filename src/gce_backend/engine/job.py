"""The types that jobs and the scheduler share: a job, and the outcome of a run.

A job is data: a name, when it runs at the latest, how long it may take, the coroutine function to
run, and the names of the jobs to wake when it changed something. Nothing here does I/O.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec

from gce_backend.model.keys import Key

ContextT = TypeVar("ContextT")

EVERY_MINUTE = "* * * * *"


class Verdict(enum.StrEnum):
    """How a run ended; the label `outcome` of the metrics and the word that the API shows."""

    OK = "ok"  # the run returned, and nothing failed
    DEGRADED = "degraded"  # the run returned; some subjects failed, the rest continued
    ERROR = "error"  # it raised
    TIMEOUT = "timeout"  # it was stopped at its deadline
    CANCELLED = "cancelled"  # the process stopped before it was done


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a run that returned.

    Attributes:
        changed: how many things it changed; more than 0 wakes the jobs downstream.
        again_after: seconds after which to run again although nothing else wakes the job; None when
            its next tick is soon enough. An earlier tick or wake-up replaces it.
        facts: counts for the log and the API, e.g. `{"created": 3, "waiting": 2}`.
        wakes: jobs to run at once whether or not anything changed.
        problems: one text for each thing that failed alone; any makes the verdict "degraded".
    """

    changed: int = 0
    again_after: float | None = None
    facts: Mapping[str, int] = msgspec.field(default_factory=dict)
    wakes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """OK, or DEGRADED when something failed alone."""
        return Verdict.DEGRADED if self.problems else Verdict.OK


def joined(outcomes: Sequence[Outcome]) -> Outcome:
    """The outcome of a run that consists of several parts."""
    facts: Counter[str] = Counter()
    for outcome in outcomes:
        facts.update(outcome.facts)
    waits = [outcome.again_after for outcome in outcomes]
    return Outcome(
        changed=sum(outcome.changed for outcome in outcomes),
        again_after=min((wait for wait in waits if wait is not None), default=None),
        facts=dict(facts),
        wakes=tuple(dict.fromkeys(name for outcome in outcomes for name in outcome.wakes)),
        problems=tuple(problem for outcome in outcomes for problem in outcome.problems),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Job(Generic[ContextT]):
    """One job, as data.

    Attributes:
        name: its name in the spec, e.g. `fetch-instances`.
        run: runs it once. It gets everything through the context, and may be cancelled at any
            await (deadline, end of the process).
        cron: when it runs at the latest, in UTC: five fields, or six with seconds first.
        timeout: the deadline of one run, in seconds.
        wakes: the names of the jobs to run at once when a run changed something.
        concerns: whether the job still acts on an entity. Its conditions on others end with a run.
        topics: the same for a subject that is not an entity, e.g. a project.
    """

    name: str
    run: Callable[[ContextT], Awaitable[Outcome]]
    timeout: float
    cron: str = EVERY_MINUTE
    wakes: tuple[str, ...] = ()
    concerns: Callable[[ContextT, Key], bool] = lambda _context, _key: True
    topics: Callable[[ContextT, str], bool] = lambda _context, _topic: True
