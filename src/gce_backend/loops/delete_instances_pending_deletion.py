"""delete-instances-pending-deletion: deletes machines that were reclaimed."""

from __future__ import annotations

from gce_backend.actions.deletion import delete
from gce_backend.engine.context import Context
from gce_backend.engine.job import Job, Outcome
from gce_backend.model.entities import Instance
from gce_backend.model.keys import MachineKey


async def run(context: Context) -> Outcome:
    """Deletes them, one call for many of a group, until they no longer exist."""
    return await delete(context, _is_reclaimed)


def _is_reclaimed(_: MachineKey, instance: Instance) -> bool:
    return instance.pending_deletion is not None


JOB = Job(
    name="delete-instances-pending-deletion",
    run=run,
    timeout=120.0,
    wakes=("cleanup-entities",),
)
