"""Whether the process lives (`/healthz`) and whether it works (`/readyz`). Pure judgements."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from gce_backend.base.dates import UnixSeconds
from gce_backend.engine.job import Verdict
from gce_backend.engine.scheduler import JobStatus

READY_SECONDS = 300.0
"""How old the last success may be of a job on which readiness depends."""
LAG_SECONDS = 5.0
"""How late the event loop may be before the process counts as unwell."""

NEEDED = {"import-config": "configuration", "fetch-instances": "compute"}
"""The jobs whose success shows that what they read from can be reached."""


STANDBY = "leader"
"""The check that only a standby daemon shows."""

LOOKED_AT = {
    "permissions": "none is known to be missing",
    "addresses": "the daemon may use them",
    "alone": "no other daemon is known to work on the store",
}
"""What the daemon looks at itself, seldom, and what is said of it while nothing is wrong."""


class Check(msgspec.Struct, frozen=True):
    """One thing that was looked at.

    Attributes:
        name: what.
        ok: whether it is well.
        message: how it is, in words.
    """

    name: str
    ok: bool
    message: str


def liveness(stuck: Sequence[str], lag: float) -> list[Check]:
    """Whether the process lives: a restart would fix what fails here.

    Args:
        stuck: jobs far past their deadline.
        lag: how late the event loop was in the last while, seconds.
    """
    jobs = f"stuck past their deadline: {', '.join(stuck)}" if stuck else "none is stuck"
    return [
        Check("jobs", not stuck, jobs),
        Check("event_loop", lag < LAG_SECONDS, f"late by {lag:.3f} s at most"),
    ]


def readiness(
    *,
    store_loaded: bool,
    store_error: str,
    jobs: Iterable[JobStatus],
    messages: str,
    looked_at: Mapping[str, str],
    now: UnixSeconds,
) -> list[Check]:
    """Whether the process works: store, configuration and Compute were reached lately.

    Args:
        store_loaded: whether the entities have been read.
        store_error: why not; "" when nothing failed.
        jobs: all jobs' status.
        messages: why no messages can be pulled; "" while they can.
        looked_at: what the daemon has found wrong with itself, by check.
    """
    store = "the entities are loaded" if store_loaded else store_error or "not read yet"
    checks = [Check("store", store_loaded, store)]
    by_name = {job.name: job for job in jobs}
    for name, what in NEEDED.items():
        if name in by_name:
            checks.append(_reached(what, by_name[name], now))
    messages = messages or looked_at.get("messages", "")
    checks.append(Check("messages", not messages, messages or "being pulled"))
    for name, well in LOOKED_AT.items():
        wrong = looked_at.get(name, "")
        checks.append(Check(name, not wrong, wrong or well))
    return checks


def standby(leader: str, error: str) -> list[Check]:
    """Whether a daemon works that does not lead: it does not.

    Args:
        leader: the daemon that leads; "" when none does.
        error: why that is unknown; "" when it is known.
    """
    if error:
        return [Check("store", ok=False, message=error)]
    return [Check(STANDBY, ok=False, message=f"stands by: {leader or 'no daemon'} leads")]


def _reached(what: str, job: JobStatus, now: UnixSeconds) -> Check:
    last = job.last
    if last is None:
        return Check(what, ok=False, message=f"{job.name} has not run yet")
    if last.verdict not in {Verdict.OK, Verdict.DEGRADED}:
        return Check(what, ok=False, message=f"{job.name}: {last.error or last.verdict.value}")
    age = now - last.started_at
    if age > READY_SECONDS:
        return Check(what, ok=False, message=f"{job.name} last succeeded {age:.0f} s ago")
    problems = f"; {last.problems[0]}" if last.problems else ""
    return Check(what, ok=True, message=f"reached {max(age, 0.0):.0f} s ago{problems}")
