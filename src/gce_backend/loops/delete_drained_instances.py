"""delete-drained-instances: machines that drained, stopped or got lost go."""

from __future__ import annotations

from gce_backend.actions.deletion import delete
from gce_backend.engine.context import Context
from gce_backend.engine.job import Job, Outcome
from gce_backend.model.entities import Instance
from gce_backend.model.keys import MachineKey
from gce_backend.rules.permits import is_leaving


async def run(context: Context) -> Outcome:
    """Deletes them, one call for many of a group, until they are truly gone."""

    def leaves(key: MachineKey, instance: Instance) -> bool:
        active = context.fleet.is_active(key.group)
        patience = context.settings.deletion.stopped_seconds
        return is_leaving(instance, context.clock.elapsed, patience, active=active)

    return await delete(context, leaves)


JOB = Job(
    name="delete-drained-instances",
    run=run,
    timeout=120.0,
    wakes=("fetch-instances", "cleanup-entities", "delete-instance-group-managers"),
)
