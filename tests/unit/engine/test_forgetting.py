"""What is left of a job's conditions after a run of it."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import cast

from gce_backend.base.errors import MissingEntityError
from gce_backend.engine.context import Context
from gce_backend.engine.forgetting import forget
from gce_backend.engine.job import Job, Outcome
from gce_backend.fleet.conditions import Conditions
from gce_backend.loops import JOBS
from support.simulation import VirtualClock


async def test_thousands_of_subjects_that_come_and_go_leave_no_condition() -> None:
    """Only what is the job's business keeps its condition, and its count of failures."""
    conditions = Conditions(VirtualClock(), random.Random(1), "a-job")
    other = conditions.of_job("another-job")
    other.note("kept", "Paused", "by somebody")
    for number in range(5000):
        conditions.back_off(f"m{number}", "NotFound", "gone")
        conditions.back_off("lasting", "NotFound", "gone")
        conditions.retain({"lasting", f"m{number}"}.__contains__)
        assert {str(condition.subject) for condition in conditions} == {
            "kept",
            "lasting",
            f"m{number}",
        }
    assert next(iter(conditions.of("lasting"))).failures == 5000


def test_every_job_that_acts_on_entities_says_which_are_its_business() -> None:
    """The others set conditions on what is always there, or end them themselves."""
    silent = {job.name for job in JOBS if "_concerns" not in job.concerns.__name__}
    assert silent == {
        "import-config",
        "process-config",
        "process-pubsub-messages",
        "compress-instance-metadata-updates",
        "cleanup-entities",
        "delete-drained-instances",
        "delete-instances-pending-deletion",
    }


async def test_condition_stays_when_what_is_above_its_subject_is_missing() -> None:
    """Whether it is the job's business cannot be said then, and the run does not fail for it."""
    conditions = Conditions(VirtualClock(), random.Random(1), "a-job")
    conditions.note("a-subject", "MissingEntity", "its revision is missing")

    async def run(_context: object) -> Outcome:
        return Outcome()

    def topics(_context: object, _topic: str) -> bool:
        raise MissingEntityError("its revision is missing")

    job: Job[Context] = Job(name="a-job", run=run, timeout=1.0, topics=topics)
    forget(job, cast("Context", SimpleNamespace(conditions=conditions)))
    assert conditions.reason("a-subject") == "MissingEntity"
