"""delete-drained-instances: deletes machines that drained, stopped or got lost.

It also deletes members that a group cannot create and no longer needs.
"""

from __future__ import annotations

from gce_backend.actions import unknown_machines
from gce_backend.actions.deletion import delete
from gce_backend.actions.resources import beside, use_of
from gce_backend.engine.context import Context
from gce_backend.engine.job import Job, Outcome
from gce_backend.model.entities import Instance
from gce_backend.model.keys import MachineKey
from gce_backend.rules.group_sizes import given_up, wanted_size
from gce_backend.rules.permits import is_leaving


async def run(context: Context) -> Outcome:
    """Deletes them, one call for many of a group, until they no longer exist."""
    unmade = _given_up(context)
    unknown_machines.note(context)

    def leaves(key: MachineKey, instance: Instance) -> bool:
        if key in unmade and instance.gce_id is None:
            return True
        if unknown_machines.awaits(context, key, instance):
            return False
        active = context.fleet.is_active(key.group)
        patience = context.settings.deletion.stopped_seconds
        return is_leaving(instance, context.clock.elapsed, patience, active=active)

    return await delete(context, leaves)


def _given_up(context: Context) -> set[MachineKey]:
    """Members of active groups that cannot be created, beyond the wanted sizes."""
    found: set[MachineKey] = set()
    for key, manager in context.fleet.active_managers():
        group, others = context.memory.seen.groups.get(key), beside(context, key, manager)
        if group is None or others is None or not group.complete:
            continue
        wanted = wanted_size(manager, others, use_of(context, key))
        if group.target_size <= wanted:
            continue
        machines = context.fleet.instances_of(key)
        deleting = {machine.name for machine, one in machines if one.deletion is not None}
        names = given_up(group.members.values(), group.target_size, wanted, deleting)
        found.update(key.child(name) for name in names)
    return found


JOB = Job(
    name="delete-drained-instances",
    run=run,
    timeout=120.0,
    wakes=("fetch-instances", "cleanup-entities", "delete-instance-group-managers"),
)
