"""resize-instance-groups: brings active groups to the size that they need.

A group grows by members whose names are chosen and stored before the call. Such a call only adds:
if Compute executes it late, or a second time, the names exist already. (A resize sets an absolute
size; executed late, it shrinks a group and deletes arbitrary members.)

A group that has had too many machines for long enough shrinks by idle ones, which are marked here
and then drain. No call makes a group smaller.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

from msgspec.structs import replace

from gce_backend.actions import resources
from gce_backend.actions.aging import replace_old
from gce_backend.actions.demand import share_demand
from gce_backend.actions.fan_out import OBSERVER, Result, act_on_each
from gce_backend.actions.identity import our_group
from gce_backend.actions.pools import spread_pools
from gce_backend.actions.prices import count_idle, learn_prices
from gce_backend.actions.resources import beside, pace, use_of
from gce_backend.actions.rollouts import limit_of
from gce_backend.actions.surplus import balance
from gce_backend.base.errors import AlreadyExistsError, OperationFailedError
from gce_backend.engine.context import Context
from gce_backend.engine.job import Job, Outcome
from gce_backend.fleet.picture import Change, when_present
from gce_backend.model.entities import InFlight, InstanceGroupManager
from gce_backend.model.keys import GroupKey, Key
from gce_backend.model.observed import Group
from gce_backend.rules.compute_bodies import base_instance_name_of
from gce_backend.rules.group_sizes import growth, new_member_names

MAX_NAMES = 500
"""Members of one createInstances call."""
TAKEN = "RESOURCE_ALREADY_EXISTS"
"""An operation's error: a VM has one of the names."""


async def run(context: Context) -> Outcome:
    """Grows groups that are too small, as far as the maximum leaves room."""
    if context.paused:
        return Outcome(facts={"paused": 1})
    await learn_prices(context)
    count_idle(context)
    settling = await share_demand(context)
    spreading = spread_pools(context)
    there = {key: it for key, it in context.fleet.active_managers() if it.url is not None}
    keys = [
        key
        for key, manager in there.items()
        if manager.resize is not None or _is_short(context, key)
    ]

    old = await replace_old(context)
    balanced = await balance(context) + old.number
    unseen: set[GroupKey] = set()
    outcome = await act_on_each(context, keys, partial(_raise, context, unseen))
    waits = (
        outcome.again_after,
        settling,
        spreading,
        old.wait,
        *(_pause(context, key) for key in there),
    )
    return replace(
        outcome,
        changed=outcome.changed + balanced,
        facts={**outcome.facts, **({"balanced": balanced} if balanced else {})},
        wakes=(*outcome.wakes, *([OBSERVER] if unseen else [])),
        again_after=min((wait for wait in waits if wait is not None), default=None),
    )


def _is_short(context: Context, key: GroupKey) -> bool:
    group = context.memory.seen.groups.get(key)
    return group is not None and bool(_missing(context, key, group.target_size))


def _pause(context: Context, key: GroupKey) -> float | None:
    """Seconds until a group that loses its VMs repeatedly may grow; None when it may now."""
    group = context.memory.seen.groups.get(key)
    if group is None or not _lacking(context, key, group.target_size):
        return None
    return pace(context, key).wait or None


def _missing(context: Context, key: GroupKey, target_size: int) -> int | None:
    """Members that a group may get now; None when it is not known how much room there is."""
    lacking = _lacking(context, key, target_size)
    return pace(context, key).limited(lacking) if lacking else lacking


def _lacking(context: Context, key: GroupKey, target_size: int) -> int | None:
    manager = context.fleet.managers[key]
    others = beside(context, key, manager)
    if others is None:
        return None
    more = growth(manager, target_size, others, use_of(context, key))
    limit = limit_of(context, key) if more else None
    return more if limit is None else min(more, max(0, limit.size - target_size))


async def _raise(context: Context, unseen: set[GroupKey], key: GroupKey) -> Result:
    # Draining changes what is above the manager, so the guard on its own entity does not see it.
    await context.fleet.refresh(key.lineage)
    if not context.fleet.is_active(key):
        return Result.NOTHING
    if context.fleet.managers[key].in_flight is not None:
        return Result.WAITING  # what becomes of the group itself comes first
    growth = before = context.fleet.managers[key].resize
    # What was seen is enough to intend a growth: the group is asked for before it is sent.
    seen = context.memory.seen.groups.get(key) if growth is None else None
    size = seen.target_size if seen is not None else await _target_size(context, key)
    missing = _missing(context, key, size)
    if missing is None:
        return Result.NOTHING
    if growth is not None:
        growth = await _judged(context, key, growth, missing)
    elif missing:
        growth = await _intend(context, key, None, _new_names(context, key, missing))
    if growth is None:
        return Result.CHANGED if before is not None else Result.NOTHING
    # Another process may have made the group grow meanwhile.
    still = _missing(context, key, await _target_size(context, key))
    if still is None or still < len(growth.names):
        return Result.WAITING
    try:
        return await _send(context, key, growth)
    finally:  # also without an answer: the group may have grown
        if not _is_shown(context, key, growth):
            unseen.add(key)


async def _judged(
    context: Context, key: GroupKey, growth: InFlight, missing: int
) -> InFlight | None:
    """The members of a growth still to request: neither present nor taken back."""
    members = await _members(context, key)
    open_names = tuple(name for name in growth.names if name not in members)[:missing]
    if open_names == growth.names and open_names:
        return growth  # the same names under the same id: a repeat of a call that was lost
    return await _intend(context, key, growth, open_names)


async def _send(context: Context, key: GroupKey, growth: InFlight) -> Result:
    fleet, seen = context.fleet, context.memory.seen.groups.get(key)
    project, name = fleet.revision_of(key).template.project, fleet.group_name(key)
    try:
        operation = await context.compute.create_instances(
            project, key.name, name, growth.names, request_id=growth.request_id
        )
        operation = await context.compute.await_operation(
            operation, timeout=context.settings.compute.operation_wait_seconds
        )
    except AlreadyExistsError:
        return await _collided(context, key, growth)
    except OperationFailedError as error:
        if TAKEN in error.codes:
            return await _collided(context, key, growth)
        # The group must still grow; the next try has its own id.
        await _intend(context, key, growth, growth.names)
        raise
    if not operation.done:
        if resources.is_overdue(context, key, growth.started):
            await _intend(context, key, growth, growth.names)  # anew, under another id
        return Result.WAITING
    _note_growth(context, key, seen, len(growth.names))
    await _intend(context, key, growth, ())
    context.log.info(
        "group.raised",
        template=key.base_name,
        zone=key.zone,
        name=name,
        machines=len(growth.names),
    )
    return Result.CHANGED


def _is_shown(context: Context, key: GroupKey, growth: InFlight) -> bool:
    """Whether a look has shown the new members; the next one comes by itself, until they run."""
    group = context.memory.seen.groups.get(key)
    return group is not None and group.members.keys() >= set(growth.names)


def _note_growth(context: Context, key: GroupKey, before: Group | None, count: int) -> None:
    """Counts members that Compute makes, before the next look at the group shows them.

    Args:
        before: the group as it was seen before the call; a look since then counts them already.
    """
    seen = context.memory.seen
    seen.grown[key] = context.clock.monotonic()
    if before is not None and seen.groups.get(key) is before:
        seen.groups[key] = replace(before, target_size=before.target_size + count)


async def _collided(context: Context, key: GroupKey, growth: InFlight) -> Result:
    """Some names are taken: by an earlier try whose answer was lost, or by other VMs."""
    members = await _members(context, key)
    open_names = tuple(name for name in growth.names if name not in members)
    if open_names == growth.names:
        open_names = _new_names(context, key, len(open_names))
    await _intend(context, key, growth, open_names)
    return Result.WAITING


async def _target_size(context: Context, key: GroupKey) -> int:
    return (await our_group(context, key)).target_size


async def _members(context: Context, key: GroupKey) -> Collection[str]:
    fleet = context.fleet
    project, name = fleet.revision_of(key).template.project, fleet.group_name(key)
    listing = await context.compute.list_managed_instances(project, key.name, name)
    return {member.instance.rpartition("/")[2] for member in listing.items}


def _new_names(context: Context, key: GroupKey, count: int) -> tuple[str, ...]:
    growth = context.fleet.managers[key].resize
    asked = growth.names if growth is not None else ()
    return new_member_names(
        base_instance_name_of(key),
        min(count, MAX_NAMES),
        lambda name: name in asked or key.child(name) in context.fleet.instances,
        context.rng,
    )


async def _intend(
    context: Context, key: GroupKey, before: InFlight | None, names: tuple[str, ...]
) -> InFlight | None:
    """Stores a growth by these names in place of the one before; returns the one in force."""
    growth = (
        InFlight("createInstances", context.new_id(), context.clock.now(), len(names), names)
        if names
        else None
    )

    def apply(manager: InstanceGroupManager) -> InstanceGroupManager:
        if manager.resize != before:
            return manager  # another process has decided meanwhile
        return replace(manager, resize=growth)

    await context.fleet.change([Change(key, when_present(apply))])
    manager = context.fleet.managers.get(key)
    return manager.resize if manager is not None else None


def _concerns(context: Context, key: Key) -> bool:
    manager = context.fleet.managers.get(key) if isinstance(key, GroupKey) else None
    if manager is None or not isinstance(key, GroupKey) or not context.fleet.is_active(key):
        return False
    return manager.url is not None and (manager.resize is not None or _is_short(context, key))


JOB = Job(
    name="resize-instance-groups",
    run=run,
    timeout=120.0,
    wakes=("remove-cataloged-instances", "delete-drained-instances"),
    concerns=_concerns,
)
