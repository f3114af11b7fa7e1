"""Whether the process lives (`/healthz`) and whether it works (`/readyz`). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from gce_backend.base.dates import UnixSeconds
from gce_backend.engine.job import Verdict
from gce_backend.engine.scheduler import JobStatus

READY_SECONDS = 300.0
"""Seconds since its last success after which a needed job makes the process not ready."""
LAG_SECONDS = 5.0
"""Seconds by which the event loop may be late before liveness fails."""

NEEDED = {"import-config": "configuration", "fetch-instances": "compute"}
"""Jobs whose success shows that a service can be reached, and the name of its check."""


STANDBY = "leader"
"""The check that only a standby daemon shows."""

LOOKED_AT = {
    "permissions": "none is known to be missing",
    "addresses": "the daemon may use them",
    "alone": "no other daemon is known to work on the store",
}
"""The checks of the daemon's self-check, and their message while nothing is wrong."""


class Check(msgspec.Struct, frozen=True):
    """The result of one check.

    Attributes:
        ok: whether it passes.
        message: the result as a sentence.
    """

    name: str
    ok: bool
    message: str


def liveness(stuck: Sequence[str], lag: float) -> list[Check]:
    """The checks of liveness: a restart fixes what fails here.

    Args:
        stuck: jobs far past their deadline.
        lag: by how many seconds the event loop was late recently.
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
    """The checks of readiness: store, configuration and Compute were reached recently.

    Args:
        store_loaded: whether the entities have been read.
        store_error: why not; "" when nothing failed.
        jobs: all jobs' status.
        messages: why no messages can be pulled; "" while they can.
        looked_at: the problems that the self-check has found, by check.
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


def standby(leader: str, error: str, age: float | None) -> list[Check]:
    """Whether a daemon works that does not lead: it does not.

    Args:
        leader: the daemon that leads; "" when none does.
        error: why that is unknown; "" when it is known.
        age: seconds since its picture of the fleet was current; None before it is loaded.
    """
    if error:
        return [Check("store", ok=False, message=error)]
    told = "reads its picture of the fleet" if age is None else f"its picture is {age:.0f} s old"
    return [Check(STANDBY, ok=False, message=f"stands by: {leader or 'no daemon'} leads; {told}")]


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
