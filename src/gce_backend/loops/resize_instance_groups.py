"""resize-instance-groups: no active group stays smaller than its minimum. It never lowers one.

Compute picks arbitrary victims when a group is lowered, so a resize is only sent for a size above
the target size that was read just before.
"""

from __future__ import annotations

from msgspec.structs import replace

from gce_backend.actions.fan_out import Result, act_on_each
from gce_backend.actions.resources import beside
from gce_backend.base.errors import OperationFailedError
from gce_backend.engine.context import Context
from gce_backend.engine.job import Job, Outcome
from gce_backend.fleet.picture import Apply, Change, when_present
from gce_backend.model.entities import InFlight, InstanceGroupManager
from gce_backend.model.keys import Key
from gce_backend.rules import compute_bodies
from gce_backend.rules.group_sizes import raised_size

PATIENCE = 600.0
"""Seconds after which a larger resize, of another process, is taken to be abandoned."""


async def run(context: Context) -> Outcome:
    """Raises what is too small, as far as the maximum leaves room beside other revisions."""
    if context.paused:
        return Outcome(facts={"paused": 1})
    keys = [
        key
        for key, manager in context.fleet.active_managers()
        if manager.url is not None and (manager.resize is not None or _missing(context, key))
    ]

    async def raise_one(key: Key) -> Result:
        return await _raise(context, key)

    return await act_on_each(context, keys, raise_one)


def _missing(context: Context, key: Key) -> bool:
    group = context.memory.seen.groups.get(key)
    return group is not None and _size(context, key, group.target_size) is not None


def _size(context: Context, key: Key, target_size: int) -> int | None:
    manager = context.fleet.managers[key]
    others = beside(context, key, manager)
    return None if others is None else raised_size(manager, target_size, others)


async def _raise(context: Context, key: Key) -> Result:
    project = context.fleet.revision_of(key).template.project
    name = compute_bodies.group_name_of(key)
    # Draining changes what is above the manager, so the guard on its own entity does not see it.
    await context.fleet.refresh(key.lineage)
    if not context.fleet.is_active(key):
        return Result.NOTHING
    if context.fleet.managers[key].in_flight is not None:
        return Result.WAITING  # what becomes of the group itself comes first
    group = await context.compute.get_group(project, key.name, name)
    size = _size(context, key, group.target_size)
    if size is None:
        # It may have been raised by a call whose answer was lost: then its VMs are on their way.
        settled = await context.fleet.change([Change(key, _settle)])
        return Result.CHANGED if settled else Result.NOTHING
    # The same size is asked for under the same id: a repeat of a call that was lost does nothing.
    await context.fleet.change([Change(key, _intend(context, size))])
    manager = context.fleet.managers.get(key)
    if manager is None or manager.resize is None or manager.resize.size != size:
        return Result.WAITING  # another process is about to raise it further
    # A size is absolute: one that was decided on an older look could lower the group by now.
    group = await context.compute.get_group(project, key.name, name)
    if group.target_size >= size:
        await context.fleet.change([Change(key, _settle)])
        return Result.CHANGED
    try:
        operation = await context.compute.resize_group(
            project, key.name, name, size, request_id=manager.resize.request_id
        )
        operation = await context.compute.await_operation(
            operation, timeout=context.settings.compute.operation_wait_seconds
        )
    except OperationFailedError:
        await context.fleet.change([Change(key, _renew(context, manager.resize.request_id))])
        raise
    if not operation.done:
        return Result.WAITING
    await context.fleet.change([Change(key, _settle)])
    context.log.info(
        "group.raised",
        template=key.base_name,
        zone=key.name,
        name=name,
        size=size,
        before=group.target_size,
    )
    return Result.CHANGED


def _intend(context: Context, size: int) -> Apply[InstanceGroupManager]:
    request_id, now = context.new_id(), context.clock.now()

    def apply(manager: InstanceGroupManager) -> InstanceGroupManager:
        other = manager.resize
        if other is not None and other.size == size:
            return manager
        if other is not None and (other.size or 0) > size and abs(now - other.started) < PATIENCE:
            return manager
        return replace(manager, resize=InFlight("resize", request_id, now, size))

    return when_present(apply)


def _renew(context: Context, failed: str) -> Apply[InstanceGroupManager]:
    """The group is to grow all the same; the next try has an id of its own."""
    request_id, now = context.new_id(), context.clock.now()

    def apply(manager: InstanceGroupManager) -> InstanceGroupManager:
        resize = manager.resize
        if resize is None or resize.request_id != failed:
            return manager
        return replace(manager, resize=replace(resize, request_id=request_id, started=now))

    return when_present(apply)


@when_present
def _settle(manager: InstanceGroupManager) -> InstanceGroupManager:
    return replace(manager, resize=None)


JOB = Job(name="resize-instance-groups", run=run, timeout=120.0, wakes=("fetch-instances",))
