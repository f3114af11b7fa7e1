"""delete-instance-group-managers: drained groups that are proven empty are deleted.

One empty list proves nothing. A group is deleted only after two complete checks, some seconds
apart, that each find no instance and a target size of 0, and when only tombstones of its instances
are left.
"""

from __future__ import annotations

from gce_backend.actions import resources
from gce_backend.actions.fan_out import Result, act_on_each
from gce_backend.actions.identity import known_mark, our_group
from gce_backend.base.errors import ForeignResourceError, NotFoundError, ReplacedResourceError
from gce_backend.clients.compute.types import CompleteListing
from gce_backend.engine.context import Context
from gce_backend.engine.job import Job, Outcome
from gce_backend.fleet.picture import Change, when_present
from gce_backend.model.keys import GroupKey, Key
from gce_backend.rules.ownership import Whose, name_taken, whose

INSERT_PATIENCE = 600.0
"""Seconds after which an insert that has left no group is taken to have never happened."""


async def run(context: Context) -> Outcome:
    """Checks the drained groups without living instances, and deletes those proven empty."""
    if context.paused:
        return Outcome(facts={"paused": 1})
    keys = [
        key
        for key, manager in context.fleet.managers.items()
        if not context.fleet.is_active(key)
        and (manager.url is not None or manager.in_flight is not None)
        and not context.fleet.size(key)
    ]
    for key in set(context.memory.seen.empty_since) - set(keys):
        del context.memory.seen.empty_since[key]

    async def act(key: GroupKey) -> Result:
        manager = context.fleet.managers.get(key)
        if manager is None:
            return Result.NOTHING
        if manager.url is None:
            return await _resolve_insert(context, key)
        return await _look(context, key)

    return await act_on_each(context, keys, act)


async def _resolve_insert(context: Context, key: GroupKey) -> Result:
    """A group that drained during its creation: it exists, or it never did."""
    manager = context.fleet.managers[key]
    project = context.fleet.revision_of(key).template.project
    try:
        group = await context.compute.get_group(project, key.zone, context.fleet.group_name(key))
    except NotFoundError:
        started = manager.in_flight.started if manager.in_flight else 0.0
        if context.clock.elapsed(started) < INSERT_PATIENCE:
            return Result.WAITING
        await resources.forget(context, {key: manager.generation})
        return Result.CHANGED
    said = whose(group.description, known_mark(context), key.revision)
    if said is not Whose.OURS:
        await resources.forget(context, {key: manager.generation})
        what = f"group {group.name} in {project}, {key.zone}"
        raise ForeignResourceError(name_taken(what, group.description, said))
    await resources.adopt(context, key, group, manager)
    return Result.CHANGED


async def _look(context: Context, key: GroupKey) -> Result:
    """Checks a group; the second check, some seconds later, deletes it."""
    manager, empty_since = context.fleet.managers[key], context.memory.seen.empty_since
    if manager.is_deleting:
        return await _delete(context, key)
    try:
        if not await _is_empty(context, key):
            empty_since.pop(key, None)
            return Result.NOTHING
    except (NotFoundError, ReplacedResourceError):
        if key in empty_since:  # the second look says the same
            await resources.forget(context, {key: manager.generation})
            return Result.CHANGED
    now = context.clock.monotonic()
    if now - empty_since.setdefault(key, now) < context.settings.rollout.empty_seconds:
        return Result.WAITING
    # The entities above it tell whether it still drains: read last, just before the decision.
    await context.fleet.refresh(key.lineage)
    if context.fleet.is_active(key):
        empty_since.pop(key, None)
        return Result.NOTHING
    begin = resources.beginning(context, "delete")
    await context.fleet.change([Change(key, when_present(begin))])
    return await _delete(context, key)


async def _is_empty(context: Context, key: GroupKey) -> bool:
    group = await our_group(context, key)
    if group.target_size != 0:
        return False
    project = context.fleet.revision_of(key).template.project
    members = await context.compute.list_managed_instances(project, key.zone, group.name)
    return isinstance(members, CompleteListing) and not members.items


async def _delete(context: Context, key: GroupKey) -> Result:
    """Deletes a group whose deletion has begun; it continues when its zone is named again.

    Compute may have heard of the deletion, so that the group can no longer be used: what is found
    in it drains, and another group takes its place under another name.
    """
    manager = context.fleet.managers.get(key)
    if manager is None or manager.in_flight is None or not manager.is_deleting:
        return Result.NOTHING
    project = context.fleet.revision_of(key).template.project
    name = context.fleet.group_name(key)
    # A group that grew again since it was found empty is not deleted with what is in it.
    try:
        empty = await _is_empty(context, key)
    except NotFoundError:
        empty = True  # gone already: deleting it will say so
    except ReplacedResourceError:  # ours is gone, and the other one is not ours to delete
        await resources.forget(context, {key: manager.generation})
        return Result.CHANGED
    if not empty:
        return Result.WAITING
    compute, request_id = context.compute, manager.in_flight.request_id
    if not await resources.delete(
        context,
        key,
        lambda: compute.delete_group(project, key.zone, name, request_id=request_id),
        lambda: compute.get_group(project, key.zone, name),
        manager,
    ):
        return Result.WAITING
    context.memory.seen.empty_since.pop(key, None)
    context.memory.seen.groups.pop(key, None)
    context.log.info("group.deleted", template=key.base_name, zone=key.zone, name=name)
    return Result.CHANGED


def _concerns(context: Context, key: Key) -> bool:
    return isinstance(key, GroupKey) and resources.is_leaving(
        context, key, context.fleet.managers.get(key)
    )


JOB = Job(
    name="delete-instance-group-managers",
    run=run,
    timeout=120.0,
    wakes=("delete-instance-templates", "create-instance-group-managers", "cleanup-entities"),
    concerns=_concerns,
)
