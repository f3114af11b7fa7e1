"""After each run of a job, the conditions end that are about nothing the job would still act on."""

from __future__ import annotations

import dataclasses

from gce_backend.base.errors import MissingEntityError
from gce_backend.engine.context import Context
from gce_backend.engine.job import Job, Outcome
from gce_backend.fleet.conditions import Subject
from gce_backend.model.keys import Key


def forgetting(job: Job[Context]) -> Job[Context]:
    """The same job, with conditions that live only as long as their subject is its business."""

    async def run(context: Context) -> Outcome:
        try:
            return await job.run(context)
        finally:
            forget(job, context)

    return dataclasses.replace(job, run=run)


def forget(job: Job[Context], context: Context) -> None:
    """Ends the conditions of a job that are about what is gone, or no longer its business."""

    def is_business(subject: Subject) -> bool:
        try:
            if isinstance(subject, Key):
                return job.concerns(context, subject)
            return job.topics(context, subject)
        except MissingEntityError:  # what is above it cannot be read: nothing is known of it
            return True

    context.conditions.retain(is_business)
