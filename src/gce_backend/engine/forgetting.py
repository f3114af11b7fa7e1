"""Ends, after each run of a job, its conditions about subjects that the job no longer acts on."""

from __future__ import annotations

import dataclasses

from gce_backend.base.errors import MissingEntityError
from gce_backend.engine.context import Context
from gce_backend.engine.job import Job, Outcome
from gce_backend.fleet.conditions import Subject
from gce_backend.model.keys import Key


def forgetting(job: Job[Context]) -> Job[Context]:
    """The same job; after each run, its conditions about other subjects end."""

    async def run(context: Context) -> Outcome:
        try:
            return await job.run(context)
        finally:
            forget(job, context)

    return dataclasses.replace(job, run=run)


def forget(job: Job[Context], context: Context) -> None:
    """Ends a job's conditions about subjects that are gone, or that it no longer acts on."""

    def is_business(subject: Subject) -> bool:
        try:
            if isinstance(subject, Key):
                return job.concerns(context, subject)
            return job.topics(context, subject)
        except MissingEntityError:  # what is above it cannot be read: nothing is known of it
            return True

    context.conditions.retain(is_business)
